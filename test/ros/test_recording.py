"""Grids read back from clouds and recordings, and their scores in the frame of the ground truth."""

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gsrender_core.classes import FREE
from gsrender_core.data.occ3d_labels import OCC3D_GRID, Occ3DLabels
from gsrender_core.geometry import inverse, transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.conversions import CLOUD_DTYPE, cloud_from_occupancy
from gsrender_ros.recorded_scores import samples_by_stamp, score_grids, semantics_in
from gsrender_ros.recording import occupancy_from_cloud, read_recording

GRID = VoxelGrid((-3.0, 1.0, -1.0), 0.4, (7, 5, 3))


def random_grid(stamp_ns: int = 1_700_000_000_123_456_789) -> OccupancyGrid:
    rng = np.random.default_rng()
    semantics = rng.integers(0, FREE + 1, GRID.shape).astype(np.uint8)
    return OccupancyGrid(semantics, rng.random(GRID.shape, dtype=np.float32), GRID, stamp_ns)


def test_cloud_and_back():
    sent = random_grid()
    got = occupancy_from_cloud(cloud_from_occupancy(sent, "base_link"), GRID)
    assert np.array_equal(got.semantics, sent.semantics)
    assert np.array_equal(got.confidence, np.where(sent.semantics == FREE, 0, sent.confidence))
    assert (got.stamp_ns, got.grid) == (sent.stamp_ns, GRID)


def changed(change) -> object:
    message = cloud_from_occupancy(random_grid(), "base_link")
    points = np.frombuffer(bytes(message.data), CLOUD_DTYPE).copy()
    change(points)
    message.data = points.tobytes()
    return message


def test_clouds_that_are_no_grid():
    message = cloud_from_occupancy(random_grid(), "base_link")
    message.fields = [f for f in message.fields if f.name != "label"]
    with pytest.raises(ValueError, match="lacks the fields label"):
        occupancy_from_cloud(message, GRID)
    with pytest.raises(ValueError, match="no voxel centres"):
        occupancy_from_cloud(changed(lambda p: p["x"].__iadd__(0.1)), GRID)
    with pytest.raises(ValueError, match="no voxel centres"):  # whole voxels, but outside
        occupancy_from_cloud(changed(lambda p: p["z"].__iadd__(4.0)), GRID)
    with pytest.raises(ValueError, match="class id 17"):
        occupancy_from_cloud(changed(lambda p: p["label"].__setitem__(0, 17)), GRID)
    with pytest.raises(ValueError, match="1 voxels twice"):
        occupancy_from_cloud(changed(lambda p: p.__setitem__(1, p[0])), GRID)


def test_recording_gives_grids_by_stamp_and_the_last_diagnostics(tmp_path):
    grids, store = [random_grid(5), random_grid(8)], get_typestore(Stores.ROS2_HUMBLE)
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        clouds = writer.add_connection("/n/occupancy", "sensor_msgs/msg/PointCloud2", typestore=store)
        states = writer.add_connection("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", typestore=store)
        for at, grid in enumerate(grids):
            writer.write(clouds, at, serialize_message(cloud_from_occupancy(grid, "base_link")))
            ours = DiagnosticStatus(name="n: occupancy", message=f"{at} Hz", values=[KeyValue(key="a", value=str(at))])
            other = DiagnosticStatus(name="battery", values=[KeyValue(key="a", value="empty")])
            writer.write(states, at, serialize_message(DiagnosticArray(status=[ours, other])))
    recording = read_recording(tmp_path / "bag", GRID)
    assert list(recording.grids) == [5, 8]
    assert all(np.array_equal(recording.grids[g.stamp_ns].semantics, g.semantics) for g in grids)
    assert (recording.diagnostics, recording.message) == ({"a": "1"}, "1 Hz")
    assert recording.counts == {"/n/occupancy": 2, "/diagnostics": 2}
    with pytest.raises(ValueError, match="cannot be read"):
        read_recording(tmp_path / "none", GRID)


def test_the_same_world_from_another_ego_frame():
    occupancy = random_grid()
    same = semantics_in(occupancy, transform((1, 0, 0, 0), (0.19, -0.19, 0.0)))
    assert np.array_equal(same, occupancy.semantics)  # less than half a voxel: the nearest is the same
    # The wanted frame stands 0.4 m farther ahead: what it has at index i was at i + 1.
    ahead = semantics_in(occupancy, transform((1, 0, 0, 0), (0.4, 0.0, 0.0)))
    assert np.array_equal(ahead[:-1], occupancy.semantics[1:]) and (ahead[-1] == FREE).all()
    # Turned left by 90 degrees: what lies on its x axis lay on the grid's y axis.
    square = VoxelGrid((-2.0, -2.0, 0.0), 1.0, (4, 4, 1))
    semantics = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    turned = semantics_in(OccupancyGrid(semantics, None, square), transform((0.5**0.5, 0, 0, 0.5**0.5), (0, 0, 0)))
    assert np.array_equal(turned[:, :, 0], np.rot90(semantics[:, :, 0], -1))


class Recorded:
    """One sample: the LiDAR's stamp is 40 ms and 0.4 m behind the camera's; the truth is a street of blocks."""

    def __init__(self):
        rng = np.random.default_rng(3)
        blocks = rng.integers(0, FREE + 1, (50, 50, 4)).astype(np.uint8)
        self.semantics = np.kron(blocks, np.ones((4, 4, 4), np.uint8))
        mask = np.zeros(OCC3D_GRID.shape, np.uint8)
        mask[2:-2, 2:-2] = 1
        self.truth = Occ3DLabels(self.semantics, mask, mask)
        self.tokens, self.tables, turn = ("t",), self, (np.cos(0.4), 0, 0, np.sin(0.4))
        at_camera = transform(turn, (100.0, 50.0, 0.0))
        self.T_camera_lidar = transform((1, 0, 0, 0), (0.4, 0.0, 0.0))
        self.poses = {"CAM_FRONT": (7_000, at_camera), "LIDAR_TOP": (47_000, at_camera @ self.T_camera_lidar)}

    def indices_of(self, scene):
        return [0]

    def record(self, token, channel):
        stamp_ns, pose = self.poses[channel]
        return type("Record", (), {"stamp_ns": stamp_ns, "T_global_ego": pose})

    def ground_truth(self, i):
        return self.truth

    def ray_origins(self, i):
        return np.array([[0.0, 0.0, 1.8]])


def test_scores_are_those_in_the_frame_of_the_ground_truth():
    data = Recorded()
    samples = samples_by_stamp(data, "scene")
    assert samples == {7_000: 0}
    truth = OccupancyGrid(data.semantics, None, OCC3D_GRID)
    as_seen = OccupancyGrid(semantics_in(truth, inverse(data.T_camera_lidar)), None, OCC3D_GRID, 7_000)
    assert score_grids(data, {7_000: as_seen}, samples)["miou"] == pytest.approx(1)
    assert score_grids(data, {7_000: truth}, samples)["miou"] < 0.8
    assert score_grids(data, {47_000: as_seen}, samples) is None
    data.truth = None
    assert score_grids(data, {7_000: as_seen}, samples) is None
