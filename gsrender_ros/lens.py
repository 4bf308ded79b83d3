"""Lens distortion: the models of CameraInfo and calibration files, and where to find an undistorted pixel. No ROS.

Pixel coordinates put the centre of the top-left pixel at (0.5, 0.5), as everywhere in this project; OpenCV's put it
at (0, 0), so half a pixel is taken off its camera matrices here and nowhere else.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Numbers of coefficients that OpenCV's two families of models take.
_LENGTHS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
_ALIASES = {
    "": "plumb_bob",  # drivers that leave the name empty mean ROS's default
    "radtan": "plumb_bob",
    "plumb bob": "plumb_bob",
    "fisheye": "equidistant",
    "kannala_brandt": "equidistant",
}
# Rays up to this tangent of their angle are searched for the place where a polynomial folds back (84 degrees).
_LARGEST_TANGENT = 10.0


@dataclass(frozen=True)
class Distortion:
    """A lens: ``model`` plumb_bob (k1, k2, p1, p2[, k3]), rational_polynomial (8, 12 or 14 coefficients of OpenCV's
    model) or equidistant (k1 to k4, a fisheye).
    """

    model: str
    coefficients: tuple[float, ...]


def distortion_of(model: str, coefficients) -> Distortion | None:
    """The lens of a model's name and coefficients; None for a lens without distortion (none, or all zero).

    Raises:
        ValueError: an unknown model, a wrong number of coefficients, or one that is not finite.
    """
    values = tuple(float(value) for value in coefficients)
    if not np.isfinite(values).all():
        raise ValueError(f"distortion coefficients must be finite, got {list(values)}")
    name = _ALIASES.get(model.lower(), model.lower())
    if not values or (not any(values) and name != "equidistant"):  # an equidistant lens of zeros is no pinhole
        return None
    if name not in _LENGTHS:
        raise ValueError(f"distortion model '{model}' is unknown; known: {', '.join(_LENGTHS)}")
    if len(values) not in _LENGTHS[name]:
        expected = " or ".join(str(n) for n in _LENGTHS[name])
        raise ValueError(f"distortion model {name} takes {expected} coefficients, got {len(values)}: {list(values)}")
    return Distortion(name, values)


def undistortion_maps(
    lens: Distortion, K_source: np.ndarray, K_target: np.ndarray, target_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where every pixel of an undistorted image lies in the distorted one: float32 [H, W] each, for ``cv2.remap``.

    Args:
        lens: the distortion.
        K_source, K_target: [3, 3] px of the distorted and of the undistorted image, any sizes.
        target_size: (width, height) of the undistorted image.

    Pixels that the lens cannot see, because its polynomial folds back before their angle, point outside of every image.
    """
    coefficients = np.array(lens.coefficients)
    K_in, K_out = _opencv_matrix(K_source), _opencv_matrix(K_target)
    make = cv2.fisheye.initUndistortRectifyMap if lens.model == "equidistant" else cv2.initUndistortRectifyMap
    map_x, map_y = make(K_in, coefficients, np.eye(3), K_out, target_size, cv2.CV_32FC1)
    width, height = target_size
    x = (np.arange(width) - K_out[0, 2]) / K_out[0, 0]
    y = (np.arange(height) - K_out[1, 2]) / K_out[1, 1]
    unseen = np.hypot(x[None, :], y[:, None]) > largest_tangent(lens)
    map_x[unseen] = map_y[unseen] = -1e4
    return map_x, map_y


def largest_tangent(lens: Distortion) -> float:
    """Tangent of the largest angle up to which the image radius still grows with the angle, at most 10 (84 degrees)."""
    tangents = np.linspace(0.0, _LARGEST_TANGENT, 4001)
    k = np.array(lens.coefficients)
    if lens.model == "equidistant":
        angle = np.arctan(tangents)
        radius = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
    else:
        k = np.pad(k, (0, 14 - len(k)))
        r2 = tangents**2
        numerator = 1 + k[0] * r2 + k[1] * r2**2 + k[4] * r2**3
        denominator = 1 + k[5] * r2 + k[6] * r2**2 + k[7] * r2**3
        radius = np.where(denominator > 0, tangents * numerator / np.where(denominator > 0, denominator, 1.0), -1.0)
    folds = np.flatnonzero(np.diff(radius) <= 0)
    return float(tangents[folds[0]]) if len(folds) else _LARGEST_TANGENT


def _opencv_matrix(K: np.ndarray) -> np.ndarray:
    matrix = np.array(K, dtype=np.float64)
    matrix[:2, 2] -= 0.5
    return matrix
