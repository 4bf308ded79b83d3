"""Curves of training runs from their ``log.jsonl``: read with patience, drawn over one another."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gsrender_core.pictures.axes import COLORS, INK, PAPER, legend_rows
from gsrender_core.pictures.plots import Diagram, Series, line_chart, sheet

logger = logging.getLogger(__name__)

_COLUMNS, _PANEL = 4, (500, 310)
_MANY, _FEW = 30, 12  # values from which on their running mean is drawn over them; up to which each is marked


@dataclass(frozen=True)
class Panel:
    """One diagram of the sheet: (key in the log, name in the legend), the most telling first."""

    title: str
    quantities: tuple[tuple[str, str], ...]
    y_label: str = ""
    log_y: bool = False


# A dotted key reaches into a nested object; several runs show the first two that they have.
PANELS = (
    Panel(
        "Rendered losses, weighted",
        (("semantic", "semantic"), ("depth", "depth"), ("adj_semantic", "semantic, adjacent"),
         ("adj_depth", "depth, adjacent"), ("drift", "drift")),
        log_y=True,
    ),
    Panel(
        "Other losses, weighted",
        (("ray_opacity", "ray opacity"), ("depth_net", "depth net"), ("ray_semantic", "ray semantic"),
         ("free_prior", "free prior"), ("voxel", "voxel")),
        log_y=True,
    ),
    Panel(
        "Offsets of the means",
        (("offset_mean", "length of the mean"), ("offset_spread", "spread"),
         ("watch.offset_mean_x", "held out: mean x"), ("watch.offset_mean_y", "mean y"),
         ("watch.offset_mean_z", "mean z")),
        "voxels; held out: occupied ones",
    ),
    Panel(
        "Gaussians beyond half a voxel",
        (("offset_over_half", "training, all seen"), ("watch.offset_over_half", "held out, occupied"),
         ("watch.offset_over_half_z", "of these in z")),
        "share",
    ),
    Panel(
        "Opacity",
        (("opacity_50", "50 %"), ("opacity_90", "90 % quantile"), ("opacity_10", "10 %"),
         ("opacity_over_half", "share above 0.5"), ("watch.opacity_99", "held out: 99 %")),
    ),
    Panel(
        "Rendered alpha at labels",
        (("alpha", "training"), ("watch.alpha", "held out"), ("adj_alpha", "adjacent")),
    ),
    Panel(
        "Relative depth error at labels",
        (("depth_error", "training"), ("watch.depth_error", "held out"), ("adj_depth_error", "adjacent"),
         ("held_out.median_abs_rel", "held-out points")),
        "median of |d - t| / t",
    ),
    Panel(
        "Class accuracy at labels",
        (("accuracy", "training"), ("watch.accuracy", "held out"), ("adj_accuracy", "adjacent"),
         ("held_out.accuracy", "held-out points")),
        "share",
    ),
    Panel(
        "RayIoU, held out",
        (("validation.rayiou", "all validation frames"), ("watch.constant_rayiou", "constant images"),
         ("watch.rayiou", "watched frames")),
    ),
    Panel(
        "mIoU, held out",
        (("validation.miou", "all validation frames"), ("watch.constant_miou", "constant images"),
         ("watch.miou", "watched frames")),
    ),
    Panel("Learning rate and gradient norm", (("lr", "learning rate"), ("grad_norm", "gradient norm")), log_y=True),
)  # fmt: skip


def read_log(path: Path) -> list[dict]:
    """Rows of a run's log, whatever an interrupted run has left of it.

    Lines that are no JSON objects with a ``step`` are left out with a warning, but for the last one, which a run that
    is being written or was killed may leave unfinished. Where a run was resumed from an earlier checkpoint, the rows
    that it repeats are replaced.

    Args:
        path: ``log.jsonl``, or the run's folder.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    path = path / "log.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the folder of a run of `gsrender train`")
    rows, broken = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not math.isfinite(_number(row.get("step"))):
            broken.append(number)
            continue
        if rows and row["step"] < rows[-1]["step"]:
            rows = [earlier for earlier in rows if earlier["step"] < row["step"]]
        rows.append(row)
    cut = [number for number in broken if number < len(lines)]  # a finished last line ends with a line break
    if cut:
        logger.warning("%s: %d unreadable lines left out, the first is line %d", path, len(cut), cut[0])
    return rows


def run_names(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for each run: its folder's, with as many parents as tell equal names apart.

    Raises:
        ValueError: a run is named twice.
    """
    folders = [path.resolve() if path.is_dir() else path.resolve().parent for path in paths]
    for depth in range(1, max([len(folder.parts) for folder in folders], default=0) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    twice = next(str(path) for n, path in enumerate(paths) if folders[n] in folders[:n])
    raise ValueError(f"{twice} is named twice; name each run once")


def _number(value) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def values_of(rows: Sequence[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [N] of a quantity, float64; NaN where a row has the key without a number.

    Args:
        rows: as ``read_log`` returns them.
        key: of a row, with dots between the keys of nested objects. ``validation.<metric>`` is the metric at the
            opacity threshold of the highest RayIoU.
    """
    found: dict[float, float] = {}
    for row in rows:
        value = _best_of(row["validation"]) if isinstance(row.get("validation"), dict) else None
        value = {**row, "validation": value}
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) and part in value else _ABSENT
        if value is not _ABSENT and not isinstance(value, dict):
            found[_number(row["step"])] = _number(value)
    steps = np.array(sorted(found), dtype=np.float64)
    return steps, np.array([found[s] for s in steps], dtype=np.float64)


_ABSENT = object()


def _best_of(curve: dict) -> dict:
    """The metrics at the threshold of the highest RayIoU; empty where there is none."""
    known = [m for m in curve.values() if isinstance(m, dict) and math.isfinite(_number(m.get("rayiou")))]
    return max(known, key=lambda m: m["rayiou"], default={})


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite values at most ``window // 2`` places away, [N]; NaN where there is none."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    at = np.arange(len(values))
    low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan)


def curves_picture(runs: dict[str, list[dict]], title: str = "") -> np.ndarray:
    """All panels of one run, or of several over one another: then a colour a run, a dash a quantity.

    Args:
        runs: name (ASCII) -> rows of ``read_log``.
        title: headline.

    Returns:
        uint8 [H, W, 3] BGR.
    """
    panels = [_draw(panel, runs) for panel in PANELS] + [_over_tau(runs)]
    last = [rows[-1]["step"] for rows in runs.values() if rows]
    title = title or f"{', '.join(runs)}: step {max(last):g}" if last else title or ", ".join(runs)
    if len(runs) == 1:
        return sheet(panels, _COLUMNS, title)
    strip = np.full((26 * (1 + len(runs) // 4), panels[0].shape[1] * _COLUMNS, 3), PAPER, dtype=np.uint8)
    used = legend_rows(strip, [(name, _color(n), 0) for n, name in enumerate(runs)], 24, 4)
    body = sheet(panels, _COLUMNS)
    strip = np.pad(strip[: used + 6], ((0, 0), (0, body.shape[1] - strip.shape[1]), (0, 0)), mode="edge")
    return np.concatenate([strip, body])


def _color(n: int) -> tuple[int, int, int]:
    return COLORS[n % len(COLORS)]


def _draw(panel: Panel, runs: dict[str, list[dict]]) -> np.ndarray:
    several = len(runs) > 1
    series: list[Series] = []
    known = []
    for key, label in panel.quantities:
        curves = [(n, *values_of(rows, key)) for n, rows in enumerate(runs.values())]
        curves = [curve for curve in curves if len(curve[1])]
        if curves:
            known.append((label, curves))
    for dash, (label, curves) in enumerate(known[:2] if several else known):
        if several:
            series.append(Series(label, np.zeros(0), np.zeros(0), color=INK, dash=dash))
        for n, steps, values in curves:
            color = _color(n) if several else _color(dash)
            series += _smoothed(Series("" if several else label, steps, values, color=color, dash=dash * several))
    steps = [row["step"] for rows in runs.values() for row in rows]
    x_range = (0, max(steps)) if steps and max(steps) > 0 else None
    diagram = Diagram(panel.title, y_label=panel.y_label, size=_PANEL, log_y=panel.log_y, x_range=x_range)
    return line_chart(series, diagram)


def _smoothed(one: Series) -> list[Series]:
    """The series itself with marks while it is short, else its running mean over its faint values."""
    if len(one.x) < _MANY:
        return [replace(one, marks=len(one.x) <= _FEW)]
    mean = running_mean(one.y, max(5, len(one.y) // 25))
    return [replace(one, label="", dash=0, faint=True), replace(one, y=mean)]


def _over_tau(runs: dict[str, list[dict]]) -> np.ndarray:
    """The latest validation's metrics over the opacity threshold."""
    several, series = len(runs) > 1, []
    for n, rows in enumerate(runs.values()):
        curve = next((r["validation"] for r in reversed(rows) if isinstance(r.get("validation"), dict)), None)
        if curve is None:
            nested = [r["watch"] for r in rows if isinstance(r.get("watch"), dict)]
            curve = next((w["over_tau"] for w in reversed(nested) if isinstance(w.get("over_tau"), dict)), {})
        points = sorted((_threshold(tau), m) for tau, m in curve.items() if isinstance(m, dict))
        taus = np.array([tau for tau, _ in points])
        for dash, key in enumerate(("rayiou", "miou")):
            values = np.array([_number(m.get(key)) for _, m in points])
            label = {"rayiou": "RayIoU", "miou": "mIoU"}[key] if n == 0 else ""
            color = _color(n) if several else _color(dash)
            series.append(Series(label, taus, values, color=color, dash=dash * several, marks=True))
    return line_chart(series, Diagram("Over the threshold, latest validation", x_label="tau", size=_PANEL))


def _threshold(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
