"""Which voxels of a grid are occupied, in one pass over it that does not hold the interpreter's lock."""

import numba
import numpy as np

from gsrender_core.classes import FREE


def occupied_index(semantics: np.ndarray) -> np.ndarray:
    """Flat indices int32 [N] (x slowest) of the occupied voxels of uint8 [X, Y, Z]: ``np.flatnonzero(... != FREE)``."""
    flat = np.ascontiguousarray(semantics).reshape(-1)
    index = np.empty(len(flat) + 1, np.int32)  # one more: every voxel is written, only occupied ones stay
    return index[: _fill_index(flat, index)]


@numba.njit(nogil=True, cache=True)
def _fill_index(flat, index):
    n = 0
    for i in range(len(flat)):
        index[n] = i
        n += flat[i] != FREE  # a branch here would be guessed wrongly at every surface
    return n
