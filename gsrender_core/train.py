"""The training loop: one screen to read, resumable at any checkpoint."""

import copy
import dataclasses
import json
import logging
import math
import time
from pathlib import Path

import torch
import yaml

from gsrender_core.checkpoint import save_checkpoint
from gsrender_core.config import AugmentConfig, TrainConfig, to_dict
from gsrender_core.evaluate import sweep_tau
from gsrender_core.metrics.miou import without_nan
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.predictor import resolve_device
from gsrender_core.runtime import keep_freed_memory
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.watch import Watch, held_out_figures, objective_figures

logger = logging.getLogger(__name__)

TAUS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LOG_EVERY = 20


def split_scenes(scenes: tuple[str, ...], held_out: int) -> tuple[list[str], list[str]]:
    """Training and validation scenes: the last ``held_out`` are validated on and never trained on.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if held_out >= len(scenes):
        raise ValueError(f"{len(scenes)} scenes cannot spare {held_out} for validation; lower validation_scenes")
    cut = len(scenes) - held_out
    return list(scenes[:cut]), list(scenes[cut:])


def learning_rate(config: TrainConfig, step: int) -> float:
    """Warm-up, then a cosine or linear fall to 1 % at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        shape = 1 - progress
    return config.learning_rate * (0.01 + 0.99 * shape)


def make_optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW in one kernel for all parameters where torch has it, else in few."""
    settings = dict(lr=config.learning_rate, weight_decay=config.weight_decay)
    try:
        return torch.optim.AdamW(parameters, **settings, fused=True)
    except RuntimeError:  # torch before 2.4 fuses on CUDA only
        return torch.optim.AdamW(parameters, **settings, foreach=True)


def ema_pairs(ema: GSRender, model: GSRender) -> tuple[tuple[list, list], tuple[list, list]]:
    """What changes in training, as (means, values) to average and (copies, values) to copy.

    Averaged are trained parameters and floating-point statistics, copied are counters. A frozen backbone
    is in neither: it never changes, so its mean is itself.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    averaged, copied = ([], []), ([], [])
    for (name, mean), value in zip(ema.state_dict().items(), model.state_dict().values(), strict=True):
        if name in fixed or (model.backbone.frozen and name.startswith("backbone.")):
            assert name not in trained, name
            continue
        pair = averaged if mean.is_floating_point() else copied
        pair[0].append(mean)
        pair[1].append(value)
    return averaged, copied


class Trainer:
    """Trains one model into one folder.

    The folder receives ``config.yaml``, ``log.jsonl`` (a line every 20 steps and every validation), ``curves.png``,
    ``best.safetensors`` (highest validation RayIoU), ``last.safetensors`` and ``resume.pt``.
    """

    def __init__(
        self, config: TrainConfig, dataset, out: Path, device: str = "auto", frames: TrainingFrames | None = None
    ):
        """``frames`` of an earlier run over the same data spare computing the same features again, where they fit."""
        self.config, self.dataset, self.out = config, dataset, Path(out)
        self.device = resolve_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        self.model = GSRender(config.model).to(self.device).train()
        self.ema = copy.deepcopy(self.model).eval()
        self.frames = TrainingFrames(dataset, self.model, self.device, config.rare_boost, config.cache_gb, frames)
        self.objective = Objective(config, self.model, self.frames)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config, self.trained)
        self._averaged, self._copied = ema_pairs(self.ema, self.model)
        self._norms_frozen = False
        train_scenes, self.validation_scenes = split_scenes(dataset.scene_names, config.validation_scenes)
        self.indices = [i for scene in train_scenes for i in dataset.indices_of(scene)]
        held_out = [i for scene in self.validation_scenes for i in dataset.indices_of(scene)]
        stride = max(1, len(held_out) // max(1, config.validation_frames))
        self.validation = held_out[::stride][: config.validation_frames]
        stride = max(1, len(self.validation) // max(1, config.watch_frames))
        self.watched = self.validation[::stride][: config.watch_frames]
        self.step, self.best, self.seconds, self.tau = 0, -1.0, 0.0, config.model.tau
        self.skipped: set[int] = set()  # frames that could not be read

    def run(self, resume: bool = False) -> Path:
        """Train to ``config.steps`` and return the best checkpoint's path.

        Raises:
            FileExistsError: the folder already holds a run and ``resume`` is False.
            FileNotFoundError: nothing to resume.
        """
        resume_file = self.out / "resume.pt"
        if resume:
            if not resume_file.exists():
                raise FileNotFoundError(f"{resume_file} does not exist: nothing to resume; start without --resume")
            self._load(resume_file)
        elif self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(f"{self.out} is not empty; continue its run with --resume or choose another --out")
        if self.step >= self.config.steps:
            raise ValueError(f"{self.out} is at step {self.step} of {self.config.steps}; raise --steps to go on")
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.yaml").write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))
        logger.info(
            "training on %d frames, validating on %d (%s), %d steps, device %s",
            len(self.indices),
            len(self.validation),
            ", ".join(self.validation_scenes) or "none",
            self.config.steps,
            self.device,
        )
        self.watch = Watch(self.out, self.step)
        if self.step == 0:
            self._watch()
        started, steps_before = time.monotonic() - self.seconds, self.step
        while self.step < self.config.steps:
            terms = self._train_step()
            self.step += 1
            self.seconds = time.monotonic() - started
            if self.step % LOG_EVERY == 1 or self.step == self.config.steps:
                self._log(terms, steps_before)
            last = self.step == self.config.steps
            if last or self.step % self.config.validate_every == 0:
                if self.validation:
                    self._watch()
                    self._validate()
                self.watch.draw()
            if last or self.step % self.config.checkpoint_every == 0:
                self._save(resume_file)
        self.watch.close()
        return self.out / ("best.safetensors" if self.validation else "last.safetensors")

    def _train_step(self) -> dict[str, float]:
        c = self.config
        # Randomness is a function of seed and step alone, so that a resumed run repeats an unbroken one.
        torch.manual_seed(c.seed * 1_000_003 + self.step)
        self._set_norms(frozen=self.step >= c.freeze_norm_at * c.steps)
        rate = learning_rate(c, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        logged: dict[str, float] = {}
        for n in range(c.batch):
            index = self._frame_index(self.step * c.batch + n)
            try:
                terms = self.objective(index, self.step % c.render_every == 0)
            except (ValueError, OSError) as error:  # a broken file: the message names it
                self.skipped.add(index)
                logger.warning("step %d: frame skipped, %d so far: %s", self.step, len(self.skipped), error)
                if len(self.skipped) == len(self.indices):
                    raise ValueError(f"not one of {len(self.indices)} frames is usable; last: {error}") from error
                continue
            total = sum(value for name, value in terms.items() if not name.startswith("_")) / c.batch
            total.backward()
            values = torch.stack([value.detach().to(self.device, torch.float32) for value in terms.values()]).tolist()
            for name, value in zip(terms, values, strict=True):  # one transfer for all terms
                logged[name] = logged.get(name, 0.0) + value / c.batch
        norm = torch.nn.utils.clip_grad_norm_(self.trained, c.grad_clip, foreach=True)
        if torch.isfinite(norm):
            self.optimizer.step()
        else:
            logger.warning("step %d: gradient is not finite; the step is skipped", self.step)
        logged |= {"_grad_norm": float(norm), "_lr": rate}
        self._update_ema()
        return logged

    def _frame_index(self, draw: int) -> int:
        """A permutation of the training frames each epoch."""
        epoch, position = divmod(draw, len(self.indices))
        order = torch.randperm(
            len(self.indices), generator=torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        )
        return self.indices[int(order[position])]

    def _set_norms(self, frozen: bool) -> None:
        """Batch norms learn their statistics until they are frozen; walks the modules only when that changes."""
        if frozen == self._norms_frozen:
            return
        self.model.train()
        for module in self.model.modules() if frozen else ():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
        self._norms_frozen = frozen

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))  # short memory while it is young
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        torch._foreach_copy_(*self._copied)

    def _log(self, terms: dict[str, float], steps_before: int) -> None:
        per_step = self.seconds / max(1, self.step)
        left_min = (self.config.steps - self.step) * per_step / 60
        line = {"step": self.step, "seconds": round(self.seconds, 1)}
        line |= {name.lstrip("_"): round(value, 5) for name, value in terms.items()}
        self._append(line)
        shown = " ".join(f"{k.lstrip('_')} {v:.3g}" for k, v in terms.items() if k != "_lr")
        logger.info(
            "step %d/%d %.2f s/step, %.0f min left: %s", self.step, self.config.steps, per_step, left_min, shown
        )

    def _watch(self) -> None:
        """Report what the watched held-out frames say."""
        if self.watched:
            plain = dataclasses.replace(self.config, augment=AugmentConfig(), bev_flip=False)
            frames = TrainingFrames(
                self.dataset, self.ema, self.device, self.config.rare_boost, self.config.cache_gb, self.frames
            )
            terms = objective_figures(Objective(plain, self.ema, frames), self.watched, self.config.seed)
            self._append(
                {"step": self.step, "watch": terms | held_out_figures(self.ema, self.dataset, self.watched, TAUS)}
            )

    def _validate(self) -> None:
        curve = sweep_tau(self.ema, self.dataset, self.validation, TAUS)
        if not curve:
            logger.info("step %d: no ground truth in the validation scenes; keeping the last weights", self.step)
            self._checkpoint("best.safetensors", None)
            return
        curve = without_nan(curve)
        self.tau, metrics = max(curve.items(), key=lambda item: item[1]["rayiou"] or 0.0)
        self._append({"step": self.step, "validation": {str(t): m for t, m in curve.items()}, "tau": self.tau})
        logger.info(
            "step %d validation: RayIoU %.4f mIoU %.4f at tau %.2f",
            self.step,
            metrics["rayiou"] or 0.0,
            metrics["miou"] or 0.0,
            self.tau,
        )
        if (metrics["rayiou"] or 0.0) > self.best:
            self.best = metrics["rayiou"] or 0.0
            self._checkpoint("best.safetensors", {"tau": self.tau, **metrics})

    def _checkpoint(self, name: str, validation: dict | None) -> None:
        self.ema.config = dataclasses.replace(self.config.model, tau=self.tau)
        info = {
            "steps": self.step,
            "seconds": round(self.seconds, 1),
            "seed": self.config.seed,
            "data": Path(getattr(self.dataset, "root", "")).name,
            "frames": len(self.indices) - len(self.skipped),
            "validation": validation,
            "train": {k: v for k, v in to_dict(self.config).items() if k != "model"},
        }
        # Half precision halves the file; resume.pt keeps the full weights.
        save_checkpoint(self.out / name, self.ema, info, torch.float16)

    def _append(self, line: dict) -> None:
        self.watch.append(line)

    def _save(self, path: Path) -> None:
        self._checkpoint("last.safetensors", None)
        state = {
            "config": json.dumps(to_dict(self.config)),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "tau": self.tau,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(path)

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch raises many types for a damaged file; all mean the same to the user
            raise ValueError(f"{path} cannot be resumed from ({error}); delete it to start anew") from error
        if not isinstance(state, dict) or not {"config", "step", "best", "tau", "seconds"} <= set(state):
            raise ValueError(f"{path} was not written by `gsrender train`; delete it to start anew")
        stored, mine = json.loads(state["config"]), to_dict(self.config)
        if stored["model"] != mine["model"]:
            raise ValueError(f"{path} belongs to another model configuration; use the run's own config.yaml")
        for name in (k for k in mine if stored.get(k) != mine[k]):
            logger.warning("resumed with another %s: %s before, now %s", name, stored.get(name), mine[name])
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        kernels = [{k: group[k] for k in ("fused", "foreach")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, mine in zip(self.optimizer.param_groups, kernels, strict=True):
            group.update(mine)  # which kernel computes the step belongs to this machine, not to the run
        self.step, self.best, self.seconds, self.tau = (state[k] for k in ("step", "best", "seconds", "tau"))
        logger.info("resumed at step %d", self.step)
