"""One step of the optimiser: forward and backward of every frame of the batch, in one process or several."""

import contextlib
import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from gsrender_core.config import TrainConfig
from gsrender_core.distributed import Group
from gsrender_core.model.gsrender import GSRender

logger = logging.getLogger(__name__)

_nothing = contextlib.nullcontext()


def make_optimizer(config: TrainConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW or Adam in one kernel for all parameters where torch has it, else in few."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
    settings = dict(lr=config.learning_rate, weight_decay=config.weight_decay)
    try:
        return kind(parameters, **settings, fused=True)
    except RuntimeError:  # torch before 2.4 fuses on CUDA only
        return kind(parameters, **settings, foreach=True)


def changing_state(model: GSRender) -> tuple[list[str], list[str]]:
    """Names in the state dict that training changes: floating-point ones, which can be averaged, and counters.

    A frozen backbone is in neither.
    """
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    floats, counters = [], []
    for name, value in model.state_dict().items():
        if name in fixed or (model.backbone.frozen and name.startswith("backbone.")):
            continue
        (floats if value.is_floating_point() else counters).append(name)
    return floats, counters


class FrameLoss(nn.Module):
    """The objective of one frame as a module.

    The objective calls the model's parts one by one, never its ``forward``; DistributedDataParallel
    prepares its reduction in ``forward``, so everything of a frame happens inside this one.
    """

    def __init__(self, objective: Callable[[int, bool], dict[str, torch.Tensor]], model: GSRender):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, i: int, render: bool, anchored: bool):
        """(sum of the loss terms or None, the terms, the error that made frame i unusable or None).

        ``anchored`` adds a zero that depends on every parameter: gradients can then be averaged over
        processes whatever terms each of them had, even none because its frame cannot be read.
        """
        anchor = sum(p.sum() for p in self.model.parameters() if p.requires_grad) * 0.0 if anchored else None
        try:
            terms = self.objective(i, render)
        except (ValueError, OSError) as error:  # a broken file or label: the message names it
            return anchor, {}, error
        total = sum(value for name, value in terms.items() if not name.startswith("_"))
        return total if anchor is None else total + anchor, terms, None


@dataclass
class StepReport:
    """What happened in a step.

    Attributes:
        terms: of each usable frame of this process, by frame index: loss terms and figures for the log.
        unreadable: frames of this process that could not be used, and why.
        not_finite: what was NaN or infinite here: (frame index, term).
        usable: frames that were used, over all processes.
        broken: frames with a loss that is not finite, over all processes; above 0 nothing was changed.
        dropped: frames that could not be used, over all processes.
        stop: how many processes were asked to stop.
        grad_norm: of the averaged gradient, before clipping.
        stepped: whether the weights were changed.
    """

    terms: dict[int, dict[str, float]] = field(default_factory=dict)
    unreadable: dict[int, Exception] = field(default_factory=dict)
    not_finite: list[tuple[int, str]] = field(default_factory=list)
    usable: int = 0
    broken: int = 0
    dropped: int = 0
    stop: int = 0
    grad_norm: float = 0.0
    stepped: bool = False


class GradientStep:
    """Owns what a step changes: weights, batch-norm statistics, optimiser and running mean of the weights (EMA).

    The batch is spread over the processes and runs frame by frame; gradients and statistics are means over
    the usable frames of the whole batch. So the result depends on how many frames a batch has, not on how
    many processes share them, but for the order of floating-point sums.
    """

    def __init__(self, config: TrainConfig, model: GSRender, objective, group: Group):
        if config.batch % group.size:
            raise ValueError(f"batch: {config.batch} frames cannot be shared evenly by {group.size} processes")
        self.config, self.model, self.group = config, model, group
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(config, self.trained)
        self.ema = copy.deepcopy(model).eval()
        floats, counters = changing_state(model)
        state, mean = model.state_dict(), self.ema.state_dict()
        self._averaged = [mean[n] for n in floats], [state[n] for n in floats]
        self._copied = [mean[n] for n in counters], [state[n] for n in counters]
        parameters = dict(model.named_parameters())
        self._statistics = [state[n] for n in floats if n not in parameters]
        self._norms_frozen = False
        self._frame_loss = group.wrap(FrameLoss(objective, model))

    def __call__(
        self,
        step: int,
        rate: float,
        frames: list[tuple[int, int]],
        stop: Callable[[], bool],
        norms_frozen: bool = False,
    ) -> StepReport:
        """Draw numbers and frame indices of this process's share -> what happened; the same decision everywhere.

        Randomness is a function of the seed and the draw's number alone: neither a resumed run nor another
        number of processes draws differently. ``stop`` is asked at the end of the step. ``norms_frozen``: batch
        norms keep their statistics.
        """
        c, report = self.config, StepReport()
        self._set_norms(norms_frozen)
        learn = [] if self._norms_frozen else self._statistics
        start, sums = [s.clone() for s in learn], [torch.zeros_like(s) for s in learn]
        counts = [n.clone() for n in self._copied[1]]
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[int, tuple[list[str], torch.Tensor]] = {}
        for n, (draw, i) in enumerate(frames):
            torch.manual_seed(c.seed * 1_000_003 + draw)
            # Gradients add up in this process; the last frame's backward pass averages the sums over all.
            last = n == len(frames) - 1
            with self.group.accumulate(self._frame_loss) if not last else _nothing:
                total, terms, error = self._frame_loss(i, step % c.render_every == 0, last and self.group.joined)
                if total is not None:
                    (total / len(frames)).backward()
            if error is not None:
                report.unreadable[i] = error
            else:
                values = [v.detach().to(self.trained[0].device, torch.float32) for v in terms.values()]
                losses[n] = list(terms), torch.stack(values)
                if learn:
                    torch._foreach_add_(sums, learn)
            if learn:  # every frame starts from the same statistics, so that their order does not matter
                torch._foreach_copy_(learn, start)
        torch._foreach_copy_(self._copied[1], counts)  # a step counts once, however its frames are shared out
        for n, (names, values) in losses.items():
            i, values = frames[n][1], values.tolist()
            report.terms[n] = dict(zip(names, values, strict=True))
            wrong = [m for m, v in report.terms[n].items() if not m.startswith("_") and not math.isfinite(v)]
            report.not_finite += [(i, m) for m in wrong]
        report.stop = int(stop())
        self._agree(report, learn, sums)
        return self._apply(report, rate, step, learn, sums)

    def _agree(self, report: StepReport, learn: list, sums: list) -> None:
        """Sum what every process must know, and the statistics, in one exchange."""
        counts = [len(report.terms), len({i for i, _ in report.not_finite}), len(report.unreadable), report.stop]
        head = torch.tensor(counts, dtype=torch.float32, device=self.group.device)
        flat = self.group.sum(torch.cat([head, *(s.flatten() for s in sums)]))
        report.usable, report.broken, report.dropped, report.stop = (round(x) for x in flat[:4].tolist())
        if learn:
            parts = flat[4:].split([s.numel() for s in sums])
            torch._foreach_copy_(sums, [p.view_as(s) for p, s in zip(parts, sums, strict=True)])

    def _apply(self, report: StepReport, rate: float, step: int, learn: list, sums: list) -> StepReport:
        c = self.config
        if report.usable == 0 or report.broken > 0:
            return report
        for p in self.trained:
            if p.grad is None:  # as in several processes: Adam's means go on where no term used a parameter
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in self.trained]
        if report.usable < c.batch:
            torch._foreach_mul_(gradients, c.batch / report.usable)
        report.grad_norm = float(nn.utils.clip_grad_norm_(self.trained, c.grad_clip, foreach=True))
        if not math.isfinite(report.grad_norm):
            report.broken = report.usable
            return report
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if learn:
            torch._foreach_div_(sums, report.usable)
            torch._foreach_copy_(learn, sums)
            torch._foreach_add_(self._copied[1], 1)
        self._update_ema(step)
        report.stepped = True
        return report

    def _set_norms(self, frozen: bool) -> None:
        """Batch norms learn their statistics until they are frozen; walks the modules only when that changes."""
        if frozen == self._norms_frozen:
            return
        self.model.train()
        for module in self.model.modules() if frozen else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        self._norms_frozen = frozen

    @torch.no_grad()
    def _update_ema(self, step: int) -> None:
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))  # short memory while it is young
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        torch._foreach_copy_(*self._copied)

    def checksum(self) -> float:
        """The norm of all weights and statistics: it differs where they do."""
        return math.sqrt(sum(float(value.detach().double().square().sum()) for value in self._averaged[1]))

    def state_dict(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        kernels = [{k: group[k] for k in ("fused", "foreach")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, mine in zip(self.optimizer.param_groups, kernels, strict=True):
            group.update(mine)  # which kernel computes the step belongs to this machine, not to the run
