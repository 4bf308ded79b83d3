"""Every output over DDS: lazily built, late subscribers, rate limits, failures that stay among themselves."""

import dataclasses
import time

import numpy as np
import pytest
import rclpy
from nav_msgs.msg import OccupancyGrid as OccupancyMap
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_processes import OPTICAL, PATIENCE_S, own_domain
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros import outputs
from gsrender_ros.outputs import LATCHED, OccupancyOutputs
from gsrender_ros.parameters import Settings
from gsrender_ros.prediction import Prediction

GRID = VoxelGrid((0.0, 0.0, 0.0), 1.0, (2, 2, 1))
SETTINGS = Settings(cameras=("cam_front", "cam_back"), markers_max_rate_hz=1.0, debug_max_rate_hz=100.0, debug_shrink=1)


def prediction(stamp_ns: int) -> Prediction:
    """One voxel, a car, 0.5 m beside two cameras that look along x, 1 s and 2 s after each other."""
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[0, 0, 0] = 4
    T_ego_cam = transform(OPTICAL, (-2.0, 0.5, 0.5))
    K = np.array([[8.0, 0, 4], [0, 8, 2], [0, 0, 1]])
    images = np.full((2, 3, 4, 8), 100, np.uint8)
    frame = Frame(images, np.stack([K] * 2), np.stack([T_ego_cam] * 2), np.eye(4), stamp_ns, ("CAM_FRONT", "CAM_BACK"))
    grid = OccupancyGrid(semantics, None, GRID, stamp_ns)
    return Prediction(grid, frame, (stamp_ns, stamp_ns + 1), ("cam_front", "cam_back"))


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(8))
    node = Node("outputs", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def open_outputs(node):
    opened = []

    def open_one(settings=SETTINGS):
        opened.append(OccupancyOutputs(node, settings))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def spin_until(node):
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def spin(condition):
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, "timed out"
            executor.spin_once(timeout_sec=0.05)

    yield spin
    executor.shutdown()


def test_nothing_is_built_without_subscribers_and_late_ones_get_the_newest(node, open_outputs, spin_until, monkeypatch):
    built = []
    build_cloud = outputs.cloud_from_occupancy

    def counted(grid, frame_id):
        built.append(grid)
        return build_cloud(grid, frame_id)

    monkeypatch.setattr(outputs, "cloud_from_occupancy", counted)
    published = open_outputs()
    for stamp_ns in (1, 2, 3):
        published.publish(prediction(stamp_ns))
    assert built == [] and not published.published

    clouds, markers = [], []
    node.create_subscription(PointCloud2, "~/occupancy", clouds.append, LATCHED)
    node.create_subscription(MarkerArray, "~/occupancy/markers", markers.append, LATCHED)
    spin_until(lambda: clouds and markers)
    assert [cloud.header.stamp.nanosec for cloud in clouds] == [3] and len(built) == 1

    # markers are held back by their rate, the last one follows; clouds are not
    for stamp_ns in (4, 5, 6):
        published.publish(prediction(stamp_ns))
    spin_until(lambda: markers[-1].markers[1].header.stamp.nanosec == 6)
    assert len(markers) <= 3  # of four grids
    assert len(built) == 4

    published.clear()
    spin_until(lambda: len(markers[-1].markers) == 1)  # DELETEALL alone
    assert published.published["/outputs/occupancy"] == 4


def test_map_and_debug_images_arrive_as_what_they_are(node, open_outputs, spin_until):
    maps, colors, depths, infos = [], [], [], []
    published = open_outputs()
    node.create_subscription(OccupancyMap, "~/occupancy/map", maps.append, LATCHED)
    node.create_subscription(Image, "~/debug/cam_back/semantic", colors.append, LATCHED)
    node.create_subscription(Image, "~/debug/cam_back/depth", depths.append, LATCHED)
    node.create_subscription(CameraInfo, "~/debug/cam_back/camera_info", infos.append, LATCHED)
    published.publish(prediction(7))
    spin_until(lambda: maps and colors and depths and infos)
    assert (maps[0].header.frame_id, maps[0].header.stamp.nanosec) == ("base_link", 7)
    # The camera's own stamp and frame.
    for message in (colors[0], depths[0], infos[0]):
        assert (message.header.frame_id, message.header.stamp.nanosec) == ("cam_back", 8)
    assert (colors[0].encoding, depths[0].encoding) == ("rgb8", "32FC1")
    assert infos[0].k.tolist() == [8, 0, 4, 0, 8, 2, 0, 0, 1]
    depth = np.frombuffer(depths[0].data, np.float32).reshape(4, 8)
    color = np.frombuffer(colors[0].data, np.uint8).reshape(4, 8, 3)
    # The face of the voxel is 2 m ahead and 4 px wide and high around the image's centre.
    np.testing.assert_array_equal(depth[:, 2:6], np.full((4, 4), 2.0, np.float32))
    assert np.isnan(depth[:, :2]).all() and np.isnan(depth[:, 6:]).all()
    assert (color[:, 2:6] == CLASS_COLORS[4]).all() and not color[:, :2].any()
    assert set(published.published) == {
        "/outputs/occupancy/map", "/outputs/debug/cam_back/semantic", "/outputs/debug/cam_back/depth",
        "/outputs/debug/cam_back/camera_info",
    }  # fmt: skip


def test_a_camera_without_an_image_has_no_debug_image(node, open_outputs, spin_until):
    colors = {camera: [] for camera in SETTINGS.cameras}
    published = open_outputs()
    for camera, received in colors.items():
        node.create_subscription(Image, f"~/debug/{camera}/semantic", received.append, LATCHED)
    whole = prediction(1)
    one = dataclasses.replace(
        whole.frame,
        images=whole.frame.images[1:],
        Ks=whole.frame.Ks[1:],
        T_ego_cam=whole.frame.T_ego_cam[1:],
        camera_names=("CAM_BACK",),
    )
    published.publish(Prediction(whole.occupancy, one, (5,), ("cam_back",)))
    spin_until(lambda: colors["cam_back"])
    assert colors["cam_back"][0].header.stamp.nanosec == 5 and not colors["cam_front"]
    assert set(published.published) == {"/outputs/debug/cam_back/semantic"} and not published.failures


def test_a_message_that_cannot_be_built_is_counted_and_the_others_go_on(node, open_outputs, spin_until, monkeypatch):
    def broken(grid, frame_id):
        raise MemoryError("no room")

    monkeypatch.setattr(outputs, "cloud_from_occupancy", broken)
    published = open_outputs()
    clouds, maps = [], []
    node.create_subscription(PointCloud2, "~/occupancy", clouds.append, LATCHED)
    node.create_subscription(OccupancyMap, "~/occupancy/map", maps.append, LATCHED)
    published.publish(prediction(1))
    spin_until(lambda: len(maps) == 1 and published.failures["/outputs/occupancy"] == 1)
    published.publish(prediction(2))
    spin_until(lambda: len(maps) == 2)
    assert published.failures == {"/outputs/occupancy": 2} and not clouds


def test_a_map_of_unknown_classes_is_refused(node):
    with pytest.raises(ValueError, match="map.drivable_classes must name classes, got .'road'.*driveable_surface"):
        OccupancyOutputs(node, Settings(map_drivable_classes=("road",)))
    with pytest.raises(ValueError, match="map.min_z_m is 3, must be below map.max_z_m, 2.2"):
        OccupancyOutputs(node, Settings(map_min_z_m=3.0))
