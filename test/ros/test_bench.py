"""The verdicts of ``make bench``; the benchmarks' own results are tested with what they measure."""

from gsrender_core.bench.render import CASES
from gsrender_ros.bench import RENDER_CASE, Check


def test_a_floor_and_a_ceiling():
    assert Check("speed", 4.0, 4.0, True, "x").passed
    assert not Check("speed", 3.9, 4.0, True, "x").passed
    assert Check("time", 100.0, 100.0, False, "ms").passed
    missed = Check("time", 101.26, 100.0, False, "ms")
    assert not missed.passed
    assert missed.line() == "MISSED  time: 101.3 ms (must be <= 100)"


def test_the_floor_is_held_at_160k_gaussians_and_20k_pixels():
    (case,) = [c for c in CASES if c.name == RENDER_CASE]
    assert case.grid_shape == (100, 100, 16) and case.pixels == 20_000 and case.with_torch
