"""``gsrender export``: the whole network as one ONNX file, for TensorRT and other runtimes.

Inputs: images uint8 [C, 3, H, W]; Ks float32 [C, 3, 3], px of these images; T_ego_cam float32 [C, 4, 4], m;
ego_from_pixel float32 [C, 3, 3] = R_ego_cam K^-1; tau float32 [], the opacity threshold of Eq. 7.
Outputs: semantics uint8 [X, Y, Z] and confidence float32 [X, Y, Z]. A rig's geometry is an input of every call.
"""

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import torch

from gsrender_core.classes import CLASS_NAMES
from gsrender_core.config import to_dict
from gsrender_core.engine.agreement import check_agreement, surround_frame
from gsrender_core.model.parts import WholeNetwork, why_not
from gsrender_core.model.view_transformer import ego_from_pixel
from gsrender_core.predictor import Predictor

OPSET = 18  # sums in ScatterElements, with which the lift ends
INPUTS = ("images", "Ks", "T_ego_cam", "ego_from_pixel", "tau")
OUTPUTS = {"semantics": "uint8", "confidence": "float32"}


def export_onnx(checkpoint: Path, out: Path, cameras: int = 6) -> dict:
    """Write ``network.onnx`` and ``network.json`` into ``out``, and compare the file with eager torch.

    Args:
        checkpoint: of a network that ``parts.why_not`` finds nothing against.
        out: folder; made where it does not exist.
        cameras: how many the exported network takes.

    Returns:
        what network.json holds: inputs, outputs, classes, grid, tau, ``checked`` (see ``engine.agreement``).

    Raises:
        FileNotFoundError, ValueError: no usable checkpoint, or its network has no graph of fixed shapes.
        ModuleNotFoundError: the package ``onnx`` is not installed.
        AgreementError: the file says something else than the network.
    """
    import onnx

    predictor = Predictor.load(checkpoint, "cpu", "float32")
    config = predictor.model.config
    if (reason := why_not(config)) is not None:
        raise ValueError(f"{checkpoint} cannot be exported: {reason}")
    inputs = _inputs(surround_frame(config.image_size, cameras), predictor.tau)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "network.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are fixed: what tracing makes a constant is one
        torch.onnx.export(
            WholeNetwork(predictor.model).eval(),
            inputs,
            path,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=False,
        )
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    used = {entry.name for entry in graph.graph.input}
    checked = check_agreement(_run(path, used), predictor._by_torch, config, torch.float32, cameras)
    about = {
        "checkpoint": Path(checkpoint).name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "opset": OPSET,
        "inputs": {n: _shape(v) for n, v in zip(INPUTS, inputs, strict=True) if n in used},
        "outputs": {name: f"{kind} {list(config.grid.shape)}" for name, kind in OUTPUTS.items()},
        "classes": [*CLASS_NAMES, "free"],
        "grid": to_dict(config.grid),
        "tau": config.tau,
        "checked": checked,
    }
    (out / "network.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


def _inputs(frame, tau: float) -> tuple[torch.Tensor, ...]:
    Ks, T_ego_cam = (torch.from_numpy(np.asarray(a)).float() for a in (frame.Ks, frame.T_ego_cam))
    images = torch.from_numpy(frame.images)
    return images, Ks, T_ego_cam, ego_from_pixel(Ks, T_ego_cam), torch.tensor(tau, dtype=torch.float32)


def _shape(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _run(path: Path, used: set[str]):
    """The file as an engine, by OpenVINO's own ONNX reader: nothing of how it was written takes part."""
    import openvino

    request = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()

    def engine(frame, tau):
        values = {n: v.numpy() for n, v in zip(INPUTS, _inputs(frame, tau), strict=True) if n in used}
        results = request.infer(values)
        return tuple(np.array(results[name]) for name in OUTPUTS)

    return engine
