"""Diagrams drawn with OpenCV: curves with error bands, histograms, bars with error bars, and sheets of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from gsrender_core.pictures.axes import (
    COLORS,
    INK,
    PAPER,
    SOFT,
    Axes,
    legend_rows,
    shorten,
    text_width,
    tick_text,
    ticks,
    value_range,
    write,
)

_TITLE = 0.55
_GAP = 16  # px between panels


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        label: name in the legend; empty: not in the legend.
        x, y: [N] values, finite or not.
        spread: [N] half width of a band around y, or None.
        color: BGR, default by the position among the series.
        dash: 0 solid, 1 dashed, 2 dotted.
        faint: thin and pale, as raw values behind their running mean.
        steps: a histogram: y [N] over the bins whose edges are x [N + 1], filled.
        marks: a dot at every value.
    """

    label: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None
    color: tuple[int, int, int] | None = None
    dash: int = 0
    faint: bool = False
    steps: bool = False
    marks: bool = False

    def __post_init__(self):
        extra = 1 if self.steps else 0
        if len(self.x) != len(self.y) + extra or (self.spread is not None and len(self.spread) != len(self.y)):
            raise ValueError(f"series {self.label!r}: {len(self.x)} x values for {len(self.y)} y values")


@dataclass(frozen=True)
class Diagram:
    """What a diagram says about itself.

    Attributes:
        title: above it.
        x_label, y_label: quantity and unit of the axes.
        size: width and height in pixels.
        log_y: logarithmic y axis; values of 0 and below are left out.
        x_range, y_range: values at the edges, default those of the data.
        rules: x values marked by a vertical line.
    """

    title: str
    x_label: str = "step"
    y_label: str = ""
    size: tuple[int, int] = (560, 340)
    log_y: bool = False
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    rules: tuple[float, ...] = ()


def line_chart(series: Sequence[Series], diagram: Diagram) -> np.ndarray:
    """Draw curves over one pair of axes.

    Values that are not finite leave gaps; no series, or none with a finite value, gives an empty box that says so.

    Returns:
        uint8 [H, W, 3] BGR of the diagram's size.
    """
    width, height = diagram.size
    image = np.full((height, width, 3), PAPER, dtype=np.uint8)
    colors = [s.color or COLORS[n % len(COLORS)] for n, s in enumerate(series)]
    write(image, shorten(diagram.title, width - 20, _TITLE), (12, 22), _TITLE)
    named = [(s.label, c, s.dash) for s, c in zip(series, colors, strict=True) if s.label]
    top = legend_rows(image, named, 12, 32)
    if diagram.y_label:
        write(image, shorten(diagram.y_label, width - 20), (12, top + 13), color=SOFT)
        top += 20
    ys = [np.asarray(s.y, dtype=np.float64) for s in series]
    if diagram.log_y:
        ys = [np.where(y > 0, y, np.nan) for y in ys]
    reach = [y + sign * _known(s.spread) for s, y in zip(series, ys, strict=True) if s.spread is not None
             for sign in (-1, 1)]  # fmt: skip
    zero = [np.zeros(1)] if any(s.steps for s in series) else []
    y_range = diagram.y_range or value_range([*ys, *reach, *zero], diagram.log_y)
    x_range = diagram.x_range or _x_range(series)
    axes = Axes(image, (64, top + 6, width - 22, height - 46), x_range, y_range, diagram.log_y)
    axes.draw_ticks(diagram.x_label)
    for value in diagram.rules:
        if x_range[0] <= value <= x_range[1]:
            axes.line(np.array([value, value]), np.array(y_range), SOFT, 1, dash=1)
    if not any(np.isfinite(y).any() for y in ys):
        note = "no values yet"
        write(image, note, ((64 + width - 22 - text_width(note)) // 2, (top + height - 40) // 2), color=SOFT)
    for one, y, color in zip(series, ys, colors, strict=True):
        _draw_series(axes, one, y, color)
    return image


def _known(spread: np.ndarray) -> np.ndarray:
    """Half widths of a band, 0 where they are not finite."""
    spread = np.asarray(spread, dtype=np.float64)
    return np.where(np.isfinite(spread), spread, 0.0)


def _x_range(series: Sequence[Series]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(s.x, dtype=np.float64) for s in series]) if series else np.zeros(0)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _draw_series(axes: Axes, one: Series, y: np.ndarray, color) -> None:
    x = np.asarray(one.x, dtype=np.float64)
    if one.steps:
        x, y = np.repeat(x, 2)[1:-1], np.repeat(y, 2)
        axes.area(x, np.full_like(y, axes.y_range[0]), y, color, 0.15)
    if one.spread is not None:
        axes.area(x, y - _known(one.spread), y + _known(one.spread), color)
    if one.faint:
        color = tuple(int(0.3 * c + 0.7 * p) for c, p in zip(color, PAPER, strict=True))
    axes.line(x, y, color, 1 if one.faint or one.steps else 2, one.dash)
    if one.marks:
        axes.dots(x, y, color)


def bar_chart(
    rows: Sequence[str],
    mean: Sequence[float],
    spread: Sequence[float] | None = None,
    title: str = "",
    unit: str = "",
) -> np.ndarray:
    """Horizontal bars with error bars, the first row on top, values written at their ends.

    Args:
        rows: a name for each bar; ASCII.
        mean: [N] lengths; one that is not finite has no bar and reads "no value".
        spread: [N] half lengths of the error bars; None or not finite: no error bar.
        title: above the bars.
        unit: below the axis.

    Returns:
        uint8 [H, 900, 3] BGR, as high as the rows need.

    Raises:
        ValueError: rows, mean and spread differ in length.
    """
    values = np.array([np.nan if v is None else v for v in mean], dtype=np.float64)
    errors = np.array([np.nan if v is None else v for v in (spread if spread is not None else [None] * len(rows))],
                      dtype=np.float64)  # fmt: skip
    if not len(rows) == len(values) == len(errors):
        raise ValueError(f"bar chart {title!r}: {len(rows)} rows, {len(values)} means, {len(errors)} spreads")
    width, bar, top = 900, 26, 44
    height = top + bar * max(1, len(rows)) + 52
    image = np.full((height, width, 3), PAPER, dtype=np.uint8)
    write(image, shorten(title, width - 20, _TITLE), (12, 24), _TITLE)
    left = min(340, 24 + max([text_width(name) for name in rows], default=0))
    ends = np.concatenate([values, values + _known(errors), values - _known(errors), [0.0]])
    ends = ends[np.isfinite(ends)]
    low, high = float(ends.min()), float(ends.max())
    high = high if high > low else low + 1.0
    right, bottom = width - 150, height - 48  # room for the written value

    def at(value: float) -> int:
        return left + round((right - left) * (value - low) / (high - low))

    for value in ticks(low, high, 6):
        cv2.line(image, (at(value), top - 4), (at(value), bottom), (222, 216, 212), 1)
        text = tick_text(value)
        write(image, text, (at(value) - text_width(text) // 2, bottom + 17), color=SOFT)
    for n, (name, value, error) in enumerate(zip(rows, values, errors, strict=True)):
        middle = top + bar * n + bar // 2
        name = shorten(name, left - 20)
        write(image, name, (left - 10 - text_width(name), middle + 5))
        if not math.isfinite(value):
            write(image, "no value", (at(0) + 6, middle + 5), color=SOFT)
            continue
        cv2.rectangle(image, (at(min(0.0, value)), middle - 8), (at(max(0.0, value)), middle + 8), COLORS[0], -1)
        text, end = f"{value:.4g}", max(value, 0.0)
        if math.isfinite(error):
            ends_px = at(value - error), at(value + error)
            cv2.line(image, (ends_px[0], middle), (ends_px[1], middle), INK, 1, cv2.LINE_AA)
            for u in ends_px:
                cv2.line(image, (u, middle - 5), (u, middle + 5), INK, 1)
            text, end = f"{text} +- {error:.2g}", max(end, value + error)
        write(image, text, (at(end) + 8, middle + 5))
    cv2.line(image, (at(0.0), top - 4), (at(0.0), bottom), SOFT, 1)
    write(image, unit, ((left + right - text_width(unit)) // 2, bottom + 36), color=SOFT)
    return image


def sheet(panels: Sequence[np.ndarray], columns: int, title: str = "") -> np.ndarray:
    """Panels of one size in rows of ``columns`` with gaps between them, under a title. uint8 [H, W, 3] BGR."""
    assert panels and len({p.shape for p in panels}) == 1, [p.shape for p in panels]
    height, width = panels[0].shape[:2]
    columns = min(columns, len(panels))
    rows, head = -(-len(panels) // columns), 44 if title else _GAP // 2
    shape = (head + rows * (height + _GAP), columns * (width + _GAP) + _GAP, 3)
    image = np.full(shape, PAPER, dtype=np.uint8)
    if title:
        write(image, shorten(title, shape[1] - 40, 0.7), (_GAP + 8, 31), 0.7)
    for n, panel in enumerate(panels):
        row, column = divmod(n, columns)
        y, x = head + row * (height + _GAP), _GAP + column * (width + _GAP)
        image[y : y + height, x : x + width] = panel
    return image
