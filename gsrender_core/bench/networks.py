"""Networks of GPU size with random weights: images that lie on the device to labels that lie there, in bfloat16."""

import dataclasses
import time
from statistics import median

import torch

from gsrender_core.bench.costs import CountedCosts
from gsrender_core.config import BackboneConfig, DepthConfig, EncoderConfig, ModelConfig, ViewConfig
from gsrender_core.engine.agreement import surround_frame
from gsrender_core.engine.cuda_graph_engine import Captured, network_inputs
from gsrender_core.engine.gpu_network import GpuNetwork
from gsrender_core.model.fold import fold_batch_norms
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.observation import PastMaps
from gsrender_core.model.parts import WholeNetwork
from gsrender_core.predictor import resolve_device

_BINS = DepthConfig(1.0, 45.0, 88, "uniform")
_RESNET50 = ModelConfig(  # of config/realtime_resnet50.yaml
    image_size=(704, 256),
    backbone=BackboneConfig("resnet50", pretrained=False, frozen=False, strides=(16, 32)),
    depth=_BINS,
    view=ViewConfig(stride=16, neck="joined", neck_channels=256, channels=64),
    encoder=EncoderConfig(channels=128, features=32),
)
_SWIN = ModelConfig(  # of config/paper_swin_base.yaml
    image_size=(1408, 512),
    backbone=BackboneConfig("swin_base", pretrained=False, frozen=False, strides=(4, 16, 32)),
    depth=_BINS,
    view=ViewConfig(
        stride=16, neck="joined", neck_channels=512, depth_net="bevdepth", stereo=True, history=True, downsample=1
    ),
    encoder=EncoderConfig("bevstereo3d", channels=32, features=32),
)
NETWORKS = {
    "ResNet-50 256x704": _RESNET50,
    "ResNet-50 256x704, cells": dataclasses.replace(
        _RESNET50,
        encoder=EncoderConfig(channels=128, features=32, widen="subpixel", cell_features=256),
        head=dataclasses.replace(_RESNET50.head, hidden=0),
    ),
    "Swin-B 512x1408, one frame": dataclasses.replace(
        _SWIN, view=dataclasses.replace(_SWIN.view, stereo=False, history=False)
    ),
    "Swin-B 512x1408, the paper's": _SWIN,
}


def bench_networks(quick: bool = False, device: str = "auto") -> dict:
    """Milliseconds a prediction: eager torch under autocast, one CUDA graph, and what its parts bring.

    ``graph``: of fused kernels (``GpuNetwork``). ``plain graph``: of torch's own under autocast. The faster predicts.
    ``compiled graph``: those behind ``torch.compile``. ``graph, kernel``: the dearest of one replay, by name.

    A network that looks at earlier frames has no graph; its earlier maps are kept from their own turn, as the
    predictor does. ``floor_ms``: its multiplications and additions at the speed of a large bfloat16 product here;
    ``mbyte``: what they read and write.

    Raises:
        RuntimeError: no CUDA device; on a CPU these networks take seconds.
    """
    chosen = resolve_device(device)
    if chosen.type != "cuda":
        raise RuntimeError("no CUDA device; on a CPU these networks take seconds a prediction")
    with torch.cuda.device(chosen):  # streams and events are those of the current one
        speed = _product_tflop_s(chosen)
        rows = [row for name, config in NETWORKS.items() for row in _rows(name, config, chosen, speed, quick)]
        return {"device": torch.cuda.get_device_name(), "tflop_s": speed, "rows": rows}


def _rows(name: str, config: ModelConfig, device: torch.device, speed: float, quick: bool) -> list[dict]:
    """Of one network: a row of every way, and of its graph's dearest kernels."""
    torch.manual_seed(0)
    model = fold_batch_norms(GSRender(config, load_pretrained=False)).to(device).eval()
    counted, rows, kernels = {"gflop": None, "floor_ms": None, "mbyte": None}, [], []
    for way, run in _ways(model, device, quick).items():
        try:
            call = run()
            if way == "eager":
                with CountedCosts() as costs:
                    call()
                gflop, mbyte = costs.cost.gflop, costs.cost.mbyte
                counted = {"gflop": gflop, "floor_ms": gflop / speed, "mbyte": mbyte}
            row = _timed(call, 10 if quick else 50) | counted
        except Exception as error:  # a compiler, a kernel: the other rows stand
            row = {"ms": None, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
        if way == "graph" and row["ms"] is not None:
            kernels = _dearest_kernels(call)
        rows.append({"case": f"{name}, {way}", **row})
    torch.cuda.empty_cache()
    return rows + [{"case": f"{name}, graph, kernel", **kernel} for kernel in kernels]


def _ways(model: GSRender, device: torch.device, quick: bool) -> dict:
    if model.config.view.frames_before:
        return {"eager": lambda: _with_history(model, device)}
    network = WholeNetwork(model).to(device).eval()
    inputs = network_inputs(surround_frame(model.config.image_size), 0.5, device)

    @torch.inference_mode()
    @torch.autocast("cuda", torch.bfloat16)
    def eager():
        network(*inputs)

    ways = {
        "eager": lambda: eager,
        "graph": lambda: Captured(GpuNetwork(model, torch.bfloat16).to(device), inputs, autocast=False).graph.replay,
        "plain graph": lambda: Captured(network, inputs, autocast=True).graph.replay,
    }
    if not quick:
        ways["compiled graph"] = lambda: Captured(torch.compile(network), inputs, autocast=True).graph.replay
    return ways


def _with_history(model: GSRender, device: torch.device):
    frame = surround_frame(model.config.image_size)
    cameras = CameraInput.from_frames([frame], device)
    step = torch.eye(4, device=device)[None]

    @torch.inference_mode()
    @torch.autocast("cuda", torch.bfloat16)
    def predict():
        maps = model.image_features(cameras.images)
        past = [PastMaps(maps, cameras.Ks, cameras.T_ego_cam, step)] * model.config.view.frames_before
        lifted, _ = model.lift(maps, cameras.Ks, cameras.T_ego_cam, model.recall(past))
        P = model.encoder(lifted).float()
        model.occupancy(P[0])

    return predict


def _timed(call, repetitions: int) -> dict:
    """Device time between events around each call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    times, start = [], time.perf_counter()
    for _ in range(repetitions):
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        call()
        events[1].record()
        events[1].synchronize()
        times.append(events[0].elapsed_time(events[1]))
    return {
        "ms": median(times),
        "least_ms": min(times),
        "wall_ms": 1e3 * (time.perf_counter() - start) / repetitions,
        "memory_mb": torch.cuda.max_memory_allocated() / 2**20,
    }


def _dearest_kernels(call, shown: int = 15) -> list[dict]:
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
    except RuntimeError as error:  # the driver may keep its counters to administrators
        return [{"kernel": f"not told: {error}"}]
    events = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    return [{"kernel": e.key[:90], "calls": e.count, "ms": e.self_device_time_total / 1e3} for e in events[:shown]]


def _product_tflop_s(device: torch.device, size: int = 8192) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / (_timed(lambda: a @ b, 10)["least_ms"] * 1e9)
