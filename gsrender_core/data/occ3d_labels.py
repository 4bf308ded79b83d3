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
    """Ground truth of one keyframe, ego frame at the LiDAR stamp, arrays [X, Y, Z]; files hold [200, 200, 16].

    Attributes:
        semantics: uint8, class id of each voxel, 17 (free) where nothing is.
        mask_lidar: uint8, 1 where the LiDAR observed the voxel.
        mask_camera: uint8, 1 where some camera observed it.
        grid: the volume the arrays lie on.
    """

    semantics: np.ndarray
    mask_lidar: np.ndarray
    mask_camera: np.ndarray
    grid: VoxelGrid = OCC3D_GRID


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


def on_grid(labels: Occ3DLabels, grid: VoxelGrid) -> Occ3DLabels:
    """The labels cropped to a smaller grid whose voxels coincide with theirs; the labels themselves for their own grid.

    Args:
        labels: on a grid, usually Occ3D's.
        grid: same voxel size, shifted by whole voxels, inside the labels' grid.

    Raises:
        ValueError: the grids are not aligned, or ``grid`` reaches outside.
    """
    have = labels.grid
    if labels.semantics.shape != tuple(have.shape):
        raise ValueError(f"labels of shape {labels.semantics.shape} are said to lie on a grid of {tuple(have.shape)}")
    if grid == have:
        return labels
    advice = "ground truth is cropped, never resampled: take model.grid from whole voxels of the labels' grid"
    offset = (np.array(grid.min_m) - np.array(have.min_m)) / have.voxel_size_m
    first = np.round(offset).astype(np.int64)
    if abs(grid.voxel_size_m - have.voxel_size_m) > 1e-6 or np.abs(offset - first).max() > 1e-3:
        raise ValueError(
            f"the grid ({grid.voxel_size_m} m voxels from {grid.min_m}) is not aligned with the labels' "
            f"({have.voxel_size_m} m from {have.min_m}); {advice}, or evaluate without ground truth"
        )
    last = first + np.array(grid.shape)
    if (first < 0).any() or (last > np.array(have.shape)).any():
        raise ValueError(
            f"the grid {grid.min_m} .. {grid.max_m} m reaches outside the labels' {have.min_m} .. {have.max_m} m; "
            f"{advice}"
        )
    box = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    return Occ3DLabels(labels.semantics[box], labels.mask_lidar[box], labels.mask_camera[box], grid)


def origins_inside(origins: np.ndarray, grid: VoxelGrid, margin_m: float = 1.0) -> np.ndarray:
    """RayIoU origins [n, 3] (ego, m) whose x and y lie more than ``margin_m`` inside the grid's borders.

    SparseOcc's |x|, |y| < 39 m for Occ3D's 40 m. Where none does, the one nearest to the ego origin (the frame's own
    LiDAR) remains.

    Raises:
        ValueError: no origins.
    """
    if len(origins) == 0:
        raise ValueError("RayIoU needs at least one ray origin, got none")
    low, high = np.array(grid.min_m[:2]) + margin_m, np.array(grid.max_m[:2]) - margin_m
    inside = ((origins[:, :2] > low) & (origins[:, :2] < high)).all(axis=1)
    if not inside.any():
        inside[np.argmin(np.linalg.norm(origins[:, :2], axis=1))] = True
    return origins[inside]
