"""Hashes and value noise for procedural textures, deterministic and free of state (numba)."""

import logging
import math
from pathlib import Path

from numba import njit

logger = logging.getLogger(__name__)


def drop_stale_kernels(folder: Path) -> None:
    """Delete cached kernels older than the newest source in ``folder``.

    numba checks only the file a kernel stands in, not those of the kernels compiled into it.
    """
    newest = max(source.stat().st_mtime for source in folder.glob("*.py"))
    for index in (folder / "__pycache__").glob("*.nbi"):
        try:
            if index.stat().st_mtime < newest:
                index.unlink()
        except OSError as error:  # another process was faster, or the folder is read-only
            logger.warning("stale kernel cache %s stays: %s", index, error)


drop_stale_kernels(Path(__file__).parent)

# Without reference counts (_nrt): kernels pass tuples of arrays to each other for every pixel, and counting them in
# and out took half of the rendering time. So kernels allocate nothing: callers pass in the arrays to fill.
# Division by zero gives inf instead of raising, and sums may be reordered: both make the kernels faster.
_OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": True, "_nrt": False}
kernel = njit(**_OPTIONS)
inlined = njit(**_OPTIONS, inline="always")


@inlined
def hash01(ix, iy, iz, seed):
    """Uniform number in [0, 1) of three lattice indices and a seed."""
    h = (ix * 374761393 + iy * 668265263 + iz * 1440662683 + seed * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    return (h ^ (h >> 16)) / 4294967296.0


@kernel
def noise2(x, y, seed):
    """Smooth value noise in [0, 1) over the plane, lattice period 1."""
    fx = math.floor(x)
    fy = math.floor(y)
    ix = int(fx)
    iy = int(fy)
    u = x - fx
    v = y - fy
    u = u * u * (3 - 2 * u)
    v = v * v * (3 - 2 * v)
    a = hash01(ix, iy, 0, seed)
    b = hash01(ix + 1, iy, 0, seed)
    c = hash01(ix, iy + 1, 0, seed)
    d = hash01(ix + 1, iy + 1, 0, seed)
    return (a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v


@kernel
def noise3(x, y, z, seed):
    """Smooth value noise in [0, 1) over space, lattice period 1."""
    fz = math.floor(z)
    iz = int(fz)
    w = z - fz
    w = w * w * (3 - 2 * w)
    return noise2(x, y, seed + 7919 * iz) * (1 - w) + noise2(x, y, seed + 7919 * (iz + 1)) * w


@inlined
def visible_share(period, footprint):
    """How much of a texture of this period survives a pixel of this footprint (both metres), 0 to 1."""
    if footprint <= 0.25 * period:
        return 1.0
    if footprint >= period:
        return 0.0
    return (period - footprint) / (0.75 * period)
