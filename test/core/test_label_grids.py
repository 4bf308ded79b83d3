import numpy as np
import pytest

from gsrender_core.data.occ3d_labels import OCC3D_GRID, Occ3DLabels, on_grid, origins_inside
from gsrender_core.voxel_grid import VoxelGrid

LAB = VoxelGrid((-12.8, -12.8, -1.0), 0.4, (64, 64, 16))


def labels() -> Occ3DLabels:
    rng = np.random.default_rng(3)
    return Occ3DLabels(*(rng.integers(0, high, OCC3D_GRID.shape, dtype=np.uint8) for high in (18, 2, 2)))


def test_labels_of_a_smaller_grid_are_those_at_the_same_points():
    whole = labels()
    for grid in (LAB, VoxelGrid((0.0, -4.0, -0.2), 0.4, (7, 5, 3))):
        cut = on_grid(whole, grid)
        assert cut.grid == grid and cut.semantics.shape == grid.shape
        index, inside = OCC3D_GRID.index_of(grid.centers_ego().reshape(-1, 3))
        assert inside.all()
        for name in ("semantics", "mask_lidar", "mask_camera"):
            expected = getattr(whole, name)[tuple(index.T)].reshape(grid.shape)
            np.testing.assert_array_equal(getattr(cut, name), expected)
    assert on_grid(whole, VoxelGrid()) is whole
    again = on_grid(on_grid(whole, LAB), VoxelGrid((-4.0, -4.0, -1.0), 0.4, (20, 20, 16)))
    np.testing.assert_array_equal(again.semantics, whole.semantics[90:110, 90:110])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (VoxelGrid((-12.8, -12.8, -1.0), 0.5, (64, 64, 16)), "0.5 m voxels .* is not aligned"),
        (VoxelGrid((-12.7, -12.8, -1.0), 0.4, (64, 64, 16)), "not aligned"),
        (VoxelGrid((-40.4, -12.8, -1.0), 0.4, (64, 64, 16)), "reaches outside"),
        (VoxelGrid((-12.8, -12.8, -1.0), 0.4, (64, 64, 17)), "reaches outside"),
    ],
)
def test_grids_that_labels_cannot_be_cut_to_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        on_grid(labels(), grid)


def test_ray_origins_stay_a_margin_inside():
    origins = np.array([[0.94, 0, 1.84], [11.7, 0, 1.8], [11.9, 0, 1.8], [-11.9, 0, 1.8], [0, 38.9, 1], [39.1, 0, 9]])
    np.testing.assert_array_equal(origins_inside(origins, LAB), origins[:2])
    np.testing.assert_array_equal(origins_inside(origins, OCC3D_GRID), origins[:5])  # SparseOcc's 39 m
    np.testing.assert_array_equal(origins_inside(origins, LAB, 0.5), origins[:4])
    ahead = VoxelGrid((4.0, -4.0, -1.0), 0.4, (20, 20, 16))
    np.testing.assert_array_equal(origins_inside(origins[[3, 0, 4]], ahead), origins[:1])  # the frame's own
    with pytest.raises(ValueError, match="at least one ray origin"):
        origins_inside(np.zeros((0, 3)), LAB)
