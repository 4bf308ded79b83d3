"""Scoring folders of predictions: values, missing pieces, and everything that must be refused."""

import json

import numpy as np
import pytest

from gsrender_core.classes import CLASS_NAMES, FREE
from gsrender_core.metrics.miou import MeanIoU
from gsrender_core.metrics.ray_iou import RayIoU
from gsrender_core.score import score

ORIGINS = np.array([[0.94, 0.0, 1.84], [8.0, 1.0, 1.84]])
KEYS = {"miou", "miou_15", "iou", "rayiou", "rayiou@1", "rayiou@2", "rayiou@4"}


def grids(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.full((200, 200, 16), FREE, np.uint8)
    truth[:, :, 2] = 11
    truth[20:180:9, 20:180:7, 3:8] = rng.integers(1, 16, (18, 23, 1))
    prediction = np.where(rng.random(truth.shape) < 0.2, 4, truth).astype(np.uint8)
    return prediction, truth


@pytest.fixture
def folders(tmp_path):
    pred, gt = tmp_path / "pred", tmp_path / "gt"
    pred.mkdir()
    gt.mkdir()
    for n, token in enumerate(("a", "b")):
        prediction, truth = grids(n)
        np.savez_compressed(pred / f"{token}.npz", semantics=prediction)
        mask = {"mask_camera": (np.arange(200 * 200 * 16).reshape(200, 200, 16) % 3 > 0).astype(np.uint8)} if n else {}
        np.savez_compressed(gt / f"{token}.npz", semantics=truth, ray_origins=ORIGINS, **mask)
    return pred, gt


def rewrite(path, **changes):
    with np.load(path, allow_pickle=True) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})


def test_values_are_those_of_the_metrics(folders):
    pred, gt = folders
    result = score(pred, gt)
    miou, rays = MeanIoU(), RayIoU()
    for n, token in enumerate(("a", "b")):
        prediction, truth = grids(n)
        mask = np.load(gt / f"{token}.npz")["mask_camera"] if n else None
        miou.update(prediction, truth, mask)
        rays.update(prediction, truth, ORIGINS)
    for key, value in {**miou.result(), **rays.result()}.items():
        if not isinstance(value, dict):
            assert result[key] == pytest.approx(value) and 0 < value < 1
    assert KEYS <= set(result) and set(result["iou"]) == set(CLASS_NAMES)
    assert result["iou"]["vegetation"] is None  # neither predicted nor there
    assert (result["samples"], result["samples_with_mask"], result["predictions_without_truth"]) == (2, 1, 0)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_truth_scores_one_against_itself(folders):
    _, gt = folders
    result = score(gt, gt)
    assert result["miou"] == result["miou_15"] == result["rayiou"] == result["rayiou@1"] == 1.0


def test_extra_predictions_are_counted_and_left_alone(folders, caplog):
    pred, gt = folders
    before = score(pred, gt)
    (pred / "zzz.npz").write_bytes(b"never opened")
    after = score(pred, gt)
    assert after.pop("predictions_without_truth") == 1 and before.pop("predictions_without_truth") == 0
    assert after == before and "zzz.npz" in caplog.text


def test_missing_prediction_is_named(folders):
    pred, gt = folders
    (pred / "b.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks predictions for 1 of 2 ground-truth samples, first b\.npz"):
        score(pred, gt)


def test_missing_and_empty_folders(folders, tmp_path):
    pred, gt = folders
    with pytest.raises(FileNotFoundError, match="folder of predictions .*nowhere does not exist"):
        score(tmp_path / "nowhere", gt)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="folder of ground truth .*empty holds no"):
        score(pred, tmp_path / "empty")


GRID = np.full((200, 200, 16), FREE, np.uint8)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"semantics": GRID[..., 0]}, r"semantics has shape \(200, 200\)"),
        ({"semantics": GRID.transpose(2, 1, 0)}, r"semantics has shape \(16, 200, 200\)"),
        ({"semantics": GRID.astype(np.int64)}, r"dtype int64, expected uint8; cast it with \.astype\(np\.uint8\)"),
        ({"semantics": GRID.astype(np.float32)}, "dtype float32"),
        ({"semantics": GRID + np.uint8(1)}, "class id 18"),
        ({"semantics": np.array(["x", None], dtype=object)}, "not a readable npz of plain arrays"),
        ({"semantics": None, "labels": GRID}, "lacks semantics; it holds labels"),
    ],
)
def test_wrong_predictions_are_named(folders, changes, message):
    pred, gt = folders
    rewrite(pred / "b.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        score(pred, gt)
    assert str(pred / "b.npz") in str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"semantics": GRID[:100]}, r"semantics has shape \(100, 200, 16\)"),
        ({"mask_camera": GRID}, "mask_camera holds value 17"),
        ({"mask_camera": np.ones((200, 200, 16))}, "mask_camera has dtype float64"),
        ({"mask_camera": np.ones((200, 200), np.uint8)}, r"mask_camera has shape \(200, 200\)"),
        ({"ray_origins": None}, "lacks ray_origins"),
        ({"ray_origins": np.zeros((3, 2))}, r"ray_origins: shape \(3, 2\)"),
        ({"ray_origins": np.zeros((0, 3))}, r"ray_origins: shape \(0, 3\)"),
        ({"ray_origins": np.array([[0.0, 0.0, np.inf]])}, "ray_origins: 1 of 1 are not finite"),
        ({"ray_origins": np.array([[1, 2, 3]])}, "ray_origins: dtype int64"),
    ],
)
def test_wrong_truth_is_named(folders, changes, message):
    pred, gt = folders
    rewrite(gt / "b.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        score(pred, gt)
    assert str(gt / "b.npz") in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped", "npy"])
def test_broken_files_are_named(folders, damage):
    pred, gt = folders
    path = pred / "a.npz"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2 : len(data) // 2 + 20] = b"\0" * 20
    elif damage == "npy":
        with open(path, "wb") as file:
            np.save(file, GRID)
        data = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": bytes(data[: len(data) // 2])}.get(damage, bytes(data)))
    with pytest.raises(ValueError, match=r"a\.npz is not a readable npz"):
        score(pred, gt)
