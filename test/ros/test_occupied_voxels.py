import numpy as np
import pytest

from gsrender_core.classes import FREE
from gsrender_ros.occupied_voxels import occupied_index


def test_known_voxels():
    semantics = np.full((2, 3, 2), FREE, np.uint8)
    semantics[0, 0, 0], semantics[1, 2, 1], semantics[0, 2, 0] = 0, 16, 3
    assert occupied_index(semantics).tolist() == [0, 4, 11]


@pytest.mark.parametrize("fill", [0.0, 0.2, 1.0])
def test_equals_numpys(fill):
    rng = np.random.default_rng()  # both are exact: any input will do
    semantics = np.where(rng.random((9, 8, 7)) < fill, rng.integers(0, FREE, (9, 8, 7)), FREE).astype(np.uint8)
    for array in (semantics, semantics.T, semantics[::-1, ::2]):
        assert np.array_equal(occupied_index(array), np.flatnonzero(array != FREE))
