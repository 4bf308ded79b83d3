"""Training that can be watched: what a run reports beyond its losses, from before the first step on.

A run's folder holds ``log.jsonl``, one JSON object a line with the ``step`` it belongs to; event files, where the
``tensorboard`` package is installed; and ``curves.png``, drawn anew at every validation.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from gsrender_core.evaluate import constant_images, sweep_tau
from gsrender_core.metrics.miou import without_nan
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.pictures.curves import curves_picture, read_log
from gsrender_core.predict_folder import write_png
from gsrender_core.statistics import GaussianStatistics, voxel_features

logger = logging.getLogger(__name__)


class ConstantImages:
    """A data set seen through mid-grey images: what a network predicts there is its prior."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getattr__(self, name: str):
        return getattr(self.dataset, name)

    def frame(self, i: int, labels: bool = True):
        """As the data set's, every pixel mid-grey."""
        return constant_images(self.dataset.frame(i, labels))


class Watch:
    """Writes what a run reports into its folder.

    Args:
        out: the run's folder; exists.
        step: what a resumed run goes on from, 0 for a fresh one: events after it are replaced, its own stay.
    """

    def __init__(self, out: Path, step: int = 0):
        self.out = Path(out)
        self._events = _event_writer(self.out, step)

    def append(self, row: dict) -> None:
        """Add a row with its ``step`` to the log, and every number in it to the event files."""
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is not None:
            for name, value in scalars(row).items():
                self._events.add_scalar(name, value, row["step"])
            self._events.flush()

    def draw(self) -> None:
        """Draw ``curves.png`` from the log."""
        write_png(self.out / "curves.png", curves_picture({self.out.name: read_log(self.out)})[:, :, ::-1])

    def close(self) -> None:
        """End the event files and draw the curves a last time, however the run ended."""
        if self._events is not None:
            self._events.close()
        try:
            self.draw()
        except OSError as error:  # no row yet, or no room: the run's own end matters more
            logger.debug("curves not drawn: %s", error)


def _event_writer(out: Path, step: int):
    """A TensorBoard writer, or None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.debug("no TensorBoard event files: %s", error)
        return None
    return SummaryWriter(str(out), purge_step=step + 1 if step > 0 else None)


def scalars(row: dict) -> dict[str, float]:
    """The finite numbers of a row by name, as ``train/depth``, ``watch/rayiou`` and, a threshold each,
    ``validation/tau_0.4/rayiou``; what a class has is left to the log."""
    found = {}
    for name, value in row.items():
        if name in ("step", "seconds"):
            continue
        if name == "validation" and isinstance(value, dict):
            for tau, metrics in value.items():
                found |= _numbers(metrics, f"validation/tau_{tau}")
        elif isinstance(value, dict):
            found |= _numbers(value, name)
        else:
            found |= _numbers({name: value}, "train")
    return found


def _numbers(values: dict, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def held_out_figures(model: GSRender, dataset, indices: Sequence[int], taus: Sequence[float]) -> dict:
    """What frames say that were never trained on.

    Args:
        model: in eval mode.
        dataset: as ``data.nuscenes.NuScenes``.
        indices: few frames; each costs two forward passes.
        taus: opacity thresholds that are tried.

    Returns:
        ``frames``; with ground truth ``over_tau`` {tau: {rayiou, miou}}, ``rayiou`` and ``miou`` at the ``tau`` of the
        highest RayIoU, ``constant_rayiou`` and ``constant_miou`` of constant images at their own best threshold; of
        the Gaussians, at that tau (the model's own without ground truth), the keys of
        ``GaussianStatistics.summary``. None for what is unknown.
    """
    figures: dict = {"frames": len(indices)}
    curve = sweep_tau(model, dataset, indices, taus)
    tau = model.config.tau
    if curve:
        tau, best = _best(curve)
        _, constant = _best(sweep_tau(model, ConstantImages(dataset), indices, taus))
        figures |= {"tau": tau, "rayiou": best["rayiou"], "miou": best["miou"]}
        figures |= {"constant_rayiou": constant["rayiou"], "constant_miou": constant["miou"]}
        figures["over_tau"] = {str(t): {"rayiou": m["rayiou"], "miou": m["miou"]} for t, m in curve.items()}
    statistics = GaussianStatistics(model.config)
    for i in indices:
        statistics.update(model, voxel_features(model, dataset, i), tau)
    return without_nan(figures | statistics.summary())


def _best(curve: dict[float, dict]) -> tuple[float, dict]:
    """Threshold and metrics of the highest RayIoU; NaN counts as 0."""
    return max(curve.items(), key=lambda item: 0.0 if math.isnan(item[1]["rayiou"]) else item[1]["rayiou"])


@torch.no_grad()
def objective_figures(objective: Objective, indices: Sequence[int], seed: int) -> dict[str, float]:
    """Means of the training terms over frames that are not trained on, names without the leading ``_``.

    The same pixels, cameras and mirrorings are drawn at every call, so that a change is the network's. Frames that
    cannot be used are left out, values that are not finite in a frame too.
    """
    values: dict[str, list[float]] = {}
    with torch.random.fork_rng(devices=[objective.frames.device] if objective.frames.device.type == "cuda" else []):
        for i in indices:
            torch.manual_seed(seed * 1_000_003 + i)
            try:
                terms = objective(i)
            except (ValueError, OSError) as error:
                logger.warning("held-out frame %d left out of the watched figures: %s", i, error)
                continue
            for name, value in terms.items():
                if math.isfinite(value):
                    values.setdefault(name.lstrip("_"), []).append(float(value))
    return {name: round(sum(numbers) / len(numbers), 6) for name, numbers in values.items()}
