"""First hits by hand; the walk itself is compared with boxes in test_pictures, with a slow twin in test_lidar_rays."""

import numpy as np
import pytest

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_walk import first_hits

GRID = VoxelGrid((-4.0, -4.0, -1.0), 0.5, (16, 16, 8))


def empty() -> np.ndarray:
    return np.full(GRID.shape, FREE, np.uint8)


def test_first_hits_by_hand():
    semantics = empty()
    semantics[12, 8, 2], semantics[14, 8, 2] = 4, 7  # x in [2, 2.5) and [3, 3.5), y in [0, 0.5), z in [0, 0.5)
    origin = np.array([0.25, 0.25, 0.25])
    hits = first_hits(semantics, origin, np.array([[1.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]]), GRID)
    assert hits.labels.tolist() == [4, 4, FREE, FREE] and hits.hit.tolist() == [True, True, False, False]
    # The parameter counts in lengths of the direction.
    np.testing.assert_allclose(hits.enter, [1.75, 0.875, np.nan, np.nan])
    assert hits.voxels.tolist() == [(12 * 16 + 8) * 8 + 2] * 2 + [-1, -1]
    assert hits.labels.dtype == np.uint8


def test_first_hits_from_behind_from_outside_and_from_inside():
    semantics = empty()
    semantics[12, 8, 2] = 4
    origins = np.array([[9.0, 0.25, 0.25], [2.25, 0.25, 0.25], [9.0, 0.25, 0.25], [9.0, 9.0, 0.25]])
    directions = np.array([[-1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    hits = first_hits(semantics, origins, directions, GRID)
    assert hits.labels.tolist() == [4, 4, FREE, FREE]
    np.testing.assert_allclose(hits.enter, [6.5, 0, np.nan, np.nan])


def test_no_rays():
    assert first_hits(empty(), np.zeros(3), np.empty((0, 3)), GRID).labels.shape == (0,)


@pytest.mark.parametrize(
    "semantics, origin, direction, words",
    [
        (empty()[1:], [0.0, 0, 0], [[1.0, 0, 0]], "must be uint8"),
        (empty().astype(np.int64), [0.0, 0, 0], [[1.0, 0, 0]], "got int64"),
        (empty() + np.uint8(1), [0.0, 0, 0], [[1.0, 0, 0]], "highest id 18"),
        (empty(), [0.0, 0, 0], [1.0, 0, 0], "expected \\[N, 3\\]"),
        (empty(), [0.0, 0, 0], [[0.0, 0, 0]], "not zero"),
        (empty(), [0.0, np.nan, 0], [[1.0, 0, 0]], "finite"),
        (empty(), [0.0, 0, 0], [[np.inf, 0, 0]], "finite"),
    ],
)
def test_bad_input(semantics, origin, direction, words):
    with pytest.raises(ValueError, match=words):
        first_hits(semantics, np.array(origin), np.array(direction), GRID)
