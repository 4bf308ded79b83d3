import numpy as np
import pytest

from gsrender_core.classes import CLASS_NAMES, FLAT_IDS, FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.occupancy_projection import MapBand, cells_of_map, cells_of_map_slowly, map_from_occupancy

# Layers centred at z = -0.8, -0.4, 0, 0.4, 0.8, 1.2 m.
GRID = VoxelGrid((-3.0, 5.0, -1.0), 0.4, (3, 4, 6))
BAND = MapBand(0.2, 1.0, ("driveable_surface",))  # layers 3 and 4
ROAD, SIDEWALK, CAR, TREE = (CLASS_NAMES.index(n) for n in ("driveable_surface", "sidewalk", "car", "vegetation"))


def columns(*contents: dict[int, int]) -> np.ndarray:
    """Semantics of a row of columns along x, each {layer: class}."""
    semantics = np.full(GRID.shape, FREE, np.uint8)
    for x, content in enumerate(contents):
        for layer, class_id in content.items():
            semantics[x, 0, layer] = class_id
    return semantics


@pytest.mark.parametrize(
    ("content", "cell"),
    [
        ({}, -1),  # nothing known
        ({2: ROAD}, 0),
        ({0: ROAD}, 0),  # below the band, wherever
        ({2: ROAD, 3: CAR}, 100),
        ({2: ROAD, 5: TREE}, 0),  # above the band: branches over the road
        ({5: TREE}, -1),
        ({2: CAR}, -1),  # an obstacle below the band is none, nor is it ground
        ({3: ROAD}, 0),  # the road climbs into the band
        ({2: ROAD, 4: ROAD}, 0),
        ({5: ROAD}, -1),  # a bridge above the band
        ({2: SIDEWALK}, 100),  # ground, and not drivable
        ({2: SIDEWALK, 1: ROAD}, 0),
        ({3: SIDEWALK, 1: ROAD}, 100),
        ({3: CAR}, 100),
    ],
)
def test_a_column_by_hand(content, cell):
    assert cells_of_map(columns(content), GRID, BAND)[0, 0] == cell


def test_what_is_drivable_is_a_choice():
    feet = MapBand(0.2, 1.0, ("driveable_surface", "sidewalk"))
    assert cells_of_map(columns({2: SIDEWALK}, {3: CAR, 2: SIDEWALK}), GRID, feet)[:2, 0].tolist() == [0, 100]


def test_the_band_takes_layers_by_their_centres():
    assert BAND.layers(GRID) == slice(3, 5)
    assert MapBand(0.4, 0.4001, ("car",)).layers(GRID) == slice(3, 4)
    assert MapBand(0.5, 0.6, ("car",)).layers(GRID) == slice(0, 0)
    assert MapBand(-9.0, 9.0, ("car",)).layers(GRID) == slice(0, 6)
    # A band beyond the grid knows nothing.
    assert (cells_of_map(columns({2: ROAD}), GRID, MapBand(8.0, 9.0, ("car",))) == -1).all()


def test_the_message_lies_where_its_voxels_lie():
    semantics = np.full(GRID.shape, FREE, np.uint8)
    semantics[2, 1, 3] = CAR
    semantics[0, 3, 2] = ROAD
    message = map_from_occupancy(OccupancyGrid(semantics, None, GRID, 3_000_000_004), "ego", BAND)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (3, 4, "ego")
    info = message.info
    assert (info.width, info.height) == (3, 4) and info.resolution == pytest.approx(0.4)
    assert (info.origin.position.x, info.origin.position.y, info.origin.position.z) == (-3.0, 5.0, 0.0)
    assert (info.origin.orientation.w, info.origin.orientation.z) == (1.0, 0.0)
    # Row-major, x fastest: cell (x, y) at y * width + x, its centre at origin + (x + 0.5, y + 0.5) * resolution.
    data = list(message.data)
    assert len(data) == 12 and data[1 * 3 + 2] == 100 and data[3 * 3 + 0] == 0 and data.count(-1) == 10
    center = GRID.centers_ego()[2, 1, 3]
    assert center[0] == pytest.approx(info.origin.position.x + 2.5 * info.resolution)
    assert center[1] == pytest.approx(info.origin.position.y + 1.5 * info.resolution)


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_columns(seed):
    rng = np.random.default_rng(seed)
    grid = VoxelGrid((-2.0, -2.0, -1.0), 0.4, (6, 7, 8))
    semantics = np.where(rng.random(grid.shape) < 0.15, rng.integers(0, 17, grid.shape), FREE).astype(np.uint8)
    semantics[rng.random(grid.shape) < 0.1] = ROAD
    band = MapBand(*sorted(rng.uniform(-1, 2.2, 2)), ("driveable_surface", "terrain"))
    z = grid.centers_ego()[0, 0, :, 2]
    drivable = {CLASS_NAMES.index(name) for name in band.drivable}
    expected = np.empty(grid.shape[:2], np.int8)
    for x in range(6):
        for y in range(7):
            below = [c for c, height in zip(semantics[x, y], z, strict=True) if height <= band.max_z_m]
            inside = [c for c, height in zip(semantics[x, y], z, strict=True) if band.min_z_m <= height <= band.max_z_m]
            if any(c not in drivable and c != FREE for c in inside):
                expected[x, y] = 100
            elif any(c in drivable for c in below):
                expected[x, y] = 0
            else:
                expected[x, y] = 100 if any(c in FLAT_IDS for c in below) else -1
    if not any(band.min_z_m <= height <= band.max_z_m for height in z):
        expected[:] = -1
    np.testing.assert_array_equal(cells_of_map_slowly(semantics, grid, band), expected)
    np.testing.assert_array_equal(cells_of_map(semantics, grid, band), expected)


def test_the_kernel_equals_its_reference_on_a_full_sized_grid():
    rng = np.random.default_rng()  # both are exact: any input will do
    grid = VoxelGrid()
    semantics = np.where(rng.random(grid.shape) < 0.1, rng.integers(0, 17, grid.shape), FREE).astype(np.uint8)
    band = MapBand(0.2, 2.2, ("driveable_surface", "terrain"))
    cells = cells_of_map(semantics[::-1], grid, band)  # not contiguous
    np.testing.assert_array_equal(cells, cells_of_map_slowly(semantics[::-1], grid, band))
    assert set(np.unique(cells)) == {-1, 0, 100}
