"""Score anybody's predictions: a folder of ``<token>.npz`` against a folder of ground truth."""

import logging
from pathlib import Path

from gsrender_core.data.occ3d_labels import check_mask, check_semantics, read_npz_arrays
from gsrender_core.metrics.miou import MeanIoU, without_nan
from gsrender_core.metrics.ray_iou import RayIoU, check_origins

logger = logging.getLogger(__name__)


def score(pred_dir: Path, gt_dir: Path) -> dict:
    """mIoU and RayIoU of predictions on Occ3D's grid.

    Args:
        pred_dir: ``<token>.npz`` with ``semantics`` uint8 [200, 200, 16], ids 0..17. Files without
            ground truth are counted and otherwise left alone.
        gt_dir: ``<token>.npz`` with ``semantics`` likewise, optionally ``mask_camera`` uint8 (mIoU counts
            only there; everywhere if it is absent), and ``ray_origins`` float64 [n, 3] in metres in the
            ego frame, already selected as RayIoU wants.

    Returns:
        ``miou, miou_15, iou {class: value}, rayiou, rayiou@1, rayiou@2, rayiou@4, ray_iou {class: value},
        samples, samples_with_mask, predictions_without_truth``. Scores lie in [0, 1]; None where nothing
        defines them, so the dictionary is valid JSON.

    Raises:
        FileNotFoundError: a folder or a prediction is missing.
        ValueError: a folder without npz files, or a file with wrong content, which the message names.
    """
    pred_dir, gt_dir = Path(pred_dir), Path(gt_dir)
    predictions, truths = _npz_files(pred_dir, "predictions"), _npz_files(gt_dir, "ground truth")
    missing = sorted(truths.keys() - predictions.keys())
    if missing:
        raise FileNotFoundError(
            f"{pred_dir} lacks predictions for {len(missing)} of {len(truths)} ground-truth samples, "
            f"first {missing[0]}.npz. Predict them, or take their truth out of {gt_dir}."
        )
    extra = sorted(predictions.keys() - truths.keys())
    if extra:
        logger.warning("%d predictions in %s have no ground truth, first %s.npz", len(extra), pred_dir, extra[0])

    miou, ray_iou, masked = MeanIoU(), RayIoU(), 0
    for token, truth_path in truths.items():
        prediction = read_npz_arrays(predictions[token], ("semantics",))["semantics"]
        check_semantics(prediction, f"{predictions[token]}: semantics")
        arrays = read_npz_arrays(truth_path, ("semantics", "ray_origins"))
        truth, mask = arrays["semantics"], arrays.get("mask_camera")
        check_semantics(truth, f"{truth_path}: semantics")
        if mask is not None:
            check_mask(mask, f"{truth_path}: mask_camera")
            masked += 1
        miou.update(prediction, truth, mask)
        ray_iou.update(prediction, truth, check_origins(arrays["ray_origins"], f"{truth_path}: ray_origins"))
    counts = {"samples": len(truths), "samples_with_mask": masked, "predictions_without_truth": len(extra)}
    return without_nan({**miou.result(), **ray_iou.result(), **counts})


def _npz_files(folder: Path, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"folder of {what} {folder} does not exist")
    files = {path.stem: path for path in sorted(folder.glob("*.npz"))}
    if not files:
        raise ValueError(f"folder of {what} {folder} holds no <token>.npz")
    return files
