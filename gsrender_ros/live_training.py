"""The thread that trains from a ``ReplayBuffer`` while others fill it; knows no topics."""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gsrender_core.checkpoint import load_checkpoint, named_checkpoint
from gsrender_core.config import TrainConfig
from gsrender_core.data.frame import Frame, previous_frames
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_core.lidar_validation import sweep_tau_on_returns
from gsrender_core.metrics.miou import without_nan
from gsrender_core.predictor import Predictor
from gsrender_core.stop_signals import Stopped
from gsrender_core.supply import ReplaySupply
from gsrender_core.train import Trainer
from gsrender_core.voxel_grid import OccupancyGrid
from gsrender_core.whole_file import write_whole
from gsrender_ros.training_parameters import TrainingSettings

logger = logging.getLogger(__name__)

FULL_SHARE = 0.5  # of the room for frames that wait; frames are under way while a player is being paused
STOP_S = 120.0  # a validation that is under way may take so long


class LiveTraining:
    """Runs a ``Trainer`` on the frames of a buffer, in one thread of its own: torch keeps its threads there.

    Args:
        config: of the training.
        settings: folder, pace and end.
        buffer: of frames that somebody puts.
        device: as ``resolve_device``.

    Attributes:
        state: starting, training, finishing (the replay has ended), finished, stopped or failed.
        failure: one line, where it failed.
        on_row: called with every row of the log.
        on_grid: called with a frame and its predicted grid; both in the thread that trains.
        wants_grid: whether a grid is of use now.

    Raises:
        ValueError: a configuration that a replay cannot serve.
    """

    def __init__(self, config: TrainConfig, settings: TrainingSettings, buffer: ReplayBuffer, device: str):
        self.config, self.settings, self.buffer, self._device = config, settings, buffer, device
        self.supply = ReplaySupply(config, buffer, settings.finish_steps)
        self.state, self.failure = "starting", ""
        self.steps = 0  # of this process
        self.on_row: Callable[[dict], None] = lambda row: None
        self.on_grid: Callable[[Frame, OccupancyGrid], None] = lambda frame, grid: None
        self.wants_grid: Callable[[], bool] = lambda: False
        self.facts: Callable[[], dict] = dict  # of the replay, for the report
        self.trainer: Trainer | None = None
        self.figures: dict | None = None  # of the last evaluation on held-out frames
        self._asked: int | None = None
        self._grid_at = -float("inf")
        self._thread = threading.Thread(target=self._run, name="training", daemon=True)

    def start(self) -> None:
        """Begin; frames may come later."""
        self._thread.start()

    def is_behind(self, frames: int) -> bool:
        """Whether more than ``ahead`` of so many frames have not had their steps yet, or hardly more can wait."""
        per_frame = self.settings.steps_per_frame
        if per_frame == 0:
            return False
        return frames - self.steps / per_frame > self.settings.ahead or self.buffer.waiting_share > FULL_SHARE

    @property
    def takes_frames(self) -> bool:
        """Whether frames are still of use."""
        return self.state in ("starting", "training")

    @property
    def over(self) -> bool:
        """Whether the thread has done all it will do."""
        return self.state in ("finished", "stopped", "failed")

    def end(self) -> None:
        """The replay is at its end: the last steps begin."""
        if self.takes_frames:
            self.state = "finishing"
        self.supply.end()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End after the step at hand, with a checkpoint; waits for it."""
        self._asked = number
        if self.trainer is not None:
            self.trainer.request_stop(number)
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _run(self) -> None:
        try:
            self.trainer = Trainer(self.config, self.supply, Path(self.settings.out), self._device)
            if self.settings.init:
                self.trainer.start_from(named_checkpoint(self.settings.init))
            if self._asked is not None:
                self.trainer.request_stop(self._asked)
            self.trainer.on_row, self.trainer.on_step = self.on_row, self._on_step
            if self.state == "starting":
                self.state = "training"
            best = self.trainer.run(self.settings.resume)
            self._evaluate(best)
            self._report(best)
            self.state = "finished"
        except Stopped as stopped:
            logger.warning("%s", stopped)
            self._report(None)
            self.state = "stopped"
        except Exception as error:  # whatever it is, the node must say so and end
            self.failure = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            logger.error("training failed: %s", self.failure)
            self.state = "failed"

    def _on_step(self) -> None:
        self.steps += 1
        if self.supply.schedule.end is not None and self.state == "training":
            self.state = "finishing"  # config.steps leave no more
        now = time.monotonic()
        if now - self._grid_at < self.settings.publish_period_s or not self.wants_grid():
            return
        self._grid_at = now
        newest = self.buffer.taken_in - 1  # the newest is never forgotten
        with torch.random.fork_rng(devices=[]):
            predictor = Predictor(self.trainer.ema, device=self._device)
            frame = self.buffer.frame(newest)
            previous = previous_frames(self.buffer, newest, predictor.frames_before)
            self.on_grid(frame, predictor(frame, self.trainer.tau, previous))

    def _evaluate(self, checkpoint: Path) -> None:
        """What the checkpoint says of all held-out frames that are held."""
        held_out = self.buffer.numbers(held_out=True)
        if not held_out:
            logger.warning(
                "nothing was held out to evaluate on: the replay was shorter than %d frames",
                self.settings.stretch * (self.settings.hold_out_every // 2 + 1),
            )
            return
        model = load_checkpoint(checkpoint, self.trainer.device).model
        tau = model.config.tau
        curve = sweep_tau_on_returns(model, self.buffer, held_out, (tau,))
        if curve:
            self.figures = {"frames": len(held_out), "tau": tau, **without_nan(curve[tau])}

    def _report(self, best: Path | None) -> None:
        """Write ``report.json``: what was learnt from, what was skipped, how good it is."""
        buffer = self.buffer
        report = {
            "checkpoint": None if best is None else best.name,
            "steps": self.trainer.step,
            "frames": {"taken_in": buffer.taken_in, "held": len(buffer), "forgotten": buffer.forgotten},
            "skipped_in_training": len(self.trainer.skipped),
            "held_out": self.figures,
            **self.facts(),
        }
        text = json.dumps(without_nan(report), indent=2) + "\n"
        try:
            write_whole(Path(self.settings.out) / "report.json", lambda partial: partial.write_text(text, "utf-8"))
        except OSError as error:
            logger.error("%s", error)
        logger.info("frames: %s", json.dumps(report["frames"] | self.facts().get("replay", {})))
        if self.figures is not None:
            logger.info(
                "held-out frames: %d, %d LiDAR rays, %.1f %% within 1 m of their return, RayIoU of occupied %.4f",
                self.figures["frames"], self.figures["rays"], 100 * self.figures["within@1"],
                self.figures["occupied_rayiou"] or 0.0,
            )  # fmt: skip
