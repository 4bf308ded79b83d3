"""The frame of a diagram: a box with ticks, title and legend, and the mapping of values to pixels."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from gsrender_core.pictures.voxel_view import BACKGROUND

INK, SOFT, RULE = (48, 42, 38), (126, 118, 112), (222, 216, 212)  # BGR
PAPER = BACKGROUND[::-1]
# Okabe and Ito's colours: told apart by colour-blind readers too. BGR.
COLORS = (
    (178, 114, 0), (0, 94, 213), (115, 158, 0), (167, 121, 204), (0, 159, 230), (233, 180, 86), (70, 70, 70),
    (30, 30, 160), (66, 190, 220), (140, 90, 60),
)  # fmt: skip
_FONT, _SHIFT = cv2.FONT_HERSHEY_DUPLEX, 4  # polylines take coordinates in 1/16 px
_LINE, _SMALL = 18, 0.42  # height of a line of text, px; its scale


def text_width(text: str, scale: float = _SMALL) -> int:
    """Width of a text in pixels."""
    return cv2.getTextSize(text, _FONT, scale, 1)[0][0]


def write(image: np.ndarray, text: str, at: tuple[int, int], scale: float = _SMALL, color=INK) -> None:
    """Write ASCII text; ``at`` is the left end of its base line."""
    cv2.putText(image, text, at, _FONT, scale, color, 1, cv2.LINE_AA)


def shorten(text: str, width: int, scale: float = _SMALL) -> str:
    """The text, its end replaced by ".." where it is wider than ``width`` pixels."""
    if text_width(text, scale) <= width:
        return text
    while text and text_width(text + "..", scale) > width:
        text = text[:-1]
    return text + ".."


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values (1, 2 or 5 times a power of ten apart) between ``low`` and ``high``."""
    assert low < high, (low, high)
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between ``low`` and ``high``, with their 2 and 5 fold where that leaves at most seven.

    A range too narrow for three of them has the linear ``ticks``.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        values = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(values) <= 7:
            break
    return values[:: -(-len(values) // 7)] if len(values) > 2 else ticks(low, high)


def value_range(arrays: list[np.ndarray], log: bool = False) -> tuple[float, float]:
    """Lowest and highest finite value (above 0 for ``log``) with a margin; (0, 1) or (0.1, 1) where there is none."""
    values = np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays]) if arrays else np.zeros(0)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if len(values) == 0:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        return (low / 1.15, high * 1.15) if high / low > 1.2 else (low / 2, high * 2)
    margin = 0.05 * (high - low)
    if margin <= 1e-9 * max(abs(low), abs(high), 1e-300):
        margin = 0.1 * abs(high)
    if margin < 1e-300:
        return 0.0, 1.0
    # A quantity that is never negative starts at 0 where its range is near it anyway.
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def dashed(points: np.ndarray, dash: int) -> list[np.ndarray]:
    """Cut a polyline [N, 2] px into the pieces drawn: whole for dash 0, 9 px dashes for 1, dots for 2."""
    if dash == 0 or len(points) < 2:
        return [points]
    drawn, period = ((9.0, 15.0), (2.0, 6.0))[(dash - 1) % 2]
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    pieces = []
    for start in np.arange(0.0, along[-1], period):
        end = min(start + drawn, along[-1])
        inner = points[(along > start) & (along < end)]
        ends = [[np.interp(s, along, points[:, axis]) for axis in (0, 1)] for s in (start, end)]
        pieces.append(np.concatenate([ends[:1], inner, ends[1:]]))
    return pieces


@dataclass(frozen=True)
class Axes:
    """A box on an image and the values its edges stand for.

    Attributes:
        image: uint8 [H, W, 3] BGR, drawn on.
        box: left, top, right, bottom, pixels.
        x_range, y_range: values at the edges (low, high).
        log_y: logarithmic in y.
    """

    image: np.ndarray
    box: tuple[int, int, int, int]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log_y: bool = False

    def pixels(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values [N] and [N] to pixels float64 [N, 2]; y outside its range is cut to the box, NaN stays NaN."""
        left, top, right, bottom = self.box
        low, high = self.y_range
        y = np.clip(np.asarray(y, dtype=np.float64), low, high)
        across = (np.asarray(x, dtype=np.float64) - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        if self.log_y:
            y, low, high = np.log(y), math.log(low), math.log(high)
        up = (y - low) / (high - low)
        return np.stack([left + across * (right - left), bottom - up * (bottom - top)], axis=1)

    def line(self, x: np.ndarray, y: np.ndarray, color, width: int = 2, dash: int = 0) -> None:
        """A polyline, broken where a value is not finite; a value between two broken ones becomes a dot."""
        points = self.pixels(x, y)
        good = np.isfinite(points).all(axis=1)
        for run in np.split(np.arange(len(good)), np.flatnonzero(np.diff(good.astype(int))) + 1):
            if len(run) == 0 or not good[run[0]]:
                continue
            if len(run) == 1:
                self._draw_circle(points[run[0]], color, width + 1)
            for piece in dashed(points[run], dash):
                scaled = np.round(piece * (1 << _SHIFT)).astype(np.int32)
                cv2.polylines(self.image, [scaled], False, color, width, cv2.LINE_AA, _SHIFT)

    def dots(self, x: np.ndarray, y: np.ndarray, color, radius: int = 3) -> None:
        """A dot at every finite value."""
        for point in self.pixels(x, y):
            if np.isfinite(point).all():
                self._draw_circle(point, color, radius)

    def area(self, x: np.ndarray, low: np.ndarray, high: np.ndarray, color, strength: float = 0.2) -> None:
        """Tint the area between two curves where both are finite."""
        lower, upper = self.pixels(x, low), self.pixels(x, high)
        good = np.isfinite(lower).all(axis=1) & np.isfinite(upper).all(axis=1)
        mask = np.zeros(self.image.shape[:2], np.uint8)
        for run in np.split(np.arange(len(good)), np.flatnonzero(np.diff(good.astype(int))) + 1):
            if len(run) > 1 and good[run[0]]:
                outline = np.concatenate([lower[run], upper[run][::-1]])
                cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 1)
        inside = mask > 0
        self.image[inside] = np.round((1 - strength) * self.image[inside] + strength * np.array(color)).astype(np.uint8)

    def _draw_circle(self, point: np.ndarray, color, radius: int) -> None:
        u, v = np.round(point * (1 << _SHIFT)).astype(int).tolist()
        cv2.circle(self.image, (u, v), radius << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)

    def draw_ticks(self, x_label: str) -> None:
        """Rules and numbers at round values, the box's lower and left edges, and the name of x below."""
        left, top, right, bottom = self.box
        vertical = log_ticks(*self.y_range) if self.log_y else ticks(*self.y_range, max(2, (bottom - top) // 45))
        for value in vertical:
            v = round(self.pixels(np.zeros(1), np.array([value]))[0, 1])
            cv2.line(self.image, (left, v), (right, v), RULE, 1)
            text = tick_text(value)
            write(self.image, text, (left - 6 - text_width(text), v + 5), color=SOFT)
        for value in ticks(*self.x_range, max(2, (right - left) // 90)):
            u = round(self.pixels(np.array([value]), np.array([self.y_range[0]]))[0, 0])
            cv2.line(self.image, (u, bottom), (u, bottom + 4), SOFT, 1)
            text = tick_text(value)
            start = min(u - text_width(text) // 2, right + 6 - text_width(text))
            write(self.image, text, (start, bottom + 18), color=SOFT)
        cv2.line(self.image, (left, bottom), (right, bottom), SOFT, 1)
        cv2.line(self.image, (left, top), (left, bottom), SOFT, 1)
        write(self.image, x_label, ((left + right - text_width(x_label)) // 2, bottom + 35), color=SOFT)


def tick_text(value: float) -> str:
    """A round value without rounding noise: 0.3, not 0.30000000000000004."""
    return f"{0.0 if abs(value) < 1e-12 else value:.6g}"


def legend_rows(image: np.ndarray, entries: list[tuple[str, tuple, int]], left: int, top: int) -> int:
    """Write (label, colour, dash) entries in rows from (left, top) on; returns the pixel row below them.

    Labels wider than the image are shortened.
    """
    width, x, y = image.shape[1], left, top
    for label, color, dash in entries:
        label = shorten(label, width - left - 40)
        needed = 30 + text_width(label) + 14
        if x > left and x + needed > width:
            x, y = left, y + _LINE
        line = np.array([[x, y + 8.0], [x + 24, y + 8.0]])
        for piece in dashed(line, dash):
            cv2.polylines(image, [np.round(piece).astype(np.int32)], False, color, 2, cv2.LINE_AA)
        write(image, label, (x + 30, y + 13))
        x += needed
    return y + _LINE if entries else top
