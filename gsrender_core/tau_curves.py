"""Comparing two models along tau: at equal thresholds and at equal predicted occupancy.

A model that predicts less has fewer duplicates, whatever it has learnt; a model whose opacities are lower predicts
less at the same tau. So a difference in duplicates means something only where both comparisons agree.

A curve is ``{str(tau): figures}``, as ``evaluate.study_scores`` returns it; unknown figures are None.
"""

import math
from collections.abc import Collection, Mapping

import numpy as np

Curve = Mapping[str, Mapping[str, float | None]]


def at_equal_tau(a: Curve, b: Curve, key: str, taus: Collection[float] | None = None) -> float:
    """Mean difference b - a of a figure over the thresholds (of ``taus``) at which both know it; NaN without one."""
    wanted = None if taus is None else {str(tau) for tau in taus}
    shared = [tau for tau in a if tau in b and (wanted is None or tau in wanted)]
    shared = [tau for tau in shared if a[tau][key] is not None and b[tau][key] is not None]
    return float(np.mean([b[tau][key] - a[tau][key] for tau in shared])) if shared else math.nan


def at_equal_occupancy(
    a: Curve, b: Curve, key: str, points: int = 33, band: tuple[float, float] = (0.0, math.inf)
) -> float:
    """Mean difference b - a of a figure over the numbers of occupied voxels that both curves reach.

    Linear between neighbouring thresholds, at ``points`` numbers evenly spread in their logarithm; NaN where the
    curves share no occupancy within ``band``. Far from the truth's occupancy figures mean little: in a grid that is
    nearly full all copies are one.
    """
    curves = [_by_occupancy(curve, key) for curve in (a, b)]
    if not all(len(occupied) for occupied, _ in curves):
        return math.nan
    low = max(band[0], *(occupied[0] for occupied, _ in curves))
    high = min(band[1], *(occupied[-1] for occupied, _ in curves))
    if low > high:
        return math.nan
    at = np.exp(np.linspace(math.log(low), math.log(high), points)).clip(low, high)
    at_a, at_b = (np.interp(at, occupied, figure) for occupied, figure in curves)
    return float(np.mean(at_b - at_a))


def _by_occupancy(curve: Curve, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Occupied voxels, rising, and the figure there; equal occupancies are merged, empty grids left out."""
    rows: dict[float, list[float]] = {}
    for row in curve.values():
        if row[key] is not None and row["occupied"]:
            rows.setdefault(row["occupied"], []).append(row[key])
    occupied = sorted(rows)
    return np.array(occupied), np.array([np.mean(rows[number]) for number in occupied])
