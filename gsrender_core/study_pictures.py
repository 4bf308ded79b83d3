"""Pictures of a study: bars with their spread over seeds, and the variants' predictions beside the truth."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.data.frame import previous_frames
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.data.occ3d_labels import on_grid
from gsrender_core.metrics.duplicates import VEHICLE_IDS
from gsrender_core.pictures.comparison import comparison_picture
from gsrender_core.pictures.plots import bar_chart, sheet
from gsrender_core.predictor import Predictor

COLUMNS = 4  # predictions beside the truth; more are too small to see anything


def write_bars(name: str, table: dict, path: Path) -> None:
    """Draw RayIoU, mIoU and duplicates of every variant, mean and standard deviation over seeds."""
    labels = [f"{row['variant']} ({len(row['per_seed'])})" for row in table["rows"]]
    panels = []
    for key, title, factor, unit in (
        ("rayiou", "RayIoU", 100, "%"),
        ("rayiou_splat", "RayIoU, splat read-out at its best tau", 100, "%"),
        ("miou", "mIoU", 100, "%"),
        ("extra_equal", "extra runs a ray at the truth's occupancy", 1, ""),
    ):
        spread = [row["spread"][key] for row in table["rows"]]
        means, deviations = [factor * s["mean"] for s in spread], [factor * s["sd"] for s in spread]
        panels.append(bar_chart(labels, means, deviations, title, unit))
    size = np.max([panel.shape[:2] for panel in panels], axis=0)
    panels = [
        cv2.copyMakeBorder(p, 0, size[0] - p.shape[0], 0, size[1] - p.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for p in panels
    ]
    cv2.imwrite(str(path), sheet(panels, 2, f"{name}: {table['question']} (seeds in brackets)"))


def frame_with_most_vehicles(data: NuScenes, indices, grid) -> int:
    """The scored frame whose truth has the most visible vehicle voxels: where duplicates show."""

    def vehicles(i: int) -> int:
        truth = data.ground_truth(i)
        if truth is None:
            return -1
        truth = on_grid(truth, grid)
        return int((np.isin(truth.semantics, VEHICLE_IDS) & (truth.mask_camera > 0)).sum())

    return max(indices, key=vehicles)


def nearest_tau(scores: dict) -> tuple[str, float]:
    """Read-out and tau at which a run predicts about as much as the truth holds: pictures compare like with like.

    The splat read-out where the head has Gaussians: it shows them where they are.
    """
    readout = "splat" if scores.get("splat") else "voxel"
    truth = scores["truth"]["occupied"]
    return readout, float(min(scores[readout], key=lambda tau: abs(scores[readout][tau]["occupied"] - truth)))


def write_comparison(runs: dict[str, tuple[Path, dict]], data: NuScenes, index: int, path: Path, device: str) -> None:
    """Draw what several variants predict for one frame beside its truth, each about as full as the truth.

    Args:
        runs: checkpoint and scores by variant.
        data: scored scenes.
        index: the frame.
        path: of the picture.
        device: of the networks.
    """
    frame, truth = data.frame(index, labels=False), data.ground_truth(index)
    predictions, grid = {}, None
    for name, (checkpoint, scores) in list(runs.items())[:COLUMNS]:
        predictor = Predictor.load(checkpoint, device, "float32")
        grid = predictor.grid
        readout, tau = nearest_tau(scores)
        predictor.model.config = replace(predictor.model.config, readout=readout)
        previous = previous_frames(data, index, predictor.frames_before)
        predictions[name] = predictor(frame, tau, previous=previous).semantics
    if grid is not None and truth is not None:
        title = f"{frame.scene}: each at the tau where it predicts about as many voxels as the truth"
        cv2.imwrite(str(path), comparison_picture(frame, truth, predictions, grid, title))
