"""Mean intersection over union of voxel labels, as Occ3D-nuScenes defines it."""

import math

import numpy as np

from gsrender_core.classes import CLASS_NAMES, NUM_CLASSES, class_id

_IDS = NUM_CLASSES + 1  # the classes and free
# The self-supervised papers leave these two out: no open-vocabulary prompt describes them.
NOT_IN_MIOU_15 = ("others", "other_flat")


def mean_of_known(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN, without a warning, where nothing is known."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def without_nan(value):
    """The same nested values with NaN replaced by None, as JSON wants it."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


class MeanIoU:
    """Accumulates one confusion histogram over a split.

    ``histogram`` is int64 [18, 18]: rows truth, columns prediction, the last id is free.
    ``IoU_c = h_cc / (row_c + column_c - h_cc)``. Free is not averaged, yet a voxel wrongly called
    free, or wrongly occupied, counts in its class's union.
    """

    def __init__(self):
        self.histogram = np.zeros((_IDS, _IDS), dtype=np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> None:
        """Add one sample.

        Args:
            prediction, truth: uint8, same shape, ids 0..17.
            mask: same shape, nonzero where voxels count (``mask_camera``); default everywhere.

        Raises:
            ValueError: shapes differ, or an id above 17.
        """
        if prediction.shape != truth.shape or (mask is not None and mask.shape != truth.shape):
            shapes = f"prediction {prediction.shape}, truth {truth.shape}, mask {getattr(mask, 'shape', None)}"
            raise ValueError(f"shapes differ: {shapes}")
        for name, array in (("prediction", prediction), ("truth", truth)):
            if array.dtype != np.uint8 or array.max(initial=0) >= _IDS:
                raise ValueError(
                    f"{name} is {array.dtype} with highest id {array.max(initial=0)}; expected uint8 ids 0..{_IDS - 1}"
                )
        pair = truth.astype(np.uint16) * np.uint16(_IDS) + prediction
        if mask is not None:
            pair = pair[mask.astype(bool)]
        self.histogram += np.bincount(pair.ravel(), minlength=_IDS**2).reshape(_IDS, _IDS)

    def merge(self, other: "MeanIoU") -> None:
        """Add what another accumulator has seen."""
        self.histogram += other.histogram

    def iou(self) -> np.ndarray:
        """IoU of each class, float64 [17]; NaN for a class that neither truth nor prediction has."""
        hits = np.diag(self.histogram)
        union = self.histogram.sum(axis=0) + self.histogram.sum(axis=1) - hits
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)[:NUM_CLASSES]

    def result(self) -> dict:
        """``miou``, ``miou_15`` (without others and other_flat) and ``iou`` by class name, in [0, 1] or NaN."""
        iou = self.iou()
        left_out = [class_id(name) for name in NOT_IN_MIOU_15]
        return {
            "miou": mean_of_known(iou),
            "miou_15": mean_of_known(np.delete(iou, left_out)),
            "iou": {name: float(value) for name, value in zip(CLASS_NAMES, iou, strict=True)},
        }
