"""Tables of a study from its runs' scores: mean and spread over seeds, differences paired by seed."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsrender_core.config import TrainConfig
from gsrender_core.metrics.miou import without_nan
from gsrender_core.studies import Run, Study, plan
from gsrender_core.tau_curves import at_equal_occupancy, at_equal_tau

SCORES_VERSION = 1  # raise it when scores change their meaning: old ones are then computed again
# Columns of the table: key of ``summary``, heading, factor, decimals.
COLUMNS = (
    ("rayiou", "RayIoU", 100, 1),
    ("miou", "mIoU", 100, 1),
    ("rayiou_best", "RayIoU at its best tau", 100, 1),
    ("rayiou_splat", "splat read-out at its best tau", 100, 1),
    ("rayiou_equal", "RayIoU at the truth's occupancy", 100, 1),
    ("extra_equal", "extra runs a ray there", 1, 3),
    ("extra", "extra runs a ray at tau", 1, 3),
    ("constant", "RayIoU, constant image", 100, 1),
    ("tau", "tau", 1, 2),
)
STUDY_TAUS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75)  # scored beside the model's own
BAND = (0.5, 2.0)  # of the truth's occupancy: where runs are compared at equal occupancy
# Differences to the first variant, paired by seed: key, heading, factor, decimals.
DIFFERENCES = (
    ("rayiou", "ΔRayIoU", 100, 1),
    ("rayiou_best", "ΔRayIoU at the best tau", 100, 1),
    ("rayiou_splat", "ΔRayIoU, splat", 100, 1),
    ("rayiou_occupancy", "ΔRayIoU at equal occupancy", 100, 1),
    ("extra_tau", "Δextra runs at equal tau", 1, 3),
    ("extra_occupancy", "Δextra runs at equal occupancy", 1, 3),
)


def scores_of(folder: Path) -> dict | None:
    """A finished run's scores; None where there are none, or old ones."""
    path = folder / "scores.json"
    if not path.is_file():
        return None
    scores = json.loads(path.read_text(encoding="utf-8"))
    return scores if scores.get("version") == SCORES_VERSION else None


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of ``n`` values; unknown ones (None, NaN) are left out."""

    mean: float
    sd: float
    n: int

    @classmethod
    def of(cls, values: list[float | None]) -> "Spread":
        """Statistics of the known values; the deviation of fewer than two is NaN."""
        known = np.array([v for v in values if v is not None and not math.isnan(v)], dtype=np.float64)
        mean = float(known.mean()) if len(known) else math.nan
        return cls(mean, float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known))

    def text(self, factor: float, decimals: int, signed: bool = False) -> str:
        """``mean ± sd`` in the table's unit; ``-`` where nothing is known."""
        if self.n == 0:
            return "-"
        text = f"{factor * self.mean:{'+' if signed else ''}.{decimals}f}"
        return text if math.isnan(self.sd) else f"{text} ± {factor * self.sd:.{decimals}f}"


def at_occupancy(curve: dict[str, dict], occupied: float, key: str) -> float:
    """A figure where the tau curve predicts ``occupied`` voxels, linear between neighbouring thresholds; else NaN.

    Args:
        curve: figures by tau; each has ``occupied``, the mean number of occupied voxels predicted.
        occupied: the number asked for.
        key: the figure.
    """
    points = sorted((row["occupied"], row[key]) for row in curve.values() if row[key] is not None)
    for (low, at_low), (high, at_high) in zip(points, points[1:], strict=False):
        if low <= occupied <= high:
            share = (occupied - low) / (high - low) if high > low else 0.0
            return at_low + share * (at_high - at_low)
    return math.nan


def summary(scores: dict) -> dict[str, float]:
    """The table's figures of one run, from its ``scores.json``."""
    tau, voxel = str(scores["tau"]), scores["voxel"]
    at_tau, truth = voxel[tau], scores["truth"]
    return {
        "rayiou": at_tau["rayiou"],
        "miou": at_tau["miou"],
        "rayiou_equal": at_occupancy(voxel, truth["occupied"], "rayiou"),
        "extra_equal": at_occupancy(voxel, truth["occupied"], "extra_runs"),
        "extra": at_tau["extra_runs"],
        "rayiou_best": _best(voxel),
        "rayiou_splat": _best(scores.get("splat") or {}),
        "constant": scores["constant"]["rayiou"],
        "tau": scores["tau"],
    }


def _best(curve: dict[str, dict]) -> float:
    """Highest RayIoU of a tau curve: chosen on the scenes that are scored, so fair only between read-outs and runs."""
    return max((row["rayiou"] or 0.0 for row in curve.values()), default=math.nan)


def differences(a: dict, b: dict) -> dict[str, float]:
    """The figures of ``DIFFERENCES`` of one run (b) against another (a) of the same seed, from their scores."""
    first, second = a["voxel"], b["voxel"]
    truth = a["truth"]["occupied"]
    band = (BAND[0] * truth, BAND[1] * truth)
    plain = {key: _minus(summary(b)[key], summary(a)[key]) for key in ("rayiou", "rayiou_best", "rayiou_splat")}
    return plain | {
        "rayiou_occupancy": at_equal_occupancy(first, second, "rayiou", band=band),
        "extra_tau": at_equal_tau(first, second, "extra_runs", STUDY_TAUS),
        "extra_occupancy": at_equal_occupancy(first, second, "extra_runs", band=band),
    }


def tabulate(study: Study, base: TrainConfig, seeds: int, out: Path) -> dict:
    """Everything known of a study so far, nested plain values ready for JSON.

    Keys: ``question``, ``source``, ``seeds`` and ``rows``: of each variant its name, note,
    changes, folders, per-seed figures, their mean and spread, and the differences to the first
    variant paired by seed.
    """
    rows, first = [], None
    for variant in study.variants:
        runs = [run for run in plan(study, base, seeds) if run.variant == variant.name]
        found = {run.config.seed: scores_of(run.folder(out / "runs")) for run in runs}
        found = {seed: scores for seed, scores in found.items() if scores is not None}
        figures = {seed: summary(scores) for seed, scores in found.items()}
        first = found if first is None else first
        paired = [differences(first[seed], found[seed]) for seed in sorted(set(first) & set(found))]
        rows.append(
            {
                "variant": variant.name,
                "note": variant.note,
                "changes": variant.changes,
                "steps": runs[0].config.steps,
                "runs": [_relative(run, out) for run in runs],
                "per_seed": {str(seed): values for seed, values in figures.items()},
                "spread": {key: vars(Spread.of([values[key] for values in figures.values()])) for key, *_ in COLUMNS},
                "difference": {key: vars(Spread.of([pair[key] for pair in paired])) for key, *_ in DIFFERENCES},
            }
        )
    return {"question": study.question, "source": study.source, "seeds": seeds, "rows": rows}


def _minus(a: float | None, b: float | None) -> float:
    return math.nan if a is None or b is None else a - b


def _relative(run: Run, out: Path) -> str:
    return run.folder(out / "runs").relative_to(out).as_posix()


def markdown(name: str, table: dict) -> str:
    """The table as Markdown: a row a variant, ``mean ± standard deviation over seeds``."""
    heads = ["variant", "seeds", "steps", *(heading for _, heading, _, _ in (*COLUMNS, *DIFFERENCES))]
    lines = [f"### {name}: {table['question']}", "", f"Source: {table['source']}.", ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table["rows"]:
        spread = {key: Spread(**value) for key, value in row["spread"].items()}
        difference = {key: Spread(**value) for key, value in row["difference"].items()}
        cells = [row["variant"], str(len(row["per_seed"])), str(row["steps"])]
        cells += [spread[key].text(factor, decimals) for key, _, factor, decimals in COLUMNS]
        for key, _, factor, decimals in DIFFERENCES:
            cells.append("" if row is table["rows"][0] else difference[key].text(factor, decimals, True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_table(name: str, table: dict, out: Path) -> Path:
    """Write ``<name>.json`` and ``<name>.md`` into ``out``; returns the latter."""
    text = json.dumps(without_nan(json.loads(json.dumps(table))), indent=1, allow_nan=False)
    (out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    path = out / f"{name}.md"
    path.write_text(markdown(name, table), encoding="utf-8")
    return path
