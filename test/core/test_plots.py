"""Diagrams: round ticks, where values fall, gaps, bars and their errors, panels; nothing crashes on odd values."""

import numpy as np
import pytest

from gsrender_core.pictures.axes import COLORS, Axes, dashed, log_ticks, tick_text, ticks, value_range
from gsrender_core.pictures.plots import Diagram, Series, bar_chart, line_chart, sheet

RED = (0, 0, 255)  # BGR


def near(image: np.ndarray, color) -> np.ndarray:
    return np.abs(image.astype(int) - np.array(color)).max(axis=2) < 60


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 9, [0, 2, 4, 6, 8]), (-0.5, 0.5, [-0.4, -0.2, 0, 0.2, 0.4]),
     (980, 3020, [1000, 1500, 2000, 2500, 3000])],
)  # fmt: skip
def test_ticks_by_hand(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_are_round_and_inside():
    rng = np.random.default_rng()
    for _ in range(200):
        low = rng.normal() * 10.0 ** rng.integers(-6, 6)
        high = low + 10.0 ** rng.uniform(-6, 6)
        values = ticks(low, high)
        assert 2 <= len(values) <= 6 and min(values) >= low - 1e-6 * (high - low)
        assert max(values) <= high + 1e-6 * (high - low)
        step = (values[1] - values[0]) / 10.0 ** np.floor(np.log10((values[1] - values[0]) * 1.001))
        assert min(abs(step - s) for s in (1, 2, 5, 10)) < 1e-3


def test_log_ticks_by_hand():
    assert log_ticks(0.1, 1) == pytest.approx([0.1, 0.2, 0.5, 1])
    assert log_ticks(1e-5, 1) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])
    assert len(log_ticks(1e-30, 1e30)) <= 7
    assert log_ticks(1.2, 2.1) == pytest.approx([1.2, 1.4, 1.6, 1.8, 2.0])
    assert tick_text(0.1 + 0.2) == "0.3" and tick_text(-1e-17) == "0" and tick_text(1500.0) == "1500"


def test_value_ranges():
    assert value_range([np.array([0.1, 1.0])]) == (0.0, pytest.approx(1.045))  # near 0: starts there
    low, high = value_range([np.array([100.0, 101.0, np.nan, np.inf])])
    assert (low, high) == (pytest.approx(99.95), pytest.approx(101.05))
    assert value_range([]) == (0.0, 1.0) and value_range([np.array([np.nan])], log=True) == (0.1, 1.0)
    for constant in (0.0, 5.0, -3.0, 1e-12):
        low, high = value_range([np.full(3, constant)])
        assert low <= constant < high
    assert value_range([np.zeros(4)]) == (0.0, 1.0)
    low, high = value_range([np.array([0.0, 1e-3, 10.0])], log=True)
    assert 0 < low < 1e-3 and high > 10


def test_a_value_falls_on_its_pixel():
    image = np.zeros((100, 200, 3), np.uint8)
    axes = Axes(image, (20, 10, 120, 90), (0.0, 10.0), (-1.0, 1.0))
    np.testing.assert_allclose(axes.pixels(np.array([0, 10, 5, 5]), np.array([-1, 1, 0, 7])),
                               [[20, 90], [120, 10], [70, 50], [70, 10]])  # fmt: skip
    log = Axes(image, (0, 0, 100, 90), (0.0, 1.0), (0.01, 10.0), log_y=True)
    np.testing.assert_allclose(log.pixels(np.zeros(4), np.array([0.01, 0.1, 1, 10]))[:, 1], [90, 60, 30, 0])


def test_lines_break_where_a_value_is_missing():
    x, y = np.arange(5.0), np.array([0.5, 0.5, np.nan, 0.5, 0.5])
    image = np.zeros((100, 140, 3), np.uint8)
    Axes(image, (20, 10, 120, 90), (0.0, 4.0), (0.0, 1.0)).line(x, y, RED, 1)
    columns = np.flatnonzero(near(image, RED).any(axis=0))
    assert columns.min() <= 22 and columns.max() >= 118
    assert not set(range(47, 93)) & set(columns.tolist())  # 25 px a step; nothing between steps 1 and 3
    lonely = np.zeros_like(image)
    Axes(lonely, (20, 10, 120, 90), (0.0, 4.0), (0.0, 1.0)).line(x, np.where(x == 2, 0.5, np.nan), RED, 1)
    assert near(lonely, RED)[48:53, 68:73].any()  # a value between gaps is a dot


def test_dashes_cover_their_share():
    line = np.array([[0.0, 0.0], [60.0, 0.0], [60.0, 90.0]])
    pieces = dashed(line, 1)
    lengths = [np.hypot(*np.diff(piece, axis=0).T).sum() for piece in pieces]
    assert lengths == pytest.approx([9.0] * 10)
    assert [piece.shape for piece in pieces if len(piece) == 3] == [] and (pieces[0] == [[0, 0], [9, 0]]).all()
    assert (pieces[4] == [[60, 0], [60, 9]]).all()
    assert len(dashed(line, 0)) == 1


def test_a_curve_is_drawn_and_a_band_around_it():
    x = np.linspace(0, 100, 50)
    plain = line_chart([Series("a", x, np.full(50, 0.5), color=RED)], Diagram("t", y_range=(0, 1)))
    band = line_chart([Series("a", x, np.full(50, 0.5), np.full(50, 0.2), color=RED)], Diagram("t", y_range=(0, 1)))
    assert plain.shape == (340, 560, 3) and plain.dtype == np.uint8
    rows = np.flatnonzero((plain != band).any(axis=2)[:, 300])
    box = 294 - 56  # from the legend to the axis of this size
    assert rows.max() - rows.min() == pytest.approx(0.4 * box, abs=4)


def test_a_histogram_is_filled_to_its_height():
    chart = line_chart([Series("h", np.arange(4.0), np.array([0.0, 1.0, 0.5]), color=RED, steps=True)], Diagram("t"))
    empty = line_chart([Series("h", np.arange(4.0), np.zeros(3), color=RED, steps=True)],
                       Diagram("t", y_range=(0.0, 1.05)))  # fmt: skip
    changed = (chart[60:290] != empty[60:290]).any(axis=2).sum(axis=0)
    left, middle, right = changed[110], changed[310], changed[490]
    assert left < 5 and middle == pytest.approx(2 * right, rel=0.1) and right > 90


@pytest.mark.parametrize("log_y", [False, True])
def test_odd_values_are_survived(log_y):
    nothing = np.zeros(0)
    series = [
        Series("none", nothing, nothing),
        Series("nan", np.arange(3.0), np.full(3, np.nan), np.full(3, np.nan)),
        Series("one", np.array([5.0]), np.array([0.25]), marks=True),
        Series("infinite", np.array([1.0, 2.0]), np.array([np.inf, -1.0]), np.array([1.0, np.inf])),
        Series("huge", np.array([0.0, 1e300]), np.array([1e-300, 1e300])),
    ]
    for count in range(len(series) + 1):
        assert line_chart(series[:count], Diagram("odd", log_y=log_y)).shape == (340, 560, 3)
    long = Series("a name that is far wider than the picture " * 5, np.arange(2.0), np.arange(2.0))
    assert line_chart([long], Diagram("and a title " * 30)).shape == (340, 560, 3)
    with pytest.raises(ValueError, match="3 x values for 2"):
        Series("bad", np.arange(3.0), np.arange(2.0))


def test_bars_are_as_long_as_their_means_and_carry_their_spread():
    picture = bar_chart(["a", "b", "c", "d"], [20.0, 10.0, float("nan"), None], [2.0, None, 1.0, None], "t", "%")
    lengths = near(picture, COLORS[0]).sum(axis=1)
    rows = [44 + 26 * n + 13 - 7 for n in range(4)]  # above the error bar in the middle
    assert lengths[rows[0]] == pytest.approx(2 * lengths[rows[1]], abs=3) and lengths[rows[1]] > 100
    assert lengths[rows[2]] == lengths[rows[3]] == 0
    dark = picture.max(axis=2) < 90
    whisker = np.flatnonzero(dark[44 + 13])
    bar_end = np.flatnonzero(near(picture, COLORS[0])[rows[0]]).max()
    assert (whisker > bar_end + 5).any() and (whisker < bar_end - 5).any()
    assert not (dark[44 + 26 + 13 - 4 : 44 + 26 + 13 + 4, :] & near(picture, COLORS[0])[rows[1]]).any()
    negative = bar_chart(["a", "b"], [-5.0, 5.0])
    first, second = (np.flatnonzero(near(negative, COLORS[0])[r]) for r in (44 + 6, 44 + 26 + 6))
    assert first.max() <= second.min() + 2 and len(first) == pytest.approx(len(second), abs=2)
    assert bar_chart([], []).shape[1] == 900
    with pytest.raises(ValueError, match="2 rows, 1 means"):
        bar_chart(["a", "b"], [1.0])


def test_a_sheet_places_its_panels():
    panels = [np.full((20, 30, 3), 10 * n, np.uint8) for n in range(3)]
    image = sheet(panels, 2)
    assert image.shape == (8 + 2 * 36, 2 * 46 + 16, 3)
    assert (image[8:28, 62:92] == 10).all() and (image[44:64, 16:46] == 20).all()
    assert sheet(panels, 2, "title").shape[0] == 44 + 2 * 36
