"""What the held-out frames of a run say: losses and figures to look at, and the threshold that scores best there."""

import dataclasses
import logging
from dataclasses import dataclass

from gsrender_core.config import AugmentConfig, TrainConfig
from gsrender_core.evaluate import sweep_tau
from gsrender_core.lidar_validation import returns_score, sweep_tau_on_returns
from gsrender_core.metrics.miou import without_nan
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.supply import spread
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.watch import held_out_figures, objective_figures

logger = logging.getLogger(__name__)

TAUS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Verdict:
    """The threshold that scores best, its score (higher is better) and its figures; ``row``: all of it, for the log."""

    tau: float
    score: float
    figures: dict
    row: dict


class Validation:
    """Judges a network by frames that it does not learn from.

    Args:
        config: of the run.
        model: the network; its weights may change between two calls.
        frames: the run's, whose features are used again where they fit.
        supply: has ``dataset`` and ``validation``, the indices of held-out frames.
    """

    def __init__(self, config: TrainConfig, model: GSRender, frames: TrainingFrames, supply):
        self.config, self.model, self.frames, self.supply = config, model, frames, supply

    def look(self) -> dict | None:
        """Losses and figures of ``watch_frames`` of the held-out frames; None where none is watched."""
        c, data = self.config, self.supply.dataset
        watched = spread(self.supply.validation, c.watch_frames)
        if not watched:
            return None
        plain = dataclasses.replace(c, augment=AugmentConfig(), bev_flip=False)
        frames = TrainingFrames(data, self.model, self.frames.device, c.rare_boost, c.cache_gb, self.frames)
        terms = objective_figures(Objective(plain, self.model, frames), watched, c.seed)
        return terms | held_out_figures(self.model, data, watched, TAUS)

    def verdict(self, step: int) -> Verdict | None:
        """By ground truth; where there is none by what the LiDARs measured; None where there is neither.

        Args:
            step: for the log.
        """
        return self._by_truth(step) or self._by_returns(step)

    def _by_truth(self, step: int) -> Verdict | None:
        curve = sweep_tau(self.model, self.supply.dataset, self.supply.validation, TAUS)
        if not curve:
            return None
        curve = without_nan(curve)
        tau, figures = max(curve.items(), key=lambda item: item[1]["rayiou"] or 0.0)
        score = figures["rayiou"] or 0.0
        logger.info("step %d validation: RayIoU %.4f mIoU %.4f at tau %.2f", step, score, figures["miou"] or 0.0, tau)
        return Verdict(tau, score, figures, {"validation": {str(t): m for t, m in curve.items()}, "tau": tau})

    def _by_returns(self, step: int) -> Verdict | None:
        data = self.supply.dataset
        has_returns = hasattr(data, "lidar_returns")
        curve = sweep_tau_on_returns(self.model, data, self.supply.validation, TAUS) if has_returns else {}
        if not curve:
            return None
        tau, figures = max(curve.items(), key=lambda item: returns_score(item[1]))
        score, figures = returns_score(figures), without_nan(figures)
        logger.info(
            "step %d, %d LiDAR rays of held-out frames: %.1f %% end within 1 m of their return, %.1f %% meet nothing, "
            "RayIoU of occupied %.4f, of classes %s, at tau %.2f",
            step,
            figures["rays"],
            100 * figures["within@1"],
            100 * figures["missed"],
            figures["occupied_rayiou"] or 0.0,
            "unknown" if figures["lidar_rayiou"] is None else f"{figures['lidar_rayiou']:.4f}",
            tau,
        )
        return Verdict(tau, score, figures, {"returns": figures, "tau": tau})
