"""Occ3D-nuScenes' voxel labels of one keyframe."""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import VoxelGrid

OCC3D_GRID = VoxelGrid()
# What numpy and zipfile raise on damaged archives, by where the damage sits.
_UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class Occ3DLabels:
    """Ground truth of one keyframe, ego frame at the LiDAR stamp, arrays [X, Y, Z] = [200, 200, 16].

    Attributes:
        semantics: uint8, class id of each voxel, 17 (free) where nothing is.
        mask_lidar: uint8, 1 where the LiDAR observed the voxel.
        mask_camera: uint8, 1 where some camera observed it.
    """

    semantics: np.ndarray
    mask_lidar: np.ndarray
    mask_camera: np.ndarray


def read_npz_arrays(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read the plain arrays of an npz; pickled objects are refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an npz, cut off, pickled, or a required array is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive, or cut off")
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("it is a single npy array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        raise ValueError(
            f"{path} is not a readable npz of plain arrays: {error}. Write it again with np.savez_compressed."
        ) from error
    missing = [name for name in required if name not in arrays]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    return arrays


def check_semantics(semantics: np.ndarray, source: str, shape: tuple[int, int, int] = OCC3D_GRID.shape) -> None:
    """Check a semantic grid: uint8 of ``shape``, ids 0..17.

    Raises:
        ValueError: naming ``source``, what it has and what is wanted.
    """
    if semantics.shape != tuple(shape):
        raise ValueError(f"{source} has shape {semantics.shape}, expected {tuple(shape)} indexed [x, y, z]")
    if semantics.dtype != np.uint8:
        raise ValueError(f"{source} has dtype {semantics.dtype}, expected uint8; cast it with .astype(np.uint8)")
    highest = int(semantics.max(initial=0))
    if highest > FREE:
        raise ValueError(f"{source} holds class id {highest}; ids are 0..{FREE - 1}, and {FREE} for free")


def check_mask(mask: np.ndarray, source: str, shape: tuple[int, int, int] = OCC3D_GRID.shape) -> None:
    """Check an observation mask: uint8 or bool of ``shape``, values 0 and 1.

    Raises:
        ValueError: naming ``source``, what it has and what is wanted.
    """
    if mask.shape != tuple(shape):
        raise ValueError(f"{source} has shape {mask.shape}, expected {tuple(shape)} indexed [x, y, z]")
    if mask.dtype not in (np.uint8, np.bool_):
        raise ValueError(f"{source} has dtype {mask.dtype}, expected uint8 with values 0 and 1")
    if mask.dtype == np.uint8 and mask.max(initial=0) > 1:
        raise ValueError(f"{source} holds value {int(mask.max())}, expected only 0 and 1")


def read_occ3d_labels(path: Path) -> Occ3DLabels:
    """Read ``labels.npz`` of one keyframe.

    Raises:
        FileNotFoundError, ValueError: no such file; wrong arrays, shapes, dtypes or ids.
    """
    arrays = read_npz_arrays(path, ("semantics", "mask_lidar", "mask_camera"))
    check_semantics(arrays["semantics"], f"{path}: semantics")
    for name in ("mask_lidar", "mask_camera"):
        check_mask(arrays[name], f"{path}: {name}")
    return Occ3DLabels(arrays["semantics"], arrays["mask_lidar"], arrays["mask_camera"])
