"""A histogram that is filled in parts: mean, spread and quantiles of more values than one keeps."""

import math
from collections.abc import Sequence

import numpy as np


class Histogram:
    """Counts values in equal bins of [low, high]; values outside count in the outermost bins.

    Mean and spread are those of the values themselves, quantiles are exact to a bin. Values that are not finite are
    counted in ``dropped`` and otherwise ignored.
    """

    def __init__(self, low: float, high: float, bins: int):
        assert low < high and bins > 0, (low, high, bins)
        self.low, self.high = low, high
        self.counts = np.zeros(bins, dtype=np.int64)
        self.count = self.dropped = 0
        self._sum = self._squares = 0.0

    @property
    def edges(self) -> np.ndarray:
        """Borders of the bins, float64 [bins + 1]."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    def add(self, values: np.ndarray) -> None:
        """Add values of any shape."""
        values = np.asarray(values, dtype=np.float64).ravel()
        known = values[np.isfinite(values)]
        self.dropped += len(values) - len(known)
        self.count += len(known)
        self._sum += float(known.sum())
        self._squares += float((known**2).sum())
        index = np.floor((known - self.low) / (self.high - self.low) * len(self.counts)).astype(np.int64)
        self.counts += np.bincount(np.clip(index, 0, len(self.counts) - 1), minlength=len(self.counts))

    def merge(self, other: "Histogram") -> None:
        """Add what another histogram of the same bins has seen."""
        assert (self.low, self.high, len(self.counts)) == (other.low, other.high, len(other.counts))
        self.counts += other.counts
        self.count += other.count
        self.dropped += other.dropped
        self._sum += other._sum
        self._squares += other._squares

    @property
    def mean(self) -> float:
        """Mean, or NaN of nothing."""
        return self._sum / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Standard deviation (of the population), or NaN of nothing."""
        return math.sqrt(max(0.0, self._squares / self.count - self.mean**2)) if self.count else math.nan

    def quantile(self, q: float) -> float:
        """The value below which a share ``q`` lies, interpolated within its bin; NaN of nothing."""
        if not self.count:
            return math.nan
        below = np.concatenate([[0], np.cumsum(self.counts)])
        wanted = min(max(q * self.count, 1e-9), self.count)  # above 0: the lowest value is in the first filled bin
        n = int(np.searchsorted(below, wanted, side="left")) - 1
        inside = (wanted - below[n]) / self.counts[n]
        return float(self.low + (n + inside) * (self.high - self.low) / len(self.counts))

    def share_beyond(self, limit: float) -> float:
        """Share of the values whose magnitude exceeds ``limit``, exact to a bin; NaN of nothing."""
        if not self.count:
            return math.nan
        edges = self.edges
        return float(self.counts[(edges[:-1] >= limit - 1e-12) | (edges[1:] <= -limit + 1e-12)].sum() / self.count)

    def coarse(self, bins: int, low: float | None = None, high: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Edges [bins + 1] and counts int64 [bins] over [low, high], each fine bin by its middle; default all."""
        low, high = self.low if low is None else low, self.high if high is None else high
        edges = np.linspace(low, high, bins + 1)
        fine = self.edges
        middles = (fine[1:] + fine[:-1]) / 2
        counts, _ = np.histogram(middles, edges, weights=self.counts)
        return edges, counts.round().astype(np.int64)

    def result(self, quantiles: Sequence[float]) -> dict[str, float]:
        """``mean``, ``std`` and ``q01``, ``q50``, ... of the given quantiles."""
        named = {f"q{round(100 * q):02d}": self.quantile(q) for q in quantiles}
        return {"mean": self.mean, "std": self.std, **named}
