"""``Predictor``: a ``Frame`` in, an ``OccupancyGrid`` out."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from gsrender_core.checkpoint import load_checkpoint
from gsrender_core.data.frame import Frame
from gsrender_core.engine import check_runtime, make_engine
from gsrender_core.engine.agreement import CAMERAS, surround_frame
from gsrender_core.model.fold import fold_batch_norms
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.model.observation import PastMaps
from gsrender_core.runtime import keep_freed_memory, multiplies_bfloat16
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid

logger = logging.getLogger(__name__)


def resolve_device(device: str) -> torch.device:
    """``auto`` means CUDA where there is one, else the CPU.

    Raises:
        ValueError: CUDA or a GPU of that number is asked for and not there, or the name is unknown.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if resolved.type not in ("cpu", "cuda") or (resolved.type == "cpu" and resolved.index not in (None, 0)):
        raise ValueError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} asked for, but torch {torch.__version__} sees no CUDA GPU; use cpu or auto"
        )
    if resolved.type == "cuda" and (resolved.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device {device!r} asked for, but there are {count} CUDA GPUs: cuda:0 .. cuda:{count - 1}")
    return resolved


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 where the device multiplies it in hardware (GPUs since Ampere, CPUs with AMX), else float32.

    Raises:
        ValueError: unknown name.
    """
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if precision == "auto":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    if precision not in names:
        raise ValueError(f"unknown precision {precision!r}; use auto, float32 or bfloat16")
    return names[precision]


class Predictor:
    """A trained network ready for use.

    Attributes:
        image_size: (width, height) that frames must have; ``data.image_fit`` brings images there.
        grid: the volume that is predicted, in the ego frame of the frame's stamp.
        tau: opacity threshold of Eq. 7, from the checkpoint.
        precision: of the network's arithmetic up to the voxel features; the head is float32 (but for its opacities in
            the runtime openvino, whose graph has one precision, and for factors of 11 bits in bfloat16's cuda_graph).
        info: what the trainer recorded.
        fallback: why eager torch serves in place of the runtime that was asked for; empty where it does not. An
            engine that fails later is given up as well.
    """

    def __init__(
        self,
        model: GSRender,
        info: dict | None = None,
        device: str = "auto",
        precision: str = "auto",
        runtime: str = "eager",
        cameras: int = CAMERAS,
    ):
        """``runtime`` as ``engine.RUNTIMES``; others than eager take seconds to make, at first for so many cameras."""
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = fold_batch_norms(model).to(self.device)
        self.info = info or {}
        self._kept: list[tuple[Frame, list[torch.Tensor]]] = []
        self._engine, self.fallback = make_engine(
            self.model, self.device, self.precision, runtime, self._by_torch, cameras
        )

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        device: str = "auto",
        precision: str = "auto",
        runtime: str = "eager",
        cameras: int = CAMERAS,
    ) -> "Predictor":
        """Read a checkpoint.

        Raises:
            FileNotFoundError, ValueError: as ``load_checkpoint``, ``resolve_device``, ``resolve_precision`` and
                ``engine.check_runtime``.
        """
        check_runtime(runtime)
        loaded = load_checkpoint(checkpoint)
        return cls(loaded.model, loaded.info, device, precision, runtime, cameras)

    @property
    def runtime(self) -> str:
        """What predicts: the name of an engine, or ``eager``."""
        return self._engine.name if self._uses_engine() else "eager"

    def _uses_engine(self) -> bool:
        # The read-out may be another one than when the engine was made.
        return self._engine is not None and self.model.config.readout == "voxel"

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.config.image_size

    @property
    def grid(self) -> VoxelGrid:
        return self.model.config.grid

    @property
    def tau(self) -> float:
        return self.model.config.tau

    @property
    def frames_before(self) -> int:
        """How many previous frames the network looks at (``view.history``, ``view.stereo``); 0 for most."""
        return self.model.config.view.frames_before

    @torch.inference_mode()
    def features(self, frame: Frame, previous: Sequence[Frame] = ()) -> torch.Tensor:
        """Voxel features P [F, X, Y, Z] of a frame.

        Args:
            frame: the current one.
            previous: the frames before it, newest first; what lies beyond ``frames_before`` is not looked at. None
                given is what the network learnt at the start of a scene: it then does without.

        Raises:
            ValueError: images not of the network's size, or previous frames of other cameras.
        """
        previous = tuple(previous)[: self.frames_before]
        for each in (frame, *previous):
            self._check_size(each)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            cameras = CameraInput.from_frames([frame], self.device, [previous])
            if self.frames_before == 0:
                return self.model(cameras)[0].float()
            self._kept = [kept for kept in self._kept if any(kept[0] is each for each in (frame, *previous))]
            maps = self._maps(frame, cameras.images)
            past = [
                PastMaps(self._maps(each, before.images), before.Ks, before.T_ego_cam, T_next_this)
                for each, (T_next_this, before) in zip(previous, cameras.chain(), strict=True)
            ]
            lifted, _ = self.model.lift(maps, cameras.Ks, cameras.T_ego_cam, self.model.recall(past))
            return self.model.encoder(lifted)[0].float()

    def _check_size(self, frame: Frame) -> None:
        if frame.image_size != self.image_size:
            raise ValueError(
                f"frame {frame.token or frame.stamp_ns} has {frame.image_size[0]}x{frame.image_size[1]} images, "
                f"the network takes {self.image_size[0]}x{self.image_size[1]}; read it with that image_size"
            )

    def _maps(self, frame: Frame, images: torch.Tensor) -> list[torch.Tensor]:
        """Backbone maps, the network's most expensive part: once a frame, also where it is the previous one later."""
        for kept, maps in self._kept:
            if kept is frame:
                return maps
        maps = self.model.image_features(images)
        self._kept.append((frame, maps))
        return maps

    def warm_up(self, cameras: int) -> None:
        """Predict once from made-up images of so many cameras: the first frame then finds kernels and memory ready."""
        frame = surround_frame(self.image_size, cameras)
        self(frame, previous=[frame] * self.frames_before)

    @torch.inference_mode()
    def __call__(self, frame: Frame, tau: float | None = None, previous: Sequence[Frame] = ()) -> OccupancyGrid:
        """Predict the occupancy of a frame; any number of cameras; ``previous`` as ``features``."""
        tau = self.tau if tau is None else tau
        if self._uses_engine():
            self._check_size(frame)
            try:
                labels, confidence = self._engine(frame, tau)
            except torch.cuda.OutOfMemoryError:  # eager torch needs more
                raise
            except RuntimeError as error:  # as one that cannot be made for another number of cameras
                self.fallback = f"runtime {self.runtime} failed ({str(error).strip() or type(error).__name__})"
                logger.error("%s; eager torch goes on, slower and with the same results", self.fallback)
                self._engine = None
        if not self._uses_engine():
            labels, confidence = self._by_torch(frame, tau, previous)
        return OccupancyGrid(labels, confidence, self.grid, frame.stamp_ns)

    @torch.inference_mode()
    def _by_torch(self, frame: Frame, tau: float, previous: Sequence[Frame] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence by eager torch: what every engine is compared with."""
        labels, confidence = self.model.occupancy(self.features(frame, previous), tau)
        return labels.cpu().numpy(), confidence.cpu().numpy().astype(np.float32)
