"""Evaluation without 3D labels: a predictor's grids against what the LiDARs measured, with controls."""

import logging
from collections.abc import Callable

import numpy as np

from gsrender_core.classes import FREE, IGNORE, NUM_CLASSES, class_id
from gsrender_core.data.frame import previous_frames
from gsrender_core.evaluate import constant_images, grey_images
from gsrender_core.metrics.lidar_rays import LidarRayAgreement
from gsrender_core.predictor import Predictor
from gsrender_core.voxel_grid import VoxelGrid

logger = logging.getLogger(__name__)


def grid_of_returns(points_ego: np.ndarray, classes: np.ndarray | None, grid: VoxelGrid) -> np.ndarray:
    """The grid uint8 [X, Y, Z] in which the voxels of a sweep's returns are occupied and all else is free.

    A voxel has the most frequent class of its returns, ``others`` where none has one.
    """
    index, inside = grid.index_of(points_ego)
    flat = np.ravel_multi_index(tuple(index[inside].T), grid.shape)
    semantics = np.full(grid.size, FREE, np.uint8)
    semantics[flat] = class_id("others")
    if classes is not None:
        known = classes[inside] != IGNORE
        pairs, counts = np.unique(flat[known] * NUM_CLASSES + classes[inside][known], return_counts=True)
        order = np.argsort(counts, kind="stable")  # the most frequent is written last
        semantics[pairs[order] // NUM_CLASSES] = (pairs[order] % NUM_CLASSES).astype(np.uint8)
    return semantics.reshape(grid.shape)


def evaluate_on_returns(
    predictor: Predictor,
    dataset,
    controls: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Score a predictor on every frame by the frame's own LiDAR rays.

    Args:
        predictor: the network.
        dataset: with ``lidar_returns(i)``, as ``data.nuscenes.NuScenes``, read at the predictor's image size.
        controls: also score constant and grey images, a full and an empty grid, and the returns' own voxels.
        progress: called with (done, total).

    Returns:
        ``LidarRayAgreement.result`` of the prediction, ``frames``, ``skipped`` (frames that could not be read), and
        under ``controls`` that of each control.

    Raises:
        ValueError: no frame could be read.
    """
    names = ["prediction"]
    if controls:
        names += ["constant_image", "grey_image", "all_occupied", "all_free", "returns"]
    agreements = {name: LidarRayAgreement(predictor.grid) for name in names}
    frames = skipped = 0
    for i in range(len(dataset)):
        try:
            frame = dataset.frame(i, labels=False)
            previous = tuple(previous_frames(dataset, i, predictor.frames_before))
            origins, points, classes = dataset.lidar_returns(i)
        except (ValueError, OSError) as error:
            skipped += 1
            logger.warning("frame %d is left out: %s", i, error)
            if progress:
                progress(i + 1, len(dataset))
            continue
        frames += 1
        grids = {"prediction": predictor(frame, previous=previous).semantics}
        if controls:
            for name, change in (("constant_image", constant_images), ("grey_image", grey_images)):
                seen = predictor(change(frame), previous=tuple(map(change, previous)))
                grids[name] = seen.semantics
            shape = grids["prediction"].shape
            grids["all_occupied"] = np.full(shape, class_id("others"), np.uint8)
            grids["all_free"] = np.full(shape, FREE, np.uint8)
            grids["returns"] = grid_of_returns(points, classes, predictor.grid)
        for name, semantics in grids.items():
            agreements[name].update(semantics, origins, points, classes)
        if progress:
            progress(i + 1, len(dataset))
    if frames == 0:
        raise ValueError(f"none of {len(dataset)} frames of {getattr(dataset, 'root', 'the data')} could be read")
    results = {name: agreement.result() for name, agreement in agreements.items()}
    return {
        **results.pop("prediction"),
        "frames": frames,
        "skipped": skipped,
        "tau": predictor.tau,
        "readout": predictor.model.config.readout,
        "controls": results,
    }
