import math

import numpy as np
import pytest

from gsrender_core.tau_curves import at_equal_occupancy, at_equal_tau


def curve(*rows):
    return {str(tau): {"occupied": occupied, "x": x} for tau, occupied, x in rows}


A = curve((0.1, 400.0, 4.0), (0.2, 200.0, 2.0), (0.4, 100.0, 1.0))


def test_equal_tau_is_the_mean_difference_over_shared_thresholds():
    b = curve((0.1, 900.0, 4.5), (0.2, 800.0, 2.1), (0.3, 700.0, 99.0), (0.4, 600.0, None))
    assert at_equal_tau(A, b, "x") == pytest.approx((0.5 + 0.1) / 2)
    assert math.isnan(at_equal_tau(A, curve((0.3, 1.0, 1.0)), "x"))


def test_a_model_that_only_predicts_more_is_equal_at_equal_occupancy():
    twice = curve((0.1, 800.0, 8.0), (0.2, 400.0, 4.0), (0.4, 200.0, 2.0))  # the same line x = occupied / 100
    assert at_equal_tau(A, twice, "x") > 2
    assert at_equal_occupancy(A, twice, "x") == pytest.approx(0.0, abs=1e-12)


def test_equal_occupancy_measures_a_shift_whatever_the_thresholds():
    shifted = curve((0.3, 350.0, 3.9), (0.5, 150.0, 1.9))
    assert at_equal_occupancy(A, shifted, "x") == pytest.approx(0.4)
    assert at_equal_occupancy(shifted, A, "x") == pytest.approx(-0.4)


def test_occupancies_in_one_point_or_none():
    touching = curve((0.5, 100.0, 7.0), (0.6, 50.0, 0.0))
    assert at_equal_occupancy(A, touching, "x") == pytest.approx(6.0)
    apart = curve((0.5, 90.0, 7.0), (0.6, 50.0, 0.0))
    assert math.isnan(at_equal_occupancy(A, apart, "x"))
    assert math.isnan(at_equal_occupancy(A, {}, "x"))
    assert math.isnan(at_equal_occupancy(A, curve((0.5, 200.0, None)), "x"))


def test_equal_rows_are_merged_and_empty_grids_left_out():
    doubled = curve((0.1, 200.0, 1.0), (0.2, 200.0, 3.0), (0.9, 0.0, 0.0))
    assert at_equal_occupancy(A, doubled, "x") == pytest.approx(0.0)


def test_every_number_of_points_agrees_on_lines():
    b = curve((0.1, 400.0, 5.0), (0.4, 100.0, 2.0))
    assert np.ptp([at_equal_occupancy(A, b, "x", points) for points in (2, 9, 50)]) == pytest.approx(0, abs=1e-12)


def test_a_band_leaves_out_occupancies_beyond_it():
    b = curve((0.1, 400.0, 9.0), (0.2, 200.0, 2.0), (0.4, 100.0, 1.0))  # differs above 200 voxels only
    assert at_equal_occupancy(A, b, "x", band=(50.0, 200.0)) == pytest.approx(0.0)
    assert at_equal_occupancy(A, b, "x", band=(300.0, 1e9)) == pytest.approx((2.5 + 5.0) / 2, rel=0.1)
    assert math.isnan(at_equal_occupancy(A, b, "x", band=(500.0, 900.0)))


def test_equal_tau_over_given_thresholds_only():
    b = curve((0.1, 400.0, 5.0), (0.2, 200.0, 4.0), (0.4, 100.0, 1.0))
    assert at_equal_tau(A, b, "x", taus=(0.2, 0.4, 0.7)) == pytest.approx(1.0)
