"""The packaged network in every runtime of this machine, side by side, and the stages of the compiled one."""

import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from gsrender_core.bench.costs import Cost, CountedCosts, copy_gb_s, matrix_product_gflop_s
from gsrender_core.checkpoint import default_checkpoint
from gsrender_core.data.frame import Frame
from gsrender_core.engine.agreement import check_agreement, surround_frame
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.parts import ImagePart, after_the_lift
from gsrender_core.predictor import Predictor

EAGER_STAGES = ("backbone", "lift", "encoder", "head")
STAGES = ("see", "lift", "encode", "label")


def bench_runtimes(quick: bool = False, checkpoint: Path | None = None, device: str = "auto") -> dict:
    """Milliseconds from ``Frame`` to ``OccupancyGrid``, runtimes taking turns on the same frame.

    Args:
        quick: fewer repetitions.
        checkpoint: default the packaged one.
        device: as ``Predictor``.

    Returns:
        ``threads``, ``device``, ``precision``, ``parameters``, ``prediction_ms`` of what the node would use, ``ratio``
        (eager / compiled, medians) and ``rows``: of each
        runtime ``ms`` (median), ``least_ms``, ``cpu_ms`` (processor time a prediction, mean), ``made_s`` (how long
        loading took, the first time on a machine with tracing), ``agreement`` of its labels with eager torch's; of
        the stages' ``ms``, and of the OpenVINO engine's ``gflop`` and ``mbyte`` of their matrix products and
        convolutions, ``floor_ms`` and ``memory_ms``, what these take at ``gflop_s`` and ``gb_s``, the speed of a large
        float32 matrix product and of a large copy in the same process. Maps that stay in caches move faster.

    Raises:
        FileNotFoundError, ValueError: the checkpoint is missing or not usable.
    """
    path, predictors, made = Path(checkpoint or default_checkpoint()), {}, {}
    for name in ("eager", "auto"):
        start = time.perf_counter()
        predictor = Predictor.load(path, device=device, runtime=name)
        predictors[predictor.runtime], made[predictor.runtime] = predictor, time.perf_counter() - start
    eager = predictors["eager"]
    frame = surround_frame(eager.image_size)
    wall, cpu = ({name: [] for name in predictors} for _ in range(2))
    for turn in range(1 + (3 if quick else 15)):
        for name, predictor in predictors.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            predictor(frame)
            if turn:  # the first one warms up
                wall[name].append(1e3 * (time.perf_counter() - start))
                cpu[name].append(1e3 * (time.process_time() - start_cpu))
    rows = [_row(name, wall[name], cpu[name], made[name]) for name in predictors]
    for row, predictor in zip(rows, predictors.values(), strict=True):
        if predictor is not eager:
            limits = check_agreement(predictor._engine, eager._by_torch, eager.model.config, eager.precision)
            row["agreement"] = limits["agreement"]
    compiled = next((name for name in predictors if name != "eager"), None)
    speed, bandwidth = matrix_product_gflop_s(), copy_gb_s()
    rows += _eager_stages(eager, frame, 3 if quick else 15)
    if compiled == "openvino":
        rows += _stages(predictors[compiled], frame, 3 if quick else 15, speed, bandwidth)
    return {
        "threads": torch.get_num_threads(),
        "device": str(eager.device),
        "precision": str(eager.precision).removeprefix("torch."),
        "checkpoint": path.name,
        "parameters": sum(p.numel() for p in eager.model.parameters()),
        "prediction_ms": median(wall[compiled or "eager"]),
        "gflop_s": speed,
        "gb_s": bandwidth,
        "ratio": median(wall["eager"]) / median(wall[compiled]) if compiled else None,
        "rows": rows,
    }


def _row(name: str, wall: list[float], cpu: list[float], made_s: float) -> dict:
    return {
        "case": name,
        "ms": median(wall),
        "least_ms": min(wall),
        "cpu_ms": float(np.mean(cpu)),
        "made_s": made_s,
        "agreement": 1.0,
    }


def _eager_stages(predictor: Predictor, frame: Frame, repetitions: int) -> list[dict]:
    """Milliseconds of backbone, lift (neck, depth and view transform), encoder and head (Eq. 7)."""
    runs = [_eager_run(predictor, frame) for _ in range(repetitions)]
    return [{"case": f"eager: {stage}", "ms": median(run[i] for run in runs)} for i, stage in enumerate(EAGER_STAGES)]


@torch.inference_mode()
def _eager_run(predictor: Predictor, frame: Frame) -> list[float]:
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


def _stages(predictor: Predictor, frame: Frame, repetitions: int, gflop_s: float, gb_s: float) -> list[dict]:
    engine = predictor._engine
    Ks, T_ego_cam = (np.ascontiguousarray(a, np.float32) for a in (frame.Ks, frame.T_ego_cam))
    times = {stage: [] for stage in STAGES}
    result: tuple = ()
    for _ in range(repetitions):
        for stage in STAGES:
            arguments = {
                "see": (frame.images, Ks, T_ego_cam),
                "lift": (Ks, T_ego_cam),
                "encode": (),
                "label": (*result, predictor.tau),
            }[stage]
            start = time.perf_counter()
            result = getattr(engine, stage)(*arguments) or ()
            times[stage].append(1e3 * (time.perf_counter() - start))
    costs = stage_costs(predictor.model, frame)
    return [
        {"case": f"openvino: {stage}", "ms": median(values), **_floors(costs.get(stage), gflop_s, gb_s)}
        for stage, values in times.items()
    ]


def _floors(cost: Cost | None, gflop_s: float, gb_s: float) -> dict[str, float | None]:
    if cost is None:
        return {"gflop": None, "floor_ms": None, "mbyte": None, "memory_ms": None}
    return {
        "gflop": cost.gflop,
        "floor_ms": 1e3 * cost.gflop / gflop_s,
        "mbyte": cost.mbyte,
        "memory_ms": cost.mbyte / gb_s,
    }


@torch.no_grad()
def stage_costs(model: GSRender, frame: Frame) -> dict[str, Cost]:
    """Operations and bytes of the stages ``see`` (camera by camera, as it runs) and ``encode``."""
    images, Ks, T = (torch.from_numpy(np.asarray(a)) for a in (frame.images, frame.Ks, frame.T_ego_cam))
    volume, part = torch.zeros(*model.view.shape, model.config.view.channels), ImagePart(model)
    calls = {
        "see": lambda: [
            part(*one) for one in zip(images.split(1), Ks.float().split(1), T.float().split(1), strict=True)
        ],
        "encode": lambda: after_the_lift(model)(volume),
    }
    costs = {}
    for stage, call in calls.items():
        with CountedCosts() as counted:
            call()
        costs[stage] = counted.cost
    return costs
