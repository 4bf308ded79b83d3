"""Predictions of a whole data set as files: ``<token>.npz``, and a picture beside each."""

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.data.frame import previous_frames
from gsrender_core.pictures import occupancy_picture
from gsrender_core.predictor import Predictor

logger = logging.getLogger(__name__)


def predict_folder(
    predictor: Predictor,
    dataset,
    out: Path,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    pictures: bool = True,
) -> int:
    """Predict every sample of a data set.

    Writes for each sample ``<token>.npz`` with ``semantics`` uint8 [X, Y, Z] and ``confidence`` float16
    [X, Y, Z] (as ``OccupancyGrid``), and ``<token>.png``: cameras, prediction and, where known, ground truth.

    Args:
        predictor: the network.
        dataset: as ``data.nuscenes.NuScenes``, read at the predictor's image size.
        out: folder, made if missing; files of the same names are replaced.
        limit: only the first samples.
        progress: called with (done, total).
        pictures: also draw; False is several times faster.

    Returns:
        the number of samples predicted.

    Raises:
        ValueError: ``limit`` below 1, or a broken image, sweep or label.
        OSError: ``out`` cannot be written; a missing image.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be 1 or more, or left out for all samples")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    total = len(dataset) if limit is None else min(limit, len(dataset))
    for i in range(total):
        frame = dataset.frame(i, labels=False)
        occupancy = predictor(frame, previous=previous_frames(dataset, i, predictor.frames_before))
        np.savez_compressed(
            out / f"{frame.token}.npz",
            semantics=occupancy.semantics,
            confidence=occupancy.confidence.astype(np.float16),
        )
        if pictures:
            try:
                truth = dataset.ground_truth(i)
            except ValueError as error:
                logger.warning("picture without ground truth: %s", error)
                truth = None
            write_png(out / f"{frame.token}.png", occupancy_picture(frame, occupancy, truth))
        if progress:
            progress(i + 1, total)
    logger.info("%d predictions in %s", total, out)
    return total


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB.

    Raises:
        OSError: the file cannot be written.
    """
    done, data = cv2.imencode(".png", image[:, :, ::-1])
    assert done, image.shape
    Path(path).write_bytes(data.tobytes())
