import array

import cv2
import numpy as np
import pytest
import simplejpeg
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest

from gsrender_ros.image_conversions import decode_image, intrinsics_from_camera_info, read_pixels
from gsrender_ros.lens import Distortion
from gsrender_ros.statistics import FrameDropped

# Two halves of plain colours: every encoding keeps them, whatever it does to details.
LEFT, RIGHT = (220, 20, 60), (10, 200, 30)


def two_colors(height: int = 32, width: int = 48) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, : width // 2], rgb[:, width // 2 :] = LEFT, RIGHT
    return rgb


def raw(image: np.ndarray, encoding: str = "rgb8", padding: int = 0) -> Image:
    """Image message of an array [H, W(, channels)]; ``padding`` bytes of rubbish end every row."""
    height, width = image.shape[:2]
    rows = np.ascontiguousarray(image).reshape(height, -1).view(np.uint8)
    rows = np.concatenate([rows, np.full((height, padding), 0xAB, np.uint8)], axis=1)
    message = Image(height=height, width=width, encoding=encoding, step=rows.shape[1])
    message.data = array.array("B", rows.tobytes())
    return message


def compressed(data: bytes, image_format: str) -> CompressedImage:
    return CompressedImage(format=image_format, data=array.array("B", data))


def yuv422(rgb: np.ndarray, y_first: bool) -> np.ndarray:
    """Packed YUV 4:2:2 [H, W, 2] after BT.601 with limited range, as cameras send it."""
    r, g, b = (rgb[..., c].astype(float) for c in range(3))
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    chroma = np.where(np.arange(rgb.shape[1])[None, :] % 2 == 0, u, np.roll(v, 0, axis=1))
    planes = (y, chroma) if y_first else (chroma, y)
    return np.stack(planes, axis=2).round().astype(np.uint8)


def nv21(rgb: np.ndarray) -> Image:
    """Luma, then interleaved v and u at half size: one and a half times as many rows as the image has."""
    packed = yuv422(rgb, y_first=True)
    luma, u, v = packed[..., 0], packed[::2, ::2, 1], packed[::2, 1::2, 1]
    chroma = np.stack([v, u], axis=2).reshape(rgb.shape[0] // 2, rgb.shape[1])
    message = raw(np.concatenate([luma, chroma]), "nv21")
    message.height = rgb.shape[0]
    return message


def bayer(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """Mosaic [H, W] of one colour a pixel; ``pattern`` names the colours of the first 2x2, row by row."""
    mosaic = np.empty(rgb.shape[:2], np.uint8)
    for index, color in enumerate(pattern):
        y, x = divmod(index, 2)
        mosaic[y::2, x::2] = rgb[y::2, x::2, "rgb".index(color)]
    return mosaic


def encodings() -> dict:
    rgb = two_colors()
    alpha = np.full((*rgb.shape[:2], 1), 7, np.uint8)
    bgr = rgb[..., ::-1]
    messages = {
        "rgb8": raw(rgb),
        "bgr8": raw(bgr, "bgr8"),
        "rgb8 padded": raw(rgb, padding=5),
        "bgr8 padded": raw(bgr, "bgr8", padding=16),
        "rgba8": raw(np.concatenate([rgb, alpha], axis=2), "rgba8"),
        "bgra8": raw(np.concatenate([bgr, alpha], axis=2), "bgra8"),
        "8UC3": raw(bgr, "8UC3"),
        "rgb16": raw(rgb.astype(np.uint16) * 257, "rgb16"),
        "uyvy": raw(yuv422(rgb, y_first=False), "uyvy"),
        "yuv422": raw(yuv422(rgb, y_first=False), "yuv422"),
        "yuv422_yuy2": raw(yuv422(rgb, y_first=True), "yuv422_yuy2"),
        "nv21": nv21(rgb),
        "jpeg": compressed(
            simplejpeg.encode_jpeg(rgb, quality=98, colorsubsampling="444"), "rgb8; jpeg compressed bgr8"
        ),
        "png": compressed(cv2.imencode(".png", bgr)[1].tobytes(), "png"),
        "png with alpha": compressed(cv2.imencode(".png", np.concatenate([bgr, alpha], axis=2))[1].tobytes(), "png"),
        "png named jpeg": compressed(cv2.imencode(".png", bgr)[1].tobytes(), "jpeg"),
    }
    for pattern in ("rggb", "bggr", "gbrg", "grbg"):
        messages[f"bayer_{pattern}8"] = raw(bayer(rgb, pattern), f"bayer_{pattern}8")
    messages.pop("8UC3")  # says nothing about its colours: refused, see below
    return messages


@pytest.mark.parametrize("padding", [1, 2, 5, 12])
@pytest.mark.parametrize("name", [name for name, message in encodings().items() if hasattr(message, "encoding")])
def test_padding_of_rows_changes_nothing_in_any_encoding(name, padding):
    """Multiples of a pixel or not: decoding the same image with rows that end in rubbish gives the same pixels."""
    message = encodings()[name]
    rows = np.frombuffer(message.data, np.uint8).reshape(-1, message.step)
    padded = raw(rows, message.encoding, padding)
    padded.height, padded.width = message.height, message.width
    assert np.array_equal(decode_image(padded), decode_image(message))
    assert np.array_equal(as_rgb(read_pixels(padded)), decode_image(message))


@pytest.mark.parametrize("name", encodings())
def test_colors_come_out_right_whatever_the_encoding(name):
    message = encodings()[name]
    for image in (decode_image(message), *map(as_rgb, [read_pixels(message), read_pixels(message, 2)])):
        height, width = image.shape[:2]
        assert height * 48 == width * 32 and image.dtype == np.uint8
        inner = image[height // 8 : -height // 8]
        for color, columns in (
            (LEFT, slice(width // 8, 3 * width // 8)),
            (RIGHT, slice(5 * width // 8, 7 * width // 8)),
        ):
            worst = np.abs(inner[:, columns].astype(int) - color).max()
            assert worst <= (0 if name.startswith(("rgb", "bgr", "png")) else 8), (name, worst)


def as_rgb(pixels_and_order) -> np.ndarray:
    pixels, is_bgr = pixels_and_order
    return pixels[..., ::-1] if is_bgr else pixels


@pytest.mark.parametrize("encoding", ["mono8", "mono16", "jpeg", "png"])
def test_grey_images_become_three_equal_channels(encoding):
    grey = np.repeat(np.arange(0, 240, 5, dtype=np.uint8)[None, :], 32, axis=0)
    message = {
        "mono8": lambda: raw(grey, "mono8", padding=3),
        "mono16": lambda: raw(grey.astype(np.uint16) * 257, "mono16"),
        "jpeg": lambda: compressed(simplejpeg.encode_jpeg(grey[..., None], 98, colorspace="GRAY"), "mono8; jpeg"),
        "png": lambda: compressed(cv2.imencode(".png", grey)[1].tobytes(), "png"),
    }[encoding]()
    image = decode_image(message)
    assert image.shape == (32, 48, 3)
    assert np.abs(image.astype(int) - grey[..., None]).max() <= (4 if encoding == "jpeg" else 0)
    assert np.array_equal(as_rgb(read_pixels(message)), image)


def test_sixteen_bits_of_the_other_byte_order():
    grey = np.full((4, 6), 0x8000, np.uint16)
    for padding in (0, 3):
        message = raw(grey.byteswap(), "mono16", padding)
        message.is_bigendian = 1
        assert set(np.unique(decode_image(message))) <= {127, 128}  # implementations round differently


def test_packed_pixels_are_not_copied():
    message = raw(two_colors(), "bgr8", padding=4)
    pixels, is_bgr = read_pixels(message)
    assert is_bgr and np.shares_memory(pixels, np.frombuffer(message.data, np.uint8))


JPEG = simplejpeg.encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Image(height=2, width=2, encoding="weird", step=6, data=array.array("B", bytes(12))), "weird"),
        (Image(height=2, width=2, encoding="rgb8", step=6, data=array.array("B", bytes(11))), "12 bytes"),
        (Image(height=2, width=2, encoding="rgb8", step=5, data=array.array("B", bytes(12))), "12 bytes"),
        (Image(encoding="rgb8"), "0x0"),
        (Image(height=2, width=2, encoding="32FC1", step=8, data=array.array("B", bytes(16))), "32FC1"),
        (raw(two_colors(), "8UC3"), "8UC3"),
        (raw(two_colors()[..., :1], "nv21"), "nv21"),
        (compressed(b"\xff\xd8\xff garbage", "jpeg"), "not readable"),
        (compressed(JPEG[: len(JPEG) // 2], "jpeg"), "not readable"),
        (compressed(JPEG[:40], "jpeg"), "not readable"),
        (compressed(JPEG[:1000] + bytes(500) + JPEG[1500:], "jpeg"), "not readable"),
        (compressed(cv2.imencode(".png", two_colors())[1].tobytes()[:90], "png"), "not readable"),
        (compressed(b"", "jpeg"), "not readable"),
        (compressed(b"x", "16UC1; compressedDepth"), "depth image"),
    ],
)
def test_unreadable_images_are_dropped_with_a_reason(message, text):
    for read in (decode_image, read_pixels, lambda message: read_pixels(message, 2)):
        with pytest.raises(FrameDropped, match=text) as dropped:
            read(message)
        assert dropped.value.reason == "decode"


def test_a_jpeg_that_claims_another_size_is_refused_before_it_is_decoded():
    asked = []

    def refuse(size):
        asked.append(size)
        raise FrameDropped("calibration", "another size")

    with pytest.raises(FrameDropped, match="another size"):
        read_pixels(compressed(JPEG[: len(JPEG) // 2], "jpeg"), 1, refuse)  # decoding it would fail first
    assert asked == [(96, 64)]


def camera_info(**changes) -> CameraInfo:
    fields = {
        "width": 160,
        "height": 90,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": [100.0, 0, 80, 0, 101.0, 45, 0, 0, 1],
        "p": [90.0, 0, 79, 0, 0, 91.0, 44, 0, 0, 0, 1, 0],
    } | changes
    message = CameraInfo(**fields)
    message.header.frame_id = "cam_front"
    return message


def test_intrinsics_of_camera_info():
    plain = intrinsics_from_camera_info(camera_info())
    assert (plain.size, plain.distortion, plain.camera) == ((160, 90), None, "cam_front")
    assert plain.K.tolist() == [[100, 0, 80], [0, 101, 45], [0, 0, 1]]
    wrong_rotation = camera_info(r=[float(v) for v in range(9)])  # two published converters write one
    assert intrinsics_from_camera_info(wrong_rotation).K.tolist() == plain.K.tolist()


def test_a_distorted_lens_is_taken_out_unless_told_otherwise():
    distorted = camera_info(d=[-0.3, 0.1, 0.0, 0.0, 0.0])
    assert intrinsics_from_camera_info(distorted).distortion == Distortion("plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.0))
    with pytest.raises(FrameDropped, match="cam_front has lens distortion .*set it to undistort") as dropped:
        intrinsics_from_camera_info(distorted, "refuse")
    assert dropped.value.reason == "calibration"
    ignored = intrinsics_from_camera_info(distorted, "ignore")
    assert (ignored.K[0, 0], ignored.distortion) == (100, None)
    rectified = intrinsics_from_camera_info(distorted, "rectified")
    assert (rectified.K.tolist(), rectified.distortion) == ([[90, 0, 79], [0, 91, 44], [0, 0, 1]], None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"k": [0.0] * 9}, "CameraInfo of cam_left is not calibrated: K"),
        ({"k": [float("nan")] + [1.0] * 8}, "CameraInfo of cam_left is not calibrated: K"),
        ({"d": [0.1] * 3}, "cam_left: distortion model plumb_bob takes 4 or 5 coefficients, got 3"),
        ({"d": [float("nan")] * 5}, "cam_left: distortion coefficients must be finite"),
        ({"d": [0.1] * 5, "distortion_model": "ucm"}, "cam_left: distortion model 'ucm' is unknown; known: plumb_bob"),
    ],
)
def test_calibrations_that_cannot_be_are_dropped_in_one_line(changes, text):
    with pytest.raises(FrameDropped, match=text) as dropped:
        intrinsics_from_camera_info(camera_info(**changes), camera="cam_left")
    assert dropped.value.reason == "calibration"
    assert "\n" not in str(dropped.value)


def test_binning_and_region_of_interest_lead_to_the_published_image():
    binned = intrinsics_from_camera_info(camera_info(binning_x=2, binning_y=2))
    assert (binned.size, binned.K.tolist()) == ((80, 45), [[50, 0, 40], [0, 50.5, 22.5], [0, 0, 1]])
    roi = RegionOfInterest(x_offset=20, y_offset=10, width=120, height=60)
    cut = intrinsics_from_camera_info(camera_info(roi=roi))
    assert (cut.size, cut.K.tolist()) == ((120, 60), [[100, 0, 60], [0, 101, 35], [0, 0, 1]])


def test_intrinsics_are_compared_by_all_they_hold():
    plain = intrinsics_from_camera_info(camera_info())
    assert plain.same_as(intrinsics_from_camera_info(camera_info(), camera="other"))
    for changes in ({"width": 162}, {"d": [0.1] * 5}, {"k": [100.0, 0, 81, 0, 101.0, 45, 0, 0, 1]}):
        assert not plain.same_as(intrinsics_from_camera_info(camera_info(**changes)))
