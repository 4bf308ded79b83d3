"""Prediction on a GPU as one CUDA graph: images in, labels out, no launch of a kernel from Python in between.

Intrinsics and poses are inputs that are copied in before every replay, so a calibration may change at any time. A graph
has one number of cameras; another number captures another graph.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from gsrender_core.data.frame import Frame
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.parts import WholeNetwork
from gsrender_core.model.view_transformer import ego_from_pixel

WARM_UP_RUNS = 3  # libraries choose their kernels and workspaces before the capture


def network_inputs(frame: Frame, tau: float, device: torch.device) -> list[torch.Tensor]:
    """What ``WholeNetwork`` and ``GpuNetwork`` take of a frame, on a device."""
    return [torch.from_numpy(frame.images).to(device), *(t.to(device) for t in _geometry(frame, tau))]


def _geometry(frame: Frame, tau: float) -> tuple[torch.Tensor, ...]:
    Ks, T_ego_cam = (torch.from_numpy(np.asarray(a)).float() for a in (frame.Ks, frame.T_ego_cam))
    return Ks, T_ego_cam, ego_from_pixel(Ks, T_ego_cam), torch.tensor(tau, dtype=torch.float32)


class Captured:
    """One graph with the memory that it reads and writes.

    Args:
        network: takes ``inputs``; its shapes do not depend on values.
        inputs: on the GPU; what lies there when the graph is replayed is predicted from.
        autocast: whether products are brought to bfloat16 in the call.
    """

    @torch.inference_mode()
    def __init__(self, network: Callable, inputs: list[torch.Tensor], autocast: bool):
        self.inputs, self.graph = inputs, torch.cuda.CUDAGraph()
        # Without the cache of autocast: its casts of weights would belong to one capture.
        cast = torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False)
        # A stream of the inputs' device: torch's own for captures is that of the first device that ever captured.
        with torch.cuda.device(inputs[0].device), cast:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    network(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may go on using the GPU meanwhile.
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.outputs = network(*inputs)


def _fused(model: GSRender, precision: torch.dtype) -> nn.Module:
    from gsrender_core.engine.gpu_network import GpuNetwork  # the other graph can do without what it imports

    return GpuNetwork(model, precision)


class CudaGraphEngine:
    """See ``engine.Engine``.

    Args:
        model: folded, on the GPU, in evaluation mode; ``parts.why_not`` finds nothing.
        device: of the model.
        precision: float32 or bfloat16.
        plain: torch's own kernels, in bfloat16 under autocast, instead of ``GpuNetwork``.
    """

    name = "cuda_graph"

    def __init__(self, model: GSRender, device: torch.device, precision: torch.dtype, plain: bool = False):
        network: nn.Module = WholeNetwork(model) if plain else _fused(model, precision)
        self._network, self._device = network.to(device).eval(), device
        self._autocast = plain and precision == torch.bfloat16
        self._captured: dict[int, Captured] = {}
        self._staging: dict[int, torch.Tensor] = {}

    @torch.inference_mode()
    def __call__(self, frame: Frame, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 and confidence float32, both [X, Y, Z]."""
        with torch.cuda.device(self._device):
            geometry = _geometry(frame, tau)
            captured = self._for_cameras(len(frame.images), frame.images.shape, geometry)
            staging = self._staging[len(frame.images)]
            staging.copy_(torch.from_numpy(frame.images))
            for target, source in zip(captured.inputs, (staging, *geometry), strict=True):
                target.copy_(source, non_blocking=True)
            captured.graph.replay()
            labels, confidence = (output.cpu().numpy() for output in captured.outputs)
        return labels, confidence

    def _for_cameras(self, cameras: int, shape, geometry) -> Captured:
        if cameras not in self._captured:
            self._staging[cameras] = torch.zeros(shape, dtype=torch.uint8).pin_memory()
            inputs = [tensor.to(self._device) for tensor in (self._staging[cameras], *geometry)]
            self._captured[cameras] = Captured(self._network, inputs, self._autocast)
        return self._captured[cameras]
