"""Recorded grids against ground truth.

The node's grids lie in the ego frame at the reference camera's stamp, Occ3D's labels in that at the LiDAR's, some
tens of milliseconds later. A grid is brought there with the known poses by nearest voxel, which moves nothing by
more than half a voxel.
"""

import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.data.nuscenes_tables import LIDAR_CHANNEL
from gsrender_core.data.occ3d_labels import OCC3D_GRID
from gsrender_core.evaluate import Scores
from gsrender_core.geometry import apply, inverse
from gsrender_core.voxel_grid import OccupancyGrid

REFERENCE_CHANNEL = "CAM_FRONT"


def semantics_in(occupancy: OccupancyGrid, T_grid_wanted: np.ndarray) -> np.ndarray:
    """Semantics uint8 [X, Y, Z] of a grid as seen from another ego frame: nearest voxel, free where unknown.

    Args:
        occupancy: the grid.
        T_grid_wanted: maps points of the wanted ego frame to the grid's, float64 [4, 4], metres.
    """
    grid = occupancy.grid
    centers = grid.centers_ego().reshape(-1, 3).astype(np.float64)
    index, inside = grid.index_of(apply(T_grid_wanted, centers))
    semantics = np.full(grid.size, FREE, dtype=np.uint8)
    semantics[inside] = occupancy.semantics[tuple(index[inside].T)]
    return semantics.reshape(grid.shape)


def samples_by_stamp(dataset: NuScenes, scene: str) -> dict[int, int]:
    """Index of a scene's samples by the stamp of their reference camera, ns."""
    found = {}
    for i in dataset.indices_of(scene):
        record = dataset.tables.record(dataset.tokens[i], REFERENCE_CHANNEL)
        found[record.stamp_ns] = i
    return found


def score_grids(dataset: NuScenes, grids: dict[int, OccupancyGrid], samples: dict[int, int]) -> dict | None:
    """mIoU and RayIoU of grids by stamp, of those that belong to a sample with ground truth.

    Args:
        dataset: the data that was played.
        grids: what was recorded.
        samples: ``samples_by_stamp``.

    Returns:
        keys of ``Scores.result``, or None where no grid has ground truth (or the volume is not Occ3D's).
    """
    scores = Scores(OCC3D_GRID)
    for stamp_ns, occupancy in grids.items():
        if stamp_ns not in samples or occupancy.grid != OCC3D_GRID:
            continue
        i = samples[stamp_ns]
        truth = dataset.ground_truth(i)
        if truth is None:
            continue
        token = dataset.tokens[i]
        camera, lidar = (dataset.tables.record(token, c) for c in (REFERENCE_CHANNEL, LIDAR_CHANNEL))
        T_camera_lidar = inverse(camera.T_global_ego) @ lidar.T_global_ego  # ego to ego, not the sensors
        scores.update(semantics_in(occupancy, T_camera_lidar), truth, dataset.ray_origins(i))
    return scores.result() if scores.samples else None
