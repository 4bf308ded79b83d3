"""Runtimes of a prediction. Eager torch is the reference; every other one is compared with it when it is made.

    auto        openvino on a CPU, cuda_graph on CUDA, eager where the network or the machine does not allow it
    eager       torch, module by module
    openvino    compiled graphs on the CPU; kept in the user's cache folder
    cuda_graph  one CUDA graph for a whole prediction: of fused kernels or of torch's own, whichever is faster there

What cannot serve is named in a warning, and eager torch goes on in its place: slower, never other numbers.
"""

import functools
import logging
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from gsrender_core.config import RUNTIMES, ModelConfig
from gsrender_core.data.frame import Frame
from gsrender_core.engine.agreement import CAMERAS, check_agreement, surround_frame
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.parts import why_not

logger = logging.getLogger(__name__)

TIMED_RUNS = 11

# A frame and tau to labels uint8 and confidence float32, both [X, Y, Z].
Engine = Callable[[Frame, float], tuple[np.ndarray, np.ndarray]]


def check_runtime(runtime: str) -> None:
    """Raise ValueError for a name that no runtime has."""
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; use {', '.join(RUNTIMES)}")


def make_engine(
    model: GSRender,
    device: torch.device,
    precision: torch.dtype,
    runtime: str,
    reference: Engine,
    cameras: int = CAMERAS,
) -> tuple[Engine | None, str]:
    """The engine of a folded network in evaluation mode; None where ``reference`` serves, and why (may be empty).

    Args:
        model: on ``device``, batch norms folded.
        device, precision: of the arithmetic up to the voxel features.
        runtime: one of ``RUNTIMES``.
        reference: the same prediction by eager torch.
        cameras: of the frame with which engines are compared and timed.

    Raises:
        ValueError: an unknown name.
    """
    check_runtime(runtime)
    wanted = {"cpu": "openvino", "cuda": "cuda_graph"}[device.type] if runtime == "auto" else runtime
    if wanted == "eager":
        return None, ""
    device_type, ways = _RUNTIMES[wanted]
    engines, reason = {}, ""
    if device.type != device_type:
        reason = f"runtime {wanted} is not used: it does not run on {device}"
    elif (unfit := why_not(model.config)) is not None:
        reason = f"runtime {wanted} is not used: this network has no graph: {unfit}"
    else:
        for way, build in ways.items():
            try:
                engine = build(model, device, precision)
                check_agreement(engine, reference, model.config, precision, cameras)
                engines[way] = engine
            except Exception as error:  # a driver, an instruction set, a file: whatever it is, eager torch is there
                text = str(error).strip().splitlines()
                reason = f"{way} is not used ({type(error).__name__}: {text[0] if text else 'no message'})"
                logger.warning("%s", reason)
    if engines:
        return _fastest(engines, model.config, cameras), ""
    logger.warning("%s; eager torch goes on, slower and with the same results", reason)
    return None, reason


def _fastest(engines: dict[str, Engine], config: ModelConfig, cameras: int) -> Engine:
    """Which of several engines of the same network is fastest here, by turns; of one, that one, untimed."""
    if len(engines) == 1:
        return next(iter(engines.values()))
    frame, runs = surround_frame(config.image_size, cameras), {way: [] for way in engines}
    for _ in range(TIMED_RUNS):
        for way, engine in engines.items():
            start = time.perf_counter()
            engine(frame, config.tau)
            runs[way].append(time.perf_counter() - start)
    seconds = {way: median(values) for way, values in runs.items()}
    best = min(seconds, key=seconds.get)
    listed = ", ".join(f"{way} {1e3 * value:.1f} ms" for way, value in seconds.items())
    logger.info("%s; the faster is used", listed)
    return engines[best]


def _openvino(model: GSRender, device: torch.device, precision: torch.dtype) -> Engine:
    from gsrender_core.engine.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(model, precision)


def _cuda_graph(model: GSRender, device: torch.device, precision: torch.dtype, plain: bool = False) -> Engine:
    from gsrender_core.engine.cuda_graph_engine import CudaGraphEngine

    return CudaGraphEngine(model, device, precision, plain)


# Of each runtime its device, and the ways to make it; of several the fastest serves.
_RUNTIMES = {
    "openvino": ("cpu", {"runtime openvino": _openvino}),
    "cuda_graph": (
        "cuda",
        {
            "runtime cuda_graph, torch's own kernels": functools.partial(_cuda_graph, plain=True),
            "runtime cuda_graph, fused kernels": _cuda_graph,
        },
    ),
}
