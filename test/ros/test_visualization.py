import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from gsrender_core.classes import CLASS_COLORS, CLASS_NAMES, FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros import visualization
from gsrender_ros.visualization import (
    MarkerBuilder,
    cubes_by_class,
    marker_bytes_equal_objects,
    marker_bytes_from_occupancy,
    markers_from_occupancy,
)


class Log:
    def __init__(self):
        self.errors = []

    def error(self, text):
        self.errors.append(text)


def random_occupancy(seed: int, fill: float = 0.3) -> OccupancyGrid:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 9, 3))
    semantics = np.where(rng.random(shape) < fill, rng.integers(0, FREE, shape), FREE).astype(np.uint8)
    grid = VoxelGrid(tuple(rng.normal(size=3) * 10), float(rng.uniform(0.1, 2.0)), shape)
    return OccupancyGrid(semantics, rng.random(shape).astype(np.float32), grid, int(rng.integers(0, 2**60)))


def test_markers_of_two_known_voxels():
    semantics = np.full((2, 2, 1), FREE, np.uint8)
    semantics[1, 0, 0] = 4  # car
    semantics[0, 1, 0] = 11  # road
    occupancy = OccupancyGrid(semantics, None, VoxelGrid((-1.0, -1.0, 0.0), 1.0, (2, 2, 1)), 1_500_000_000_250_000_000)
    clear, car, road = markers_from_occupancy(occupancy, "base_link").markers
    assert clear.action == Marker.DELETEALL
    assert (car.ns, car.id, car.type, car.action) == ("car", 0, Marker.CUBE_LIST, Marker.ADD)
    assert [(p.x, p.y, p.z) for p in car.points] == [(0.5, -0.5, 0.5)]
    assert (car.scale.x, car.scale.y, car.scale.z) == (1.0, 1.0, 1.0)
    assert np.round(255 * np.array([car.color.r, car.color.g, car.color.b])).tolist() == CLASS_COLORS[4].tolist()
    assert (car.color.a, car.header.frame_id, car.pose.orientation.w) == (1.0, "base_link", 1.0)
    assert (car.header.stamp.sec, car.header.stamp.nanosec) == (1_500_000_000, 250_000_000)
    assert road.ns == "driveable_surface"
    assert [(p.x, p.y, p.z) for p in road.points] == [(-0.5, 0.5, 0.5)]


@pytest.mark.parametrize("fill", [0.0, 0.3, 1.0])
def test_cubes_are_the_grids_own_list_of_voxels_class_by_class(fill):
    occupancy = random_occupancy(7, fill)
    centers, labels, _ = occupancy.occupied()
    cubes = cubes_by_class(occupancy)
    assert [class_id for class_id, _ in cubes] == np.unique(labels).tolist()
    for class_id, of_class in cubes:
        assert np.array_equal(of_class.astype(np.float32), centers[labels == class_id])
    turned = OccupancyGrid(occupancy.semantics.T, None, VoxelGrid(shape=occupancy.semantics.T.shape))
    assert sum(len(of_class) for _, of_class in cubes_by_class(turned)) == len(labels)


@pytest.mark.parametrize("seed", range(12))
def test_bytes_are_those_of_the_message_objects(seed):
    occupancy = random_occupancy(seed, fill=(0.0, 0.02, 0.5, 1.0)[seed % 4])
    frame_id = ("base_link", "ego", "a/long/frame", "")[seed // 4]
    assert marker_bytes_equal_objects(occupancy, frame_id)
    theirs = serialize_message(markers_from_occupancy(occupancy, frame_id))
    ours = marker_bytes_from_occupancy(occupancy, frame_id)
    assert deserialize_message(ours, MarkerArray) == deserialize_message(theirs, MarkerArray)


def test_every_occupied_voxel_is_one_cube_of_its_class():
    occupancy = random_occupancy(99, fill=0.7)
    cubes = set()
    for marker in markers_from_occupancy(occupancy, "base_link").markers[1:]:
        cubes |= {(marker.ns, round(p.x, 5), round(p.y, 5), round(p.z, 5)) for p in marker.points}
    centers, labels, _ = occupancy.occupied()
    expected = set()
    for index in np.argwhere(occupancy.semantics != FREE):
        x, y, z = np.array(occupancy.grid.min_m) + (index + 0.5) * occupancy.grid.voxel_size_m
        expected.add((CLASS_NAMES[occupancy.semantics[tuple(index)]], round(x, 5), round(y, 5), round(z, 5)))
    assert cubes == expected
    assert len(expected) == len(centers) == len(labels)


def test_other_bytes_are_noticed_and_objects_take_over_loudly(monkeypatch):
    log = Log()
    builder = MarkerBuilder(log)
    occupancy = random_occupancy(5)
    assert builder.fast and not log.errors
    assert isinstance(builder(occupancy, "base_link"), bytes)

    right = visualization._write_marker

    def one_field_too_many(writer, *rest):
        right(writer, *rest)
        writer.boolean(False)

    monkeypatch.setattr(visualization, "_write_marker", one_field_too_many)
    fallback = MarkerBuilder(log)
    assert not fallback.fast and len(log.errors) == 1
    assert fallback(occupancy, "base_link") == markers_from_occupancy(occupancy, "base_link")
