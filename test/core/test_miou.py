"""mIoU: by hand, against a loop over classes, masks, pooling."""

import numpy as np
import pytest

from gsrender_core.classes import CLASS_NAMES, FREE, NUM_CLASSES
from gsrender_core.metrics.miou import MeanIoU, mean_of_known


def u8(values) -> np.ndarray:
    return np.array(values, dtype=np.uint8)


def test_by_hand():
    truth = u8([4, 4, 4, 11, 11, 17, 17, 0])
    prediction = u8([4, 4, 17, 11, 4, 4, 17, 17])
    metric = MeanIoU()
    metric.update(prediction, truth)
    result = metric.result()
    # car: 2 hits; truth 3, predicted 4 (one on free): union 5. road: 1 hit, truth 2, predicted 1: union 2.
    assert result["iou"]["car"] == pytest.approx(2 / 5)
    assert result["iou"]["driveable_surface"] == pytest.approx(1 / 2)
    assert result["iou"]["others"] == 0.0
    assert np.isnan(result["iou"]["bus"]) and set(result["iou"]) == set(CLASS_NAMES)
    assert result["miou"] == pytest.approx((2 / 5 + 1 / 2 + 0) / 3)
    assert result["miou_15"] == pytest.approx((2 / 5 + 1 / 2) / 2)


def test_free_is_not_averaged():
    metric = MeanIoU()
    metric.update(u8([17, 17, 17, 2]), u8([17, 17, 17, 2]))
    assert metric.result()["miou"] == 1.0 and len(metric.iou()) == NUM_CLASSES
    metric = MeanIoU()
    metric.update(u8([17, 17]), u8([17, 17]))
    assert np.isnan(metric.result()["miou"]) and np.isnan(metric.result()["miou_15"])


def test_mask_hides_voxels():
    truth, prediction = u8([4, 4, 11]), u8([4, 3, 3])
    for mask in (u8([1, 0, 0]), np.array([True, False, False])):
        metric = MeanIoU()
        metric.update(prediction, truth, mask)
        assert metric.histogram.sum() == 1 and metric.result()["miou"] == 1.0


def test_against_a_loop_over_classes_pooled_over_samples():
    rng = np.random.default_rng(1)
    shape = (9, 8, 7)
    samples = [
        (
            rng.integers(0, 18, shape, dtype=np.uint8),
            rng.integers(0, 16, shape, dtype=np.uint8),
            rng.random(shape) < 0.6,
        )
        for _ in range(4)
    ]
    whole, halves = MeanIoU(), [MeanIoU(), MeanIoU()]
    for n, (prediction, truth, mask) in enumerate(samples):
        whole.update(prediction, truth, mask)
        halves[n % 2].update(prediction, truth, mask.astype(np.uint8))
    halves[0].merge(halves[1])
    assert (halves[0].histogram == whole.histogram).all()
    prediction, truth = (np.concatenate([s[i][s[2]] for s in samples]) for i in (0, 1))
    for c, value in enumerate(whole.iou()):
        both = ((prediction == c) & (truth == c)).sum()
        either = ((prediction == c) | (truth == c)).sum()
        assert value == pytest.approx(both / either)
    # Class 16 is predicted and never true: it counts, with 0.
    assert whole.iou()[16] == 0.0 and whole.histogram[FREE].sum() == 0


def test_permuting_voxels_changes_nothing():
    rng = np.random.default_rng(2)
    prediction, truth = rng.integers(0, 18, (2, 500), dtype=np.uint8)
    order = rng.permutation(500)
    a, b = MeanIoU(), MeanIoU()
    a.update(prediction, truth)
    b.update(prediction[order], truth[order])
    assert (a.histogram == b.histogram).all()


@pytest.mark.parametrize(
    "prediction, truth, mask, message",
    [
        (u8([1, 2]), u8([1]), None, "shapes differ"),
        (u8([1]), u8([1]), u8([1, 1]), "shapes differ"),
        (np.array([1]), u8([1]), None, "prediction is int64"),
        (u8([1]), u8([18]), None, "truth is uint8 with highest id 18"),
    ],
)
def test_wrong_input_is_refused(prediction, truth, mask, message):
    with pytest.raises(ValueError, match=message):
        MeanIoU().update(prediction, truth, mask)


def test_mean_of_known():
    assert mean_of_known(np.array([1.0, np.nan, 0.0])) == 0.5
    with np.errstate(all="raise"):
        assert np.isnan(mean_of_known(np.array([np.nan])))
