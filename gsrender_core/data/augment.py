"""Image augmentation: what the network sees is warped, what it has to explain stays as it was.

Every camera's image is moved by its own affine pixel transform A: ``pixel_augmented = A @ pixel`` in homogeneous
coordinates with the centre of the top-left pixel at (0.5, 0.5). A camera ray keeps its place in space, so the
network lifts with the intrinsics ``A @ K`` (any invertible matrix with last row (0, 0, 1), no pinhole after a flip
or rotation: depth along z is unchanged), while rendering and labels keep the original K and pixels.
"""

import cv2
import numpy as np
import torch

from gsrender_core.config import AugmentConfig

_SHIFT = np.array([[1.0, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # OpenCV's pixel index -> our pixel coordinates


def _uniform(low: float, high: float) -> float:
    """One draw of torch's global generator: seeded at every step, so that a resumed run repeats it."""
    return low + (high - low) * float(torch.rand(()))


def image_transform(
    image_size: tuple[int, int],
    resize: float = 1.0,
    rotation_deg: float = 0.0,
    flip: bool = False,
    shift: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Pixel transform A float64 [3, 3]: scale, mirror and rotate about the image's centre, then shift.

    Args:
        image_size: width and height, px.
        resize: factor, > 0; above 1 the image is magnified.
        rotation_deg: clockwise as seen (y points down).
        flip: mirror left and right.
        shift: to the right and down, as shares of width and height.
    """
    width, height = image_size
    c, s = np.cos(np.deg2rad(rotation_deg)), np.sin(np.deg2rad(rotation_deg))
    A = np.eye(3)
    A[:2, :2] = resize * np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    center = np.array([width / 2, height / 2])
    A[:2, 2] = center - A[:2, :2] @ center + np.array(shift) * (width, height)
    return A


def draw_transform(config: AugmentConfig, image_size: tuple[int, int]) -> np.ndarray:
    """A random ``image_transform`` within the configured ranges, float64 [3, 3]."""
    resize = _uniform(*config.resize)
    rotation_deg = _uniform(-config.rotation_deg, config.rotation_deg)
    flip = _uniform(0, 1) < config.flip
    shift = (_uniform(-config.shift, config.shift), _uniform(-config.shift, config.shift))
    return image_transform(image_size, resize, rotation_deg, flip, shift)


def warp_image(image: np.ndarray, A: np.ndarray) -> np.ndarray:
    """An image uint8 [3, H, W] moved by A [3, 3], bilinear, same size; black where nothing was photographed."""
    M = np.linalg.inv(_SHIFT) @ A @ _SHIFT
    rows = np.ascontiguousarray(image.transpose(1, 2, 0))
    size = (image.shape[2], image.shape[1])
    return cv2.warpAffine(rows, M[:2], size, flags=cv2.INTER_LINEAR).transpose(2, 0, 1)


def change_light(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """uint8 image with contrast scaled by ``1 + contrast`` about mid-grey and ``brightness`` (share of 255) added."""
    levels = (np.arange(256) - 127.5) * (1 + contrast) + 127.5 + 255 * brightness
    return np.clip(np.round(levels), 0, 255).astype(np.uint8)[image]


def augment_images(images: np.ndarray, config: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """Augment every camera's image on its own.

    Args:
        images: uint8 [C, 3, H, W].
        config: ranges to draw from.

    Returns:
        images uint8 [C, 3, H, W] and their pixel transforms A float64 [C, 3, 3].
    """
    size = (images.shape[3], images.shape[2])
    changed, transforms = [], []
    for image in images:
        A = draw_transform(config, size)
        brightness = _uniform(-config.brightness, config.brightness)
        contrast = _uniform(-config.contrast, config.contrast)
        changed.append(warp_image(change_light(image, brightness, contrast), A))
        transforms.append(A)
    return np.stack(changed), np.stack(transforms)


def augmented_pixels(uv: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """Pixels [M, 2] moved by one transform a pixel, [M, 3, 3]."""
    return torch.einsum("mij,mj->mi", A[:, :2, :2], uv) + A[:, :2, 2]
