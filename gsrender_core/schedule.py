"""How learning rate and batch norms change over a run: of a length that is known, or that a replay decides."""

import math

from gsrender_core.config import TrainConfig

LAST_RATE = 0.01  # of the learning rate, at the last step


class Schedule:
    """Warm-up, then a cosine or linear fall to 1 % at the last of ``config.steps``."""

    def __init__(self, config: TrainConfig):
        self.config = config

    @property
    def end(self) -> int | None:
        """Number of steps of the whole run; None while it is not known."""
        return self.config.steps

    def over(self, step: int) -> bool:
        """Whether no step follows after ``step`` of them."""
        return self.end is not None and step >= self.end

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        c = self.config
        if step < c.warmup_steps:
            return c.learning_rate * (step + 1) / c.warmup_steps
        return c.learning_rate * self._fallen((step - c.warmup_steps) / max(1, c.steps - c.warmup_steps))

    def norms_frozen(self, step: int) -> bool:
        """Whether batch norms keep their statistics in a step."""
        return step >= self.config.freeze_norm_at * self.config.steps

    def _fallen(self, progress: float) -> float:
        """Share of the learning rate that is left after ``progress`` 0 .. 1 of the fall."""
        shape = 0.5 * (1 + math.cos(math.pi * progress)) if self.config.schedule == "cosine" else 1 - progress
        return LAST_RATE + (1 - LAST_RATE) * shape


class OpenSchedule(Schedule):
    """Warm-up, then the full rate until ``close``, then the fall over ``finish_steps``.

    Nobody knows at its beginning how many steps a replay allows: the fall waits for its end. It begins in time for
    ``config.steps`` at the latest, so that a replay that loops for ever ends as well. ``config.freeze_norm_at`` is a
    share of the steps of the fall here.

    Raises:
        ValueError: ``finish_steps`` is below 1, or more than ``config.steps``.
    """

    def __init__(self, config: TrainConfig, finish_steps: int):
        super().__init__(config)
        if not 1 <= finish_steps <= config.steps:
            raise ValueError(f"finish_steps: {finish_steps} must lie in 1 .. steps, {config.steps}")
        self.finish_steps = finish_steps
        self._closed_at: int | None = None

    def close(self, step: int) -> None:
        """Let the fall begin after ``step`` steps; the first call counts."""
        if self._closed_at is None:
            self._closed_at = step

    def advance(self, step: int) -> None:
        """Close by itself where ``config.steps`` leaves no more than the fall."""
        if step >= self.config.steps - self.finish_steps:
            self.close(step)

    @property
    def end(self) -> int | None:
        """Number of steps of the whole run; None before it is closed."""
        return None if self._closed_at is None else min(self._closed_at + self.finish_steps, self.config.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        c = self.config
        warm = min(1.0, (step + 1) / c.warmup_steps) if c.warmup_steps > 0 else 1.0
        return c.learning_rate * warm * self._fallen(self._progress(step))

    def norms_frozen(self, step: int) -> bool:
        """Whether batch norms keep their statistics in a step."""
        return self._closed_at is not None and self._progress(step) >= self.config.freeze_norm_at

    def _progress(self, step: int) -> float:
        """How far the fall is, 0 .. 1."""
        if self._closed_at is None:
            return 0.0
        return min(1.0, max(0, step - self._closed_at) / self.finish_steps)
