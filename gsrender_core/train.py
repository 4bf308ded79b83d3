"""The training loop: one screen to read, resumable at any checkpoint."""

import dataclasses
import json
import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gsrender_core.checkpoint import load_checkpoint, read_header, save_checkpoint
from gsrender_core.config import ModelConfig, TrainConfig, from_dict, load_train_config, to_dict
from gsrender_core.data.read_ahead import ReadAhead
from gsrender_core.distributed import Group
from gsrender_core.gradient_step import GradientStep, StepReport
from gsrender_core.held_out_depth import HeldOutDepth
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.run_folder import prepare, require_same_data
from gsrender_core.runtime import keep_freed_memory, multiplies_bfloat16
from gsrender_core.stop_signals import Stopped, StopSignals
from gsrender_core.supply import DataSupply, ReplaySupply
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.validation import Validation, Verdict
from gsrender_core.watch import Watch
from gsrender_core.whole_file import write_whole

logger = logging.getLogger(__name__)

LOG_EVERY = 20
AHEAD = 4  # steps whose frames workers read in advance
MAX_BROKEN_STEPS = 20  # in a row; a run whose loss is gone does not come back by waiting


def starting_config(config: str, init: str | Path | None = None) -> TrainConfig:
    """The configuration of a file; without one (``""``, ``default``) the defaults, with the network of ``init``.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be used.
    """
    if config not in ("", "default"):
        return load_train_config(config)
    if init is None:
        return TrainConfig()
    return TrainConfig(model=from_dict(ModelConfig, read_header(init)["model"]))


def mean_terms(frames: list[dict[str, float]]) -> dict[str, float]:
    """Means over frames, of a loss term over all of them (where it is absent it adds nothing to the loss).

    A figure for the log (``_``) is averaged over the frames that have a finite one; NaN where none has.
    """
    means = {}
    for name in dict.fromkeys(name for terms in frames for name in terms):
        values = [terms[name] for terms in frames if name in terms]
        if name.startswith("_"):
            values = [v for v in values if math.isfinite(v)]
            means[name] = sum(values) / len(values) if values else math.nan
        else:
            means[name] = sum(values) / len(frames)
    return means


class Trainer:
    """Trains one model into one folder.

    The folder receives ``config.yaml``, ``log.jsonl`` (a line every 20 steps and every validation), ``curves.png``,
    ``best.safetensors`` (highest validation RayIoU; of LiDAR returns where there is no ground truth),
    ``last.safetensors`` and ``resume.pt``.
    """

    def __init__(
        self,
        config: TrainConfig,
        data,
        out: Path,
        device: str = "auto",
        frames: TrainingFrames | None = None,
        group: Group | None = None,
    ):
        """``data`` is a data set, all of which is there (``DataSupply``), or a ``ReplaySupply``.

        ``frames`` of an earlier run over the same data spare computing the same features again, where they fit.
        ``group``: the processes that train together; default those of torchrun's environment, or this one alone.
        """
        self.group = group or Group(device)
        if config.bf16 and not multiplies_bfloat16(self.group.device):
            logger.warning("bf16: this %s lacks bfloat16 arithmetic; training in float32 is faster", self.group.device)
            config = dataclasses.replace(config, bf16=False)
        self.supply = data if isinstance(data, ReplaySupply) else DataSupply(config, data)
        self.config, self.dataset, self.out = config, self.supply.dataset, Path(out)
        if self.group.joined and isinstance(data, ReplaySupply):
            raise ValueError("a replay trains in one process; start it without torchrun")
        self.device = self.group.device
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        self.model = GSRender(config.model).to(self.device).train()
        self.frames = TrainingFrames(self.dataset, self.model, self.device, config.rare_boost, config.cache_gb, frames)
        self.frames.bf16 = config.bf16
        self.objective = Objective(config, self.model, self.frames)
        self.gradient = GradientStep(config, self.model, self.objective, self.group)
        self.ema, self.trained = self.gradient.ema, self.gradient.trained
        self.validation = Validation(config, self.ema, self.frames, self.supply)
        self.held_out = HeldOutDepth(config, self.dataset, self.supply.indices) if config.hold_out_labels > 0 else None
        self.step, self.best, self.seconds, self.tau = 0, -1.0, 0.0, config.model.tau
        self.skipped: set[int] = set()  # frames that could not be used, in any process
        self.broken, self._broken_in_a_row = 0, 0  # steps without a finite loss and gradient
        self._dropped_in_a_row = 0  # draws without a usable frame
        self._stop = False
        self._asked: int | None = None  # to stop, by another thread
        self.started_from: dict | None = None  # a checkpoint and its steps
        self.watch: Watch | None = None
        self.on_row: Callable[[dict], None] = lambda row: None  # called with every row of the log
        self.on_step: Callable[[], None] = lambda: None  # called after every step, in the thread that trains

    def start_from(self, checkpoint: str | Path) -> None:
        """Begin with a checkpoint's weights instead of fresh ones: for a new recipe, or data of another vehicle.

        Raises:
            FileNotFoundError, ValueError: no such checkpoint, or one of another network.
        """
        loaded = load_checkpoint(checkpoint)
        stored, mine = to_dict(loaded.model.config), to_dict(self.config.model)
        shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in (loaded.model, self.model)]
        fixed = ("grid", "depth", "image_size")  # the weights' meaning hangs on them, whatever their shapes
        other = [key for key in fixed if stored[key] != mine[key]]
        if other or shapes[0] != shapes[1] or stored["head"]["kind"] != mine["head"]["kind"]:
            named = other or [key for key in mine if stored[key] != mine[key]]
            raise ValueError(f"{checkpoint} holds another network: model.{', model.'.join(named)} differ; train anew")
        for key in (k for k in mine if stored[k] != mine[k] and k not in ("tau", "readout")):
            logger.warning("%s was made with another model.%s: %s, now %s", checkpoint, key, stored[key], mine[key])
        for model in (self.model, self.ema):
            model.load_state_dict(loaded.model.state_dict())
        self.started_from = {"checkpoint": Path(checkpoint).name, "steps": loaded.info.get("steps")}

    def request_stop(self, number: int = signal.SIGTERM) -> None:
        """End the run after the step at hand, as if that signal had arrived. For any thread."""
        self._asked = number

    def run(self, resume: bool = False) -> Path:
        """Train until the schedule is over and return the best checkpoint's path.

        SIGTERM and SIGINT end the run after the step at hand, with a checkpoint.

        Raises:
            FileExistsError: the folder already holds a run and ``resume`` is False.
            FileNotFoundError: nothing to resume.
            ValueError: nothing usable to learn from, or a loss that stays NaN or infinite.
            OSError: the last checkpoint cannot be written. An earlier one that cannot is logged and survived.
            Stopped: a signal ended the run; the message says how to go on.
        """
        state = self.group.first(prepare, self.out, self.config, resume)
        if state is not None:
            self._restore(state)
        logger.info(
            "training on %d frames, validating on %d (%s), %d steps of %d frames, device %s%s",
            self.supply.frame_count,
            len(self.supply.validation),
            ", ".join(self.supply.scenes) or "none",
            self.config.steps,
            self.config.batch,
            self.device,
            f", {self.group.size} processes" if self.group.joined else "",
        )
        if self.group.is_first:
            self.supply.check()
            self.watch = Watch(self.out, self.step)
        if self.config.workers > 0:
            self.frames.reader = ReadAhead(self.dataset, self.config.workers, 4 * self.config.workers)
        try:
            with StopSignals() as signals:
                self._loop(signals)
        finally:
            if self.watch is not None:
                self.watch.close()
            if self.frames.reader is not None:
                self.frames.reader.close()
                self.frames.reader = None
        best = self.out / "best.safetensors"
        return best if best.exists() else self.out / "last.safetensors"

    def _loop(self, signals: StopSignals) -> None:
        c, schedule = self.config, self.supply.schedule

        def stop() -> bool:
            return self._stop_number(signals) is not None

        if self.step == 0:
            self._on_first(self._look)
            self._on_first(self._measure_held_out)
        started = time.monotonic() - self.seconds
        while not schedule.over(self.step):
            self.frames.forget(self.supply.refresh(self.step, stop))
            if not self.supply.indices:  # stopped before the first frame
                self._end_early(signals)
            terms = self._train_step(stop)
            self.step += 1
            self.seconds = time.monotonic() - started
            last = schedule.over(self.step)
            if self._logged(self.step):
                self._on_first(self._log, terms)
            if last:  # what the last validation may raise must not cost the steps
                self.group.require_equal(self.gradient.checksum(), "weights")
                self._on_first(self._save, self.out / "resume.pt", required=True)
            if last or self.step % c.validate_every == 0:
                self._on_first(self._judge, required=last)
            if last or self._stop or self.step % c.checkpoint_every == 0:
                self.group.require_equal(self.gradient.checksum(), "weights")
                self._on_first(self._save, self.out / "resume.pt", required=last or self._stop)
            self.on_step()
            if self._stop and not last:
                self._end_early(signals)

    def _stop_number(self, signals: StopSignals) -> int | None:
        return self._asked if signals.received is None else signals.received

    def _end_early(self, signals: StopSignals) -> None:
        number = self._stop_number(signals) or signal.SIGTERM  # another process's, which does not say
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self.step} of {self._steps}, checkpoint saved; "
            f"{self.supply.resume_hint(self.out)}",
            number,
        )

    def _on_first(self, function, *arguments, required: bool = False) -> None:
        """Let the first process do something with files while the others wait.

        A full disk does not end a run that may outlive it, unless nothing would be left (``required``).
        """
        try:
            self.group.first(function, *arguments)
        except OSError as error:
            if required:
                raise
            if self.group.is_first:
                logger.error("step %d: %s. Training goes on and tries again", self.step, error)

    def _logged(self, step: int) -> bool:
        return step % LOG_EVERY == 1 % LOG_EVERY or self.supply.schedule.over(step)

    def _train_step(self, stop: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """One step; returns the means over the batch, over all processes where the step is logged."""
        rate, frozen = self.supply.schedule.rate(self.step), self.supply.schedule.norms_frozen(self.step)
        draws = self.group.share(list(range(self.step * self.config.batch, (self.step + 1) * self.config.batch)))
        if self.frames.reader is not None:
            self._read_ahead()
        report = self.gradient(self.step, rate, [(draw, self.supply.draw(draw)) for draw in draws], stop, frozen)
        self._stop = report.stop > 0
        self._count_problems(report)
        frames = list(report.terms.values())
        if self._logged(self.step + 1):
            frames = [terms for part in self.group.gather(frames) for terms in part]
        return mean_terms(frames) | {"_grad_norm": report.grad_norm, "_lr": rate}

    def _count_problems(self, report: StepReport) -> None:
        """Name what went wrong in a step; stop where it is hopeless. The same in every process."""
        unusable = {}  # a frame whose neighbour is broken may do without that one the next time
        for i, error in report.unreadable.items():
            logger.warning("step %d: frame %d skipped: %s", self.step, i, error)
            if not self.frames.is_usable(i):
                unusable[i] = str(error)
        self._dropped_in_a_row = 0 if report.usable else self._dropped_in_a_row + report.dropped
        if report.dropped:
            for part in self.group.gather(unusable):
                self.skipped |= part.keys()
            reason = str(next(reversed(report.unreadable.values()), "see the other processes"))
            indices = self.supply.indices
            if self.skipped.issuperset(indices) or self._dropped_in_a_row >= 10 * len(indices):
                raise ValueError(f"not one of {len(indices)} frames is usable; last: {reason}")
        if not report.broken:
            self._broken_in_a_row = 0 if report.stepped else self._broken_in_a_row
            return
        self.broken += 1
        self._broken_in_a_row += 1
        found = [f"{name} of frame {self.frames.labels(i).token or i}" for i, name in report.not_finite]
        found = [text for part in self.group.gather(found) for text in part] or ["the gradient of finite losses"]
        if self.group.is_first:
            logger.warning(
                "step %d: NaN or infinite: %s; step skipped, %d so far", self.step, ", ".join(found), self.broken
            )
        if self._broken_in_a_row >= MAX_BROKEN_STEPS:
            raise ValueError(
                f"{self._broken_in_a_row} steps in a row without a finite loss, last {found[0]} at step {self.step}: "
                f"look at its data, or resume from {self.out}/resume.pt with a lower learning_rate or grad_clip"
            )

    def _read_ahead(self) -> None:
        """Tell the workers what this process's share of the coming steps needs."""
        batch, steps = self.config.batch, range(self.step, min(self.step + 1 + AHEAD, self.config.steps))
        draws = [d for s in steps for d in self.group.share(list(range(s * batch, (s + 1) * batch)))]
        coming = [self.supply.draw(d) for d in draws]
        before = range(-self.config.model.view.frames_before, 0)
        rays = self.config.ray_adjacent if self.config.loss.ray > 0 else ()
        rendered = self.config.adjacent if self.config.compensation != "none" else ()
        ks = sorted({*rays, *rendered} - set(before))
        adjacent = self.dataset.adjacent
        seen = [j for i in coming for k in (0, *before) if (j := adjacent(i, k) if k else i) is not None]
        self.frames.read_ahead(seen, [j for i in coming for k in ks if (j := adjacent(i, k)) is not None])

    def _log(self, terms: dict[str, float]) -> None:
        per_step = self.seconds / max(1, self.step)
        end = self.supply.schedule.end
        left = "replay goes on" if end is None else f"{(end - self.step) * per_step / 60:.0f} min left"
        loss = sum(value for name, value in terms.items() if not name.startswith("_"))
        line = {"step": self.step, "seconds": round(self.seconds, 1), "loss": round(loss, 5)}
        line |= {name.lstrip("_"): round(value, 5) for name, value in terms.items()}
        self._append(line)
        shown = " ".join(f"{k.lstrip('_')} {v:.3g}" for k, v in terms.items() if k != "_lr")
        logger.info("step %d/%s %.2f s/step, %s: %s", self.step, self._steps, per_step, left, shown)

    def _look(self) -> None:
        """Report what the watched held-out frames say."""
        if (figures := self.validation.look()) is not None:
            self._append({"step": self.step, "watch": figures})

    def _judge(self) -> None:
        """Look at held-out frames, keep the best weights, draw the curves."""
        if self.supply.validation:
            self._look()
            self._keep_best(self.validation.verdict(self.step))
        self._measure_held_out()
        self.watch.draw()

    def _measure_held_out(self) -> None:
        """Report rendered depth at the LiDAR points held out of training, where some are."""
        if self.held_out is not None:
            self._append({"step": self.step, "held_out": self.held_out.report(self.ema, self.step, self.out)})

    def _keep_best(self, verdict: Verdict | None) -> None:
        if verdict is None:
            logger.info("step %d: no ground truth in the validation scenes; keeping the last weights", self.step)
            self._checkpoint("best.safetensors", None)
            return
        self.tau = verdict.tau
        self._append({"step": self.step, **verdict.row})
        if verdict.score > self.best:
            self.best = verdict.score
            self._checkpoint("best.safetensors", {"tau": self.tau, **verdict.figures})

    def _checkpoint(self, name: str, validation: dict | None) -> None:
        self.ema.config = dataclasses.replace(self.config.model, tau=self.tau)
        info = {
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "seed": self.config.seed,
            "data": Path(getattr(self.dataset, "root", "")).name,
            "frames": self.supply.frame_count - len(self.skipped),
            "validation": validation,
            "started_from": self.started_from,
            "train": {k: v for k, v in to_dict(self.config).items() if k != "model"},
        }
        # Half precision halves the file; resume.pt keeps the full weights.
        save_checkpoint(self.out / name, self.ema, info, torch.float16)

    @property
    def _steps(self) -> str:
        """Steps of the whole run, for the log."""
        end = self.supply.schedule.end
        return f"at most {self.config.steps}" if end is None else str(end)

    def _append(self, line: dict) -> None:
        self.watch.append(line)
        self.on_row(line)

    def _save(self, path: Path) -> None:
        self._checkpoint("last.safetensors", None)
        state = {
            "config": json.dumps(to_dict(self.config)),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "tau": self.tau,
            "started_from": self.started_from,
            "skipped": sorted(self.skipped),
            "data": self.supply.identity(),
            **self.gradient.state_dict(),
        }
        write_whole(path, lambda partial: torch.save(state, partial))

    def _restore(self, state: dict) -> None:
        require_same_data(self.out, state.get("data"), self.supply.identity())
        self.gradient.load_state_dict(state)
        self.step, self.best, self.seconds, self.tau = (state[k] for k in ("step", "best", "seconds", "tau"))
        self.started_from, self.skipped = state.get("started_from"), set(state.get("skipped", ()))
        logger.info("resumed at step %d", self.step)
