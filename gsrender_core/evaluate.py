"""Evaluation on data with Occ3D ground truth, with the controls that make a figure honest."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gsrender_core.classes import FREE
from gsrender_core.config import ModelConfig
from gsrender_core.data.frame import Frame, previous_frames
from gsrender_core.data.occ3d_labels import Occ3DLabels, on_grid, origins_inside
from gsrender_core.metrics.duplicates import CameraRays, Duplicates, camera_rays
from gsrender_core.metrics.miou import MeanIoU, without_nan
from gsrender_core.metrics.ray_iou import RayHits, RayIoU, cast_rays
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.voxel_grid import VoxelGrid

logger = logging.getLogger(__name__)

# Networks that only rendered pixels supervise fill most of the space up to high thresholds: without these, their
# curves would not reach the truth's occupancy.
HIGH_TAUS = (0.9, 0.95, 0.98)


class Scores:
    """mIoU (inside the camera mask), RayIoU, duplicates and occupancy of a stream of predictions."""

    def __init__(self, grid: VoxelGrid | None = None):
        self.voxels, self.rays, self.duplicates, self.samples = MeanIoU(), RayIoU(grid), Duplicates(grid), 0
        self.occupied = self.occupied_seen = 0

    def update(
        self,
        semantics: np.ndarray,
        truth: Occ3DLabels,
        origins: np.ndarray,
        truth_hits: RayHits | None = None,
        rays: CameraRays | None = None,
    ) -> None:
        """Add a prediction uint8 [X, Y, Z].

        Args:
            semantics: the prediction.
            truth: of the same frame and grid.
            origins: where RayIoU casts from, float64 [n, 3] m, ego.
            truth_hits: saves casting the truth again.
            rays: of the frame's cameras, for the duplicates; they are left out without.
        """
        self.voxels.update(semantics, truth.semantics, truth.mask_camera)
        if truth_hits is None:
            self.rays.update(semantics, truth.semantics, origins)
        else:
            self.rays.update_hits(cast_rays(semantics, origins, self.rays.grid), truth_hits)
        if rays is not None:
            self.duplicates.update(semantics, truth.semantics, rays, truth.mask_camera | truth.mask_lidar)
        occupied = semantics != FREE
        self.occupied += int(occupied.sum())
        self.occupied_seen += int(occupied[truth.mask_camera > 0].sum())
        self.samples += 1

    def result(self) -> dict:
        """The keys of all metrics, ``samples``, and the mean number of voxels called occupied in a sample.

        ``occupied``: in the whole grid, ``occupied_seen``: inside the camera mask. NaN where nothing was counted;
        duplicates only where rays were given.
        """
        mean = 1 / self.samples if self.samples else float("nan")
        return {
            **self.voxels.result(),
            **self.rays.result(),
            **(self.duplicates.result() if self.duplicates.rays else {}),
            "occupied": self.occupied * mean,
            "occupied_seen": self.occupied_seen * mean,
            "samples": self.samples,
        }


@dataclass(frozen=True)
class Target:
    """A frame with its ground truth on the grid that is evaluated, cast once for any number of predictions."""

    frame: Frame
    previous: tuple[Frame, ...]  # as many as the network looks at, newest first
    truth: Occ3DLabels
    origins: np.ndarray
    hits: RayHits
    rays: CameraRays

    def seen_as(self, change: Callable[[Frame], Frame]) -> "Target":
        """The same with other images, in the previous frames as well."""
        return dataclasses.replace(self, frame=change(self.frame), previous=tuple(map(change, self.previous)))

    def score(self, scores: Scores, semantics: np.ndarray, duplicates: bool = True) -> None:
        """Add a prediction of this frame to ``scores``."""
        scores.update(semantics, self.truth, self.origins, self.hits, self.rays if duplicates else None)


def targets(dataset, indices: Iterable[int], config: ModelConfig) -> Iterator[Target]:
    """Those samples that have ground truth, as a network of this configuration needs them.

    Raises:
        ValueError: the grid does not fit the labels, see ``on_grid``.
    """
    for i in indices:
        truth = dataset.ground_truth(i)
        if truth is None:
            continue
        grid, frame = config.grid, dataset.frame(i, labels=False)
        previous = tuple(previous_frames(dataset, i, config.view.frames_before))
        truth, origins = on_grid(truth, grid), origins_inside(dataset.ray_origins(i), grid)
        hits = cast_rays(truth.semantics, origins, grid)
        yield Target(frame, previous, truth, origins, hits, camera_rays(frame))


def _voxel_features(model: GSRender, target: Target) -> torch.Tensor:
    """Voxel features P [F, X, Y, Z] of a frame."""
    return model(CameraInput.from_frames([target.frame], model.centers.device, [target.previous]))[0]


def _score_readouts(model: GSRender, P: torch.Tensor, target: Target, scores: dict, duplicates: bool) -> None:
    """Score one frame's features; ``scores`` is {read-out: {tau: Scores}}."""
    for readout, by_tau in scores.items():
        evidence = model.evidence(P, readout, min(by_tau))
        for tau, score in by_tau.items():
            target.score(score, evidence.at(tau, FREE)[0].cpu().numpy(), duplicates)


@torch.inference_mode()
def sweep_tau(model: GSRender, dataset, indices: Sequence[int], taus: Sequence[float]) -> dict[float, dict]:
    """mIoU and RayIoU of the model's own read-out at every opacity threshold, from one forward pass a frame.

    Empty where there is no ground truth.
    """
    scores = {tau: Scores(model.config.grid) for tau in taus}
    for target in targets(dataset, indices, model.config):
        P = _voxel_features(model, target)
        _score_readouts(model, P, target, {model.config.readout: scores}, duplicates=False)
    if not any(score.samples for score in scores.values()):
        return {}
    return {tau: score.result() for tau, score in scores.items()}


@torch.inference_mode()
def study_scores(model: GSRender, dataset, indices: Sequence[int], taus: Sequence[float]) -> dict:
    """Everything that is compared between trained models, from one forward pass a frame (and one of a grey image).

    Returns:
        nested plain values ready for JSON, None where nothing was counted. ``voxel`` and ``splat``: the keys of
        ``Scores.result`` by str(tau), at every one of ``taus`` and ``HIGH_TAUS`` and at the model's own tau; ``splat``
        is None for a head without Gaussians. ``constant``: the model's own read-out and tau on a constant image.
        ``truth``: the ground truth scored against itself, for its occupancy and runs. Beside them the model's own
        result.

    Raises:
        ValueError: no sample has ground truth.
    """
    config = model.config
    own = config.tau
    readouts = ["voxel", *(["splat"] if config.head.kind == "gaussian" else [])]
    readouts += [config.readout] * (config.readout not in readouts)
    scores = {name: {tau: Scores(config.grid) for tau in sorted({*taus, *HIGH_TAUS, own})} for name in readouts}
    constant, perfect = Scores(config.grid), Scores(config.grid)
    for target in targets(dataset, indices, config):
        _score_readouts(model, _voxel_features(model, target), target, scores, duplicates=True)
        blind = _voxel_features(model, target.seen_as(constant_images))
        _score_readouts(model, blind, target, {config.readout: {own: constant}}, duplicates=True)
        target.score(perfect, target.truth.semantics)
    if perfect.samples == 0:
        raise ValueError(f"{getattr(dataset, 'root', 'the data')} has no ground truth (gts/) in the samples to score")
    curves = {name: {str(tau): score.result() for tau, score in by_tau.items()} for name, by_tau in scores.items()}
    own_result = curves[config.readout][str(own)]
    controls = {"splat": None, "constant": constant.result(), "truth": perfect.result()}
    return without_nan({**own_result, **controls, **curves})


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
        controls: also score constant and grey images, the ground truth cut to visible voxels, and the ground truth.
        progress: called with (done, total).

    Returns:
        the prediction's metrics, and under ``controls`` those of each control.

    Raises:
        ValueError: no sample has ground truth.
    """
    names = ["prediction"]
    if controls:
        names += ["constant_image", "grey_image", "visible_truth", "truth"]
    if majority is not None:
        names.append("majority")
    scores = {name: Scores(predictor.grid) for name in names}
    for i in range(len(dataset)):
        for target in targets(dataset, [i], predictor.model.config):
            seen = {"prediction": target}
            if controls:
                seen |= {"constant_image": target.seen_as(constant_images), "grey_image": target.seen_as(grey_images)}
            grids = {name: predictor(each.frame, previous=each.previous).semantics for name, each in seen.items()}
            if controls:
                visible = target.truth.mask_camera > 0
                grids["visible_truth"] = np.where(visible, target.truth.semantics, np.uint8(FREE))
                grids["truth"] = target.truth.semantics
            if majority is not None:
                grids["majority"] = majority
            for name, semantics in grids.items():
                target.score(scores[name], semantics)
        if progress:
            progress(i + 1, len(dataset))
    if scores["prediction"].samples == 0:
        raise ValueError(f"{getattr(dataset, 'root', 'the data')} has no ground truth (gts/): use `gsrender predict`")
    results = {name: score.result() for name, score in scores.items()}
    return {
        **results.pop("prediction"),
        "tau": predictor.tau,
        "readout": predictor.model.config.readout,
        "controls": results,
    }
