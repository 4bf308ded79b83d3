"""The short way from a message to the network's planes, beside the long one."""

import array

import cv2
import numpy as np
import pytest
import simplejpeg
from sensor_msgs.msg import CompressedImage, Image

from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit, CameraFit
from gsrender_ros.lens import Distortion
from gsrender_ros.statistics import FrameDropped

TARGET = (176, 64)


def scene(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A picture [H, W, 3] with edges and soft shades: what cameras see is not noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    soft = cv2.resize(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        corner = rng.integers(0, (width, height))
        extent = rng.integers(2, (width // 4, height // 4))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        cv2.rectangle(soft, tuple(map(int, corner)), tuple(map(int, corner + extent)), color, -1)
    return soft


def raw(image: np.ndarray, encoding: str) -> Image:
    data = image if encoding == "rgb8" else image[..., ::-1]
    message = Image(height=image.shape[0], width=image.shape[1], encoding=encoding, step=3 * image.shape[1])
    message.data = array.array("B", np.ascontiguousarray(data).tobytes())
    return message


def jpeg(image: np.ndarray) -> CompressedImage:
    data = simplejpeg.encode_jpeg(image, quality=92, colorsubsampling="420")
    return CompressedImage(format="jpeg", data=array.array("B", data))


def intrinsics(size, lens: Distortion | None = None) -> Intrinsics:
    width, height = size
    return Intrinsics(
        np.array([[0.8 * width, 0, width / 2 + 3], [0, 0.8 * width, height / 2 - 2], [0, 0, 1]]), size, "c", lens
    )


MESSAGES = {"jpeg": jpeg, "bgr8": lambda image: raw(image, "bgr8"), "rgb8": lambda image: raw(image, "rgb8")}
LENSES = {
    "pinhole": None,
    "plumb_bob": Distortion("plumb_bob", (-0.2, 0.05, 0.001, 0.0)),
    "fisheye": Distortion("equidistant", (0.05, 0.01, 0.0, 0.0)),
}


@pytest.mark.parametrize("size", [(1600, 900), (800, 450), (401, 227), (352, 198), (96, 64)], ids=str)
@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("lens", LENSES)
def test_the_short_way_shows_what_the_long_way_shows(size, kind, lens):
    message, camera = MESSAGES[kind](scene(size)), intrinsics(size, LENSES[lens])
    fit, slow = CameraFit(camera, TARGET), AreaFit(camera, TARGET)
    planes, expected = fit(message), slow(message)
    assert (planes.dtype, planes.shape) == (np.uint8, (3, TARGET[1], TARGET[0]))
    np.testing.assert_array_equal(fit.K, slow.K)
    # Edges differ by how they are averaged; a shift by half a pixel, swapped colours or a wrong crop exceed this.
    difference = np.abs(planes.astype(float) - expected)
    assert difference.mean() < 2.5, difference.mean()
    shifted = np.abs(np.roll(planes, 1, axis=2)[..., 1:].astype(float) - expected[..., 1:]).mean()
    assert difference.mean() < 0.7 * shifted


def test_as_much_is_left_out_as_can_be_without_a_rest():
    shrinks = {
        size: CameraFit(intrinsics(size), (704, 256)).shrink
        for size in [(1600, 900), (1601, 900), (3840, 2160), (1408, 512), (704, 256), (6000, 4000)]
    }
    assert shrinks == {
        (1600, 900): 2, (1601, 900): 1, (3840, 2160): 4, (1408, 512): 2, (704, 256): 1, (6000, 4000): 8,
    }  # fmt: skip


def test_images_of_the_networks_size_are_passed_on_unchanged():
    image = np.random.default_rng(4).integers(0, 256, (TARGET[1], TARGET[0], 3), dtype=np.uint8)
    planes = CameraFit(intrinsics(TARGET), TARGET)(raw(image, "bgr8"))
    assert np.array_equal(planes, image.transpose(2, 0, 1))


def test_a_distorted_lens_shows_straight_lines_straight():
    """A dot at a known direction is painted where the lens puts it and found where K says."""
    size, lens = (640, 360), LENSES["fisheye"]
    camera = intrinsics(size, lens)
    fit = CameraFit(camera, (320, 180))
    for x, y in ((0.4, 0.2), (-0.45, 0.22), (0.0, -0.2), (0.5, 0.0)):
        angle = np.arctan(np.hypot(x, y))
        k1, k2 = lens.coefficients[:2]
        factor = angle * (1 + k1 * angle**2 + k2 * angle**4) / np.hypot(x, y)
        image = np.zeros((360, 640, 3), np.uint8)
        u, v, _ = camera.K @ (x * factor, y * factor, 1.0)
        rows, columns = np.mgrid[0:360, 0:640] + 0.5
        image[..., :] = (255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 18))[..., None].astype(np.uint8)
        found = fit(raw(image, "rgb8"))[0].astype(float)
        rows, columns = np.mgrid[0:180, 0:320] + 0.5
        at = (found * columns).sum() / found.sum(), (found * rows).sum() / found.sum()
        expected = fit.K @ (x, y, 1.0)
        np.testing.assert_allclose(at, expected[:2], atol=0.15)


@pytest.mark.parametrize("fit", [CameraFit, AreaFit])
@pytest.mark.parametrize("kind", MESSAGES)
def test_another_size_than_the_calibrations_is_refused(kind, fit):
    with pytest.raises(FrameDropped, match="images of c are 80x44, their calibration is for 160x90") as dropped:
        fit(intrinsics((160, 90)), TARGET)(MESSAGES[kind](scene((80, 44))))
    assert dropped.value.reason == "calibration"
