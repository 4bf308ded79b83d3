"""Evaluation on data with Occ3D ground truth, with the controls that make a figure honest."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from gsrender_core.classes import FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import on_grid, origins_inside
from gsrender_core.metrics.miou import MeanIoU
from gsrender_core.metrics.ray_iou import RayHits, RayIoU, cast_rays
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.voxel_grid import VoxelGrid

logger = logging.getLogger(__name__)


class Scores:
    """mIoU (inside the camera mask) and RayIoU of a stream of predictions."""

    def __init__(self, grid=None):
        self.voxels, self.rays, self.samples = MeanIoU(), RayIoU(grid), 0

    def update(self, semantics: np.ndarray, truth, origins: np.ndarray, truth_hits: RayHits | None = None) -> None:
        """Add a prediction uint8 [X, Y, Z] against ``Occ3DLabels``; ``truth_hits`` saves casting the truth again."""
        self.voxels.update(semantics, truth.semantics, truth.mask_camera)
        if truth_hits is None:
            self.rays.update(semantics, truth.semantics, origins)
        else:
            self.rays.update_hits(cast_rays(semantics, origins, self.rays.grid), truth_hits)
        self.samples += 1

    def result(self) -> dict:
        """The keys of both metrics and ``samples``; NaN where nothing was counted."""
        return {**self.voxels.result(), **self.rays.result(), "samples": self.samples}


@torch.inference_mode()
def sweep_tau(model: GSRender, dataset, indices: Sequence[int], taus: Sequence[float]) -> dict[float, dict]:
    """Metrics at every opacity threshold, from one forward pass a frame; empty where there is no ground truth."""
    device = model.centers.device
    scores = {tau: Scores(model.config.grid) for tau in taus}
    for i in indices:
        truth = dataset.ground_truth(i)
        if truth is None:
            continue
        truth = on_grid(truth, model.config.grid)
        P = model(CameraInput.from_frames([dataset.frame(i, labels=False)], device))[0]
        opacity, logits = model.opacity_and_logits(P)
        opacity, best = torch.sigmoid(opacity).cpu().numpy(), logits.argmax(-1).to(torch.uint8).cpu().numpy()
        origins = origins_inside(dataset.ray_origins(i), model.config.grid)
        truth_hits = cast_rays(truth.semantics, origins, model.config.grid)
        for tau, score in scores.items():
            score.update(np.where(opacity >= tau, best, np.uint8(FREE)), truth, origins, truth_hits)
    if not any(score.samples for score in scores.values()):
        return {}
    return {tau: score.result() for tau, score in scores.items()}


def constant_images(frame: Frame) -> Frame:
    """The frame with every pixel of every image mid-grey: what is left is the prior."""
    return dataclasses.replace(frame, images=np.full_like(frame.images, 127))


def grey_images(frame: Frame) -> Frame:
    """The frame without colour: luminance in all three channels."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32).reshape(1, 3, 1, 1)
    grey = (frame.images * weights).sum(axis=1, keepdims=True).round().astype(np.uint8)
    return dataclasses.replace(frame, images=np.repeat(grey, 3, axis=1))


def majority_grid(dataset, indices: Iterable[int], grid: VoxelGrid | None = None) -> np.ndarray:
    """The best prediction that looks at no image: each voxel's most frequent label, uint8 [X, Y, Z].

    Counted where a camera sees the voxel; never-seen voxels are free. ``grid``: cut the labels to it; default whole.

    Raises:
        ValueError: no ground truth in the data.
    """
    counts = None
    for i in indices:
        truth = dataset.ground_truth(i)
        if truth is None:
            continue
        truth = truth if grid is None else on_grid(truth, grid)
        if counts is None:
            counts = np.zeros((truth.semantics.size, FREE + 1), dtype=np.int32)
        seen = np.flatnonzero(truth.mask_camera)
        counts[seen, truth.semantics.reshape(-1)[seen]] += 1
        shape = truth.semantics.shape
    if counts is None:
        raise ValueError("the majority control needs ground truth (gts/) in its training data; none was found")
    majority = counts.argmax(axis=1)
    majority[counts.sum(axis=1) == 0] = FREE
    return majority.astype(np.uint8).reshape(shape)


def evaluate(
    predictor: Predictor,
    dataset,
    majority: np.ndarray | None = None,
    controls: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Score a predictor on every sample that has ground truth.

    Args:
        predictor: the network.
        dataset: as ``data.nuscenes.NuScenes``, read at the predictor's image size.
        majority: ``majority_grid`` of the training scenes on the predictor's grid, scored beside.
        controls: also score constant and grey images and the ground truth cut to visible voxels.
        progress: called with (done, total).

    Returns:
        the prediction's metrics, and under ``controls`` those of each control.

    Raises:
        ValueError: no sample has ground truth.
    """
    names = ["prediction"]
    if controls:
        names += ["constant_image", "grey_image", "visible_truth"]
    if majority is not None:
        names.append("majority")
    scores = {name: Scores(predictor.grid) for name in names}
    for i in range(len(dataset)):
        truth = dataset.ground_truth(i)
        if truth is not None:
            truth = on_grid(truth, predictor.grid)
            frame = dataset.frame(i, labels=False)
            grids = {"prediction": predictor(frame).semantics}
            if controls:
                grids["constant_image"] = predictor(constant_images(frame)).semantics
                grids["grey_image"] = predictor(grey_images(frame)).semantics
                grids["visible_truth"] = np.where(truth.mask_camera > 0, truth.semantics, np.uint8(FREE))
            if majority is not None:
                grids["majority"] = majority
            origins = origins_inside(dataset.ray_origins(i), predictor.grid)
            truth_hits = cast_rays(truth.semantics, origins, predictor.grid)
            for name, semantics in grids.items():
                scores[name].update(semantics, truth, origins, truth_hits)
        if progress:
            progress(i + 1, len(dataset))
    if scores["prediction"].samples == 0:
        raise ValueError(f"{getattr(dataset, 'root', 'the data')} has no ground truth (gts/): use `gsrender predict`")
    results = {name: score.result() for name, score in scores.items()}
    return {
        **results.pop("prediction"),
        "tau": predictor.tau,
        "controls": results,
    }
