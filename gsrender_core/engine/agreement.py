"""Whether an engine agrees with eager torch: asked once, when it is made."""

import logging

import numpy as np
import torch

from gsrender_core.config import ModelConfig
from gsrender_core.data.frame import Frame
from gsrender_core.geometry import transform

logger = logging.getLogger(__name__)

CAMERAS = 6  # of a usual rig
TAU_SHARE = 0.1  # of all voxels or more are occupied at the check's threshold, whatever the network finds there
# Share of the voxels occupied for either whose labels agree, and mean difference of their confidences. The rest of
# one lies on the threshold or between two classes.
LIMITS = {torch.float32: (0.995, 1e-3), torch.bfloat16: (0.9, 2e-2)}


class AgreementError(RuntimeError):
    """An engine disagrees with the reference."""


def check_agreement(
    engine, reference, config: ModelConfig, precision: torch.dtype, cameras: int = CAMERAS
) -> dict[str, float]:
    """Compare an engine with the reference on one made-up frame.

    Args:
        engine, reference: frame and tau to labels and confidence.
        config: of the network of both.
        precision: of the engine's arithmetic; decides how much may differ.
        cameras: of the made-up frame.

    Returns:
        ``agreement`` and ``confidence_error``, see ``LIMITS``.

    Raises:
        AgreementError: they differ by more.
    """
    frame = surround_frame(config.image_size, cameras)
    _, everywhere = reference(frame, 0.0)
    tau = float(np.quantile(everywhere, 1 - TAU_SHARE))
    expected, expected_confidence = reference(frame, tau)
    engine(frame, tau)  # the second time, memory holds what the first one left
    got, confidence = engine(frame, tau)
    free = config.num_classes
    either = (expected != free) | (got != free)
    agreement = float((expected == got)[either].mean()) if either.any() else 1.0
    error = float(np.abs(expected_confidence - confidence)[either].mean()) if either.any() else 0.0
    least, most = LIMITS[precision]
    if not (agreement >= least and error <= most):
        raise AgreementError(
            f"its labels agree with the reference in {100 * agreement:.2f} % of {int(either.sum())} voxels (at least "
            f"{100 * least:g} % wanted), its confidences differ by {error:.2g} (at most {most:g})"
        )
    logger.debug("labels agree in %.3f %%, confidences differ by %.2g", 100 * agreement, error)
    return {"agreement": agreement, "confidence_error": error}


def _looking(yaw: float) -> np.ndarray:
    """Rotation ego <- camera of a level camera that looks along ``yaw`` (0: forward)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]])


def surround_frame(image_size: tuple[int, int], cameras: int = CAMERAS, seed: int = 0) -> Frame:
    """A made-up frame: level cameras 1.5 m above the ground all around, images of soft coloured patches."""
    width, height = image_size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (cameras, 3, -(-height // 16), -(-width // 16)), dtype=np.uint8)
    images = np.ascontiguousarray(coarse.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width])
    K = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1.0]])
    poses = [transform(_looking(2 * np.pi * c / cameras), (0, 0, 1.5)) for c in range(cameras)]
    names = tuple(f"camera {c}" for c in range(cameras))
    return Frame(images, np.stack([K] * cameras), np.stack(poses), np.eye(4), 0, names)
