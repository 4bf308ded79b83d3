"""Time of RayIoU: the numba traversal against the numpy reference on the same street in the same run."""

import os
import time
from statistics import median

import numpy as np

from gsrender_core.classes import FREE, class_id
from gsrender_core.metrics.ray_iou import RayIoU
from gsrender_core.metrics.ray_iou_reference import cast_rays_reference, ray_iou_reference

SEED = 20240917
ORIGINS = 8  # the most that a sample has


def make_street(rng: np.random.Generator) -> np.ndarray:
    """A street on Occ3D's grid: ground, house fronts, trees and vehicles; uint8 [200, 200, 16]."""
    semantics = np.full((200, 200, 16), FREE, dtype=np.uint8)
    semantics[:, :, 2] = class_id("terrain")
    semantics[:, 85:115, 2] = class_id("driveable_surface")
    semantics[:, 78:85, 2] = semantics[:, 115:122, 2] = class_id("sidewalk")
    for x in range(0, 200, 25):
        left, right = rng.integers(40, 70), rng.integers(130, 160)
        semantics[x : x + 20, left : left + 2, 3:] = class_id("manmade")
        semantics[x : x + 20, right : right + 2, 3:] = class_id("manmade")
    for x, y in zip(rng.integers(0, 195, 40), rng.choice([74, 75, 124, 125], 40), strict=True):
        semantics[x + 1, y, 3:8] = class_id("vegetation")
        semantics[x : x + 4, y - 1 : y + 3, 8:13] = class_id("vegetation")
    for x, y in zip(rng.integers(0, 185, 25), rng.choice([88, 95, 102, 109], 25), strict=True):
        semantics[x : x + 11, y : y + 5, 3:7] = class_id("car")
    return semantics


def make_prediction(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The truth as a network might see it: shifted by a voxel in places, with holes and floaters."""
    prediction = np.where(rng.random(truth.shape) < 0.3, np.roll(truth, 1, axis=0), truth)
    prediction = np.where(rng.random(truth.shape) < 0.1, FREE, prediction)
    return np.where(rng.random(truth.shape) < 0.002, class_id("manmade"), prediction).astype(np.uint8)


def bench_ray_iou(quick: bool = False) -> dict:
    """Milliseconds a sample: prediction and truth cast from eight origins and counted.

    Inputs are drawn with ``SEED``; the first run (compilation) is not counted. The reference runs once,
    on the same sample, and must give the same scores.

    Args:
        quick: fewer repetitions, and the reference from one origin only, scaled to eight.

    Returns:
        ``seed``, ``threads`` and ``rows``: ``case``, ``numba_ms``, ``reference_ms`` (numpy in lock-step) and
        ``ratio`` reference / numba.

    Raises:
        RuntimeError: the two disagree.
    """
    rng = np.random.default_rng(SEED)
    truth = make_street(rng)
    prediction = make_prediction(truth, rng)
    origins = np.stack([np.linspace(-30, 30, ORIGINS), rng.uniform(-2, 2, ORIGINS), np.full(ORIGINS, 1.84)], axis=1)

    def evaluate(count: int) -> np.ndarray:
        metric = RayIoU()
        metric.update(prediction, truth, origins[:count])
        return metric.iou()

    evaluate(ORIGINS)
    repetitions = 5 if quick else 20
    numba_ms = median(_milliseconds(lambda: evaluate(ORIGINS))[0] for _ in range(repetitions))
    count = 1 if quick else ORIGINS
    reference_ms, expected = _milliseconds(
        lambda: ray_iou_reference([tuple(cast_rays_reference(g, origins[:count]) for g in (prediction, truth))])
    )
    if not np.array_equal(evaluate(count), expected, equal_nan=True):
        raise RuntimeError(f"the numba traversal and its reference disagree on the street of seed {SEED}")
    reference_ms *= ORIGINS / count
    name = f"RayIoU, {ORIGINS} origins x 14,040 rays, prediction and truth"
    row = {"case": name, "numba_ms": numba_ms, "reference_ms": reference_ms, "ratio": reference_ms / numba_ms}
    return {"seed": SEED, "threads": min(ORIGINS, os.cpu_count() or 1), "rows": [row]}


def _milliseconds(call) -> tuple[float, object]:
    start = time.perf_counter()
    result = call()
    return (time.perf_counter() - start) * 1e3, result
