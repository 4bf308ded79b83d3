"""Prediction on a CPU by OpenVINO: one graph a camera image, one for the volume, our own kernel for the lift between.

Camera by camera, because an image's maps then stay in the processor's cache. Poses and intrinsics are inputs of every
call; nothing of a calibration is kept.
"""

import warnings

import numpy as np
import openvino
import torch

from gsrender_core.data.frame import Frame
from gsrender_core.engine.agreement import CAMERAS
from gsrender_core.engine.graph_cache import cached_graphs, graph_key
from gsrender_core.engine.labelling import CellLabels, RowLabels
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.lift_numba import splat_rows, voxels_of_rays
from gsrender_core.model.parts import CellPart, ImagePart, after_the_lift
from gsrender_core.model.view_transformer import ego_from_pixel

_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoEngine:
    """See ``engine.Engine``.

    Args:
        model: folded, on the CPU, in evaluation mode; ``parts.why_not`` finds nothing.
        precision: float32, or bfloat16 where the processor multiplies it.

    Raises:
        RuntimeError: OpenVINO cannot take the graph or run it here.
    """

    name = "openvino"

    def __init__(self, model: GSRender, precision: torch.dtype):
        self._model, self._view = model, model.view
        width, height = model.config.image_size
        self._cells = (-(-height // self._view.stride), -(-width // self._view.stride))
        volume_part = after_the_lift(model)
        self._labels = (CellLabels if isinstance(volume_part, CellPart) else RowLabels)(model, volume_part)
        X, Y, Z = self._view.shape
        self._volume = np.empty((X * Y * Z, model.config.view.channels), np.float32)
        examples = {
            "image": (torch.zeros(1, 3, height, width, dtype=torch.uint8), torch.eye(3)[None], torch.eye(4)[None]),
            "volume": (torch.zeros(X, Y, Z, model.config.view.channels),),
        }
        parts = {"image": ImagePart(model).eval(), "volume": volume_part}
        threads = torch.get_num_threads()
        core = openvino.Core()
        graphs = cached_graphs(
            graph_key(model, f"openvino {openvino.__version__}"),
            core.read_model,
            lambda: {name: _graph(parts[name], examples[name]) for name in parts},
        )
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # the node's other threads share these cores
        }
        streams = min(threads, CAMERAS)
        image = core.compile_model(graphs["image"], "CPU", settings | {"NUM_STREAMS": streams})
        self._image_inputs = len(image.inputs)
        self._queue = openvino.AsyncInferQueue(image, streams)
        self._queue.set_callback(self._keep)
        volume = core.compile_model(graphs["volume"], "CPU", settings | {"NUM_STREAMS": 1})
        self._volume_request = volume.create_infer_request()
        self._weights = self._rows = None

    def _keep(self, request, camera: int) -> None:
        """Called by OpenVINO's threads, once a camera: every one writes its own part."""
        self._weights[camera] = request.get_output_tensor(0).data[0]
        self._rows[camera] = request.get_output_tensor(1).data[0]

    @torch.inference_mode()
    def __call__(self, frame: Frame, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 and confidence float32, both [X, Y, Z]."""
        Ks = np.ascontiguousarray(frame.Ks, np.float32)
        T_ego_cam = np.ascontiguousarray(frame.T_ego_cam, np.float32)
        self.see(frame.images, Ks, T_ego_cam)
        self.lift(Ks, T_ego_cam)
        return self.label(*self.encode(), tau)

    def see(self, images: np.ndarray, Ks: np.ndarray, T_ego_cam: np.ndarray) -> None:
        """First stage: depth probabilities and features of every camera, kept here."""
        cameras, (h, w), config = len(images), self._cells, self._model.config
        if self._weights is None or len(self._weights) != cameras:
            self._weights = np.empty((cameras, config.depth.bins, h * w), np.float32)
            self._rows = np.empty((cameras, h * w, config.view.channels), np.float32)
        for c in range(cameras):
            inputs = [images[c : c + 1], Ks[c : c + 1], T_ego_cam[c : c + 1]][: self._image_inputs]
            self._queue.start_async(inputs, userdata=c, share_inputs=True)
        self._queue.wait_all()

    def lift(self, Ks: np.ndarray, T_ego_cam: np.ndarray) -> None:
        """Second stage: what was seen, summed into the volume."""
        pose, view = torch.from_numpy(T_ego_cam), self._view
        rays = ego_from_pixel(torch.from_numpy(Ks), pose), pose[:, :3, 3], view.bin_centers_m
        voxel = voxels_of_rays(*rays, self._cells, view.stride, (view.low, view.size, view.shape))
        splat_rows(voxel, self._rows, self._weights, self._volume)

    def encode(self) -> tuple[np.ndarray, np.ndarray]:
        """Third stage: what the volume's part leaves; valid until the next."""
        volume = self._volume.reshape(*self._view.shape, -1)
        self._volume_request.infer([volume], share_inputs=True, share_outputs=True)
        opacity, rows = (self._volume_request.get_output_tensor(i).data for i in (0, 1))
        return opacity, rows

    @torch.inference_mode()
    def label(self, opacity: np.ndarray, rows: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Last stage: labels uint8 and confidence float32, both [X, Y, Z]."""
        return self._labels(opacity, rows, tau)


def _graph(part: torch.nn.Module, examples: tuple[torch.Tensor, ...]) -> openvino.Model:
    """A part as OpenVINO's graph of fixed shapes.

    By the front end, not by ``openvino.convert_model``: that one reports its use over the network.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # Tracing is deprecated, but what OpenVINO reads; sizes are fixed, so constants made of them are right.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(part, examples, check_trace=False).eval())
    decoder = TorchScriptPythonDecoder(traced, example_input=examples)
    front_end = FrontEndManager().load_by_framework("pytorch")
    graph = front_end.convert(front_end.load(decoder))
    for parameter, example in zip(graph.inputs, examples, strict=False):
        node = parameter.get_node()
        node.set_element_type(openvino.Type(example.numpy().dtype))
        node.set_partial_shape(openvino.PartialShape(list(example.shape)))
    graph.validate_nodes_and_infer_types()
    return graph
