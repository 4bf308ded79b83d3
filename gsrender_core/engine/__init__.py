"""Runtimes of a prediction. Eager torch is the reference; every other one is compared with it when it is made.

    auto        openvino on a CPU, cuda_graph on CUDA, eager where the network or the machine does not allow it
    eager       torch, module by module
    openvino    compiled graphs on the CPU; kept in the user's cache folder
    cuda_graph  one CUDA graph for a whole prediction

What cannot serve is named in a warning, and eager torch goes on in its place: slower, never other numbers.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch

from gsrender_core.config import RUNTIMES
from gsrender_core.data.frame import Frame
from gsrender_core.engine.agreement import check_agreement
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.parts import why_not

logger = logging.getLogger(__name__)

# A frame and tau to labels uint8 and confidence float32, both [X, Y, Z].
Engine = Callable[[Frame, float], tuple[np.ndarray, np.ndarray]]


def check_runtime(runtime: str) -> None:
    """Raise ValueError for a name that no runtime has."""
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}; use {', '.join(RUNTIMES)}")


def make_engine(
    model: GSRender, device: torch.device, precision: torch.dtype, runtime: str, reference: Engine
) -> tuple[Engine | None, str]:
    """The engine of a folded network in evaluation mode; None where ``reference`` serves, and why (may be empty).

    Args:
        model: on ``device``, batch norms folded.
        device, precision: of the arithmetic up to the voxel features.
        runtime: one of ``RUNTIMES``.
        reference: the same prediction by eager torch.

    Raises:
        ValueError: an unknown name.
    """
    check_runtime(runtime)
    wanted = {"cpu": "openvino", "cuda": "cuda_graph"}[device.type] if runtime == "auto" else runtime
    if wanted == "eager":
        return None, ""
    try:
        if (reason := why_not(model.config)) is not None:
            raise ValueError(f"this network has no graph: {reason}")
        engine = _build(model, device, precision, wanted)
        check_agreement(engine, reference, model.config, precision)
    except Exception as error:  # a driver, an instruction set, a file: whatever it is, eager torch is there
        text = str(error).strip().splitlines()
        reason = f"runtime {wanted} is not used ({type(error).__name__}: {text[0] if text else 'no message'})"
        logger.warning("%s; eager torch goes on, slower and with the same results", reason)
        return None, reason
    return engine, ""


def _build(model: GSRender, device: torch.device, precision: torch.dtype, runtime: str) -> Engine:
    if {"openvino": "cpu", "cuda_graph": "cuda"}[runtime] != device.type:
        raise RuntimeError(f"it does not run on {device}")
    if runtime == "openvino":
        from gsrender_core.engine.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(model, precision)
    from gsrender_core.engine.cuda_graph_engine import CudaGraphEngine

    return CudaGraphEngine(model, device, precision)
