"""Lens distortion, held to the models' own formulas written out here."""

import numpy as np
import pytest

from gsrender_ros.lens import Distortion, distortion_of, largest_tangent, undistortion_maps

K = np.array([[500.0, 0, 320.0], [0, 510.0, 200.0], [0, 0, 1]])
SIZE = (640, 400)
PLUMB_BOB = Distortion("plumb_bob", (-0.28, 0.07, 0.001, -0.002, 0.0))
RATIONAL = Distortion("rational_polynomial", (0.6, -0.3, 0.0005, -0.0002, -0.02, 0.9, -0.1, -0.05))
FISHEYE = Distortion("equidistant", (0.04, -0.01, 0.003, -0.001))


def distort(lens: Distortion, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normalised image coordinates as the lens bends them, from the definitions of the models."""
    k = np.array(lens.coefficients)
    r2 = x * x + y * y
    if lens.model == "equidistant":
        angle = np.arctan(np.sqrt(r2))
        bent = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
        factor = np.where(r2 > 0, bent / np.sqrt(np.where(r2 > 0, r2, 1)), 1.0)
        return x * factor, y * factor
    k = np.pad(k, (0, 8 - len(k)))
    radial = (1 + k[0] * r2 + k[1] * r2**2 + k[4] * r2**3) / (1 + k[5] * r2 + k[6] * r2**2 + k[7] * r2**3)
    return (
        x * radial + 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x),
        y * radial + k[2] * (r2 + 2 * y * y) + 2 * k[3] * x * y,
    )


@pytest.mark.parametrize("lens", [PLUMB_BOB, RATIONAL, FISHEYE], ids=lambda lens: lens.model)
def test_points_are_found_where_the_undistorted_matrix_says(lens):
    """A point of the scene lies at pixel p of the undistorted image; the map at p names its place in the real one."""
    K_target = np.array([[300.0, 0, 170.0], [0, 300.0, 60.0], [0, 0, 1]])
    maps = undistortion_maps(lens, K, K_target, (352, 128))
    u, v = np.meshgrid(np.arange(0, 352, 13), np.arange(0, 128, 9))
    x = (u + 0.5 - K_target[0, 2]) / K_target[0, 0]  # the scene's points, at the centres of pixels
    y = (v + 0.5 - K_target[1, 2]) / K_target[1, 1]
    bent_x, bent_y = distort(lens, x, y)
    seen_at = K[0, 0] * bent_x + K[0, 2], K[1, 1] * bent_y + K[1, 2]
    for axis in range(2):  # remap counts from the first pixel's centre
        np.testing.assert_allclose(maps[axis][v, u] + 0.5, seen_at[axis], atol=2e-3)
    assert np.hypot(x - bent_x, y - bent_y).max() > 0.01  # the lens does something


def test_where_the_polynomial_folds_back_nothing_is_shown_twice():
    lens = Distortion("plumb_bob", (-0.3, 0.0, 0.0, 0.0))
    assert largest_tangent(lens) == pytest.approx(1 / np.sqrt(0.9), abs=0.01)  # derivative 1 - 0.9 r^2
    map_x, map_y = undistortion_maps(lens, K, np.array([[100.0, 0, 320], [0, 100, 200], [0, 0, 1]]), SIZE)
    assert (map_x[200, [0, 639]] < -1000).all()
    assert map_x[200, 320] == pytest.approx(322, abs=0.1)  # half a pixel off the centre, five times as fine
    assert largest_tangent(FISHEYE) == 10.0
    assert largest_tangent(Distortion("rational_polynomial", (0.0,) * 5 + (-1.0, 0.0, 0.0))) < 1.0  # its pole


def test_names_and_lengths():
    assert distortion_of("plumb_bob", [0.1, 0, 0, 0]) == Distortion("plumb_bob", (0.1, 0, 0, 0))
    assert distortion_of("", [0.1, 0, 0, 0, 0]).model == "plumb_bob"
    assert distortion_of("fisheye", [0.1, 0, 0, 0]).model == "equidistant"
    assert distortion_of("plumb_bob", []) is None and distortion_of("plumb_bob", [0.0] * 5) is None
    assert distortion_of("equidistant", [0.0] * 4) is not None  # an equidistant lens is bent without coefficients too


@pytest.mark.parametrize(
    ("model", "coefficients", "text"),
    [
        ("plumb_bob", [0.1] * 8, "plumb_bob takes 4 or 5 coefficients, got 8"),
        ("equidistant", [0.1] * 5, "equidistant takes 4 coefficients, got 5"),
        ("scaramuzza", [0.1], "'scaramuzza' is unknown; known: plumb_bob, rational_polynomial, equidistant"),
        ("plumb_bob", [float("nan"), 0, 0, 0], "must be finite"),
    ],
)
def test_impossible_lenses_are_refused(model, coefficients, text):
    with pytest.raises(ValueError, match=text):
        distortion_of(model, coefficients)
