"""Time of one prediction, stage by stage, with the packaged checkpoint on six cameras."""

import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from gsrender_core.checkpoint import default_checkpoint
from gsrender_core.data.frame import Frame
from gsrender_core.geometry import transform
from gsrender_core.model.gsrender import CameraInput
from gsrender_core.predictor import Predictor
from gsrender_core.world import rig

SEED = 20240917
STAGES = ("backbone", "lift", "encoder", "head")
WHOLE = "Frame to OccupancyGrid"


def bench_inference(quick: bool = False, checkpoint: Path | None = None, device: str = "auto") -> dict:
    """Median milliseconds of every stage of the network, and of the whole predictor, on the same frame in one run.

    Images are noise drawn with ``SEED``, cameras those of the synthetic world's rig: neither changes the work. The
    first run is not counted.

    Args:
        quick: fewer repetitions.
        checkpoint: default the packaged one.
        device: as ``Predictor``.

    Returns:
        ``seed``, ``threads``, ``device``, ``precision``, ``parameters``, ``checkpoint`` and ``rows``: ``case``, ``ms``,
        ``share`` of the stages' sum; last the whole ``Predictor`` call, ``Frame`` to ``OccupancyGrid``.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or not usable.
    """
    path = Path(checkpoint or default_checkpoint())
    predictor = Predictor.load(path, device)
    frame = noise_frame(predictor.image_size)
    runs = [_stages(predictor, frame) for _ in range(1 + (3 if quick else 15))][1:]
    whole = []
    for _ in runs:
        start = time.perf_counter()
        predictor(frame)
        whole.append(1e3 * (time.perf_counter() - start))
    stage_ms = [median(run[n] for run in runs) for n in range(len(STAGES))]
    rows = [{"case": name, "ms": ms, "share": ms / sum(stage_ms)} for name, ms in zip(STAGES, stage_ms, strict=True)]
    rows.append({"case": WHOLE, "ms": median(whole), "share": None})
    return {
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "device": str(predictor.device),
        "precision": str(predictor.precision).removeprefix("torch."),
        "parameters": sum(p.numel() for p in predictor.model.parameters()),
        "checkpoint": path.name,
        "rows": rows,
    }


def noise_frame(image_size: tuple[int, int]) -> Frame:
    """Six cameras of the synthetic world's rig with images of noise."""
    rng = np.random.default_rng(SEED)
    count = len(rig.CAMERAS)
    return Frame(
        images=rng.integers(0, 256, (count, 3, image_size[1], image_size[0]), dtype=np.uint8),
        Ks=np.stack([rig.intrinsics(camera, image_size) for camera in rig.CAMERAS]),
        T_ego_cam=np.stack([transform(camera.rotation, camera.translation) for camera in rig.CAMERAS]),
        T_global_ego=np.eye(4),
        stamp_ns=0,
        camera_names=tuple(camera.channel for camera in rig.CAMERAS),
    )


@torch.inference_mode()
def _stages(predictor: Predictor, frame: Frame) -> list[float]:
    """Milliseconds of backbone, lift (neck, depth and view transform), encoder and head (Eq. 7)."""
    model, times = predictor.model, []
    cameras = CameraInput.from_frames([frame], predictor.device)

    def timed(call):
        _wait(predictor.device)
        start = time.perf_counter()
        result = call()
        _wait(predictor.device)
        times.append(1e3 * (time.perf_counter() - start))
        return result

    # As ``Predictor.features`` does.
    with torch.autocast(predictor.device.type, torch.bfloat16, enabled=predictor.precision == torch.bfloat16):
        maps = timed(lambda: model.image_features(cameras.images))
        lifted, _ = timed(lambda: model.lift(maps, cameras.Ks, cameras.T_ego_cam))
        P = timed(lambda: model.encoder(lifted).float())
    timed(lambda: model.occupancy(P[0]))
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
