"""What a training step needs of a frame, kept in memory: labels, poses and the frozen backbone's features."""

from dataclasses import dataclass

import numpy as np
import torch

from gsrender_core.data.frame import Frame
from gsrender_core.model.gsrender import GSRender


@dataclass
class FrameLabels:
    """Labels and geometry of one frame as tensors; shapes as in ``PixelLabels`` and ``Frame``.

    ``draw`` float32 [M] is the relative probability with which a label is sampled.
    """

    camera: torch.Tensor
    uv: torch.Tensor
    depth_m: torch.Tensor
    class_id: torch.Tensor
    draw: torch.Tensor
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor
    T_global_ego: np.ndarray

    def sample(self, count: int, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """Indices of at most ``count`` labels drawn with ``draw``, each at most once, among ``allowed`` (bool [M])."""
        index = torch.arange(len(self.camera), device=self.camera.device)
        if allowed is not None:
            index = index[allowed]
        if len(index) <= count:
            return index
        # Exponential races: the smallest values of Exp(1)/weight are a weighted sample without replacement.
        draw = self.draw[index]
        return index[torch.topk(torch.empty_like(draw).exponential_() / draw, count, largest=False).indices]

    def points_and_origins(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labelled points and their cameras' positions [M, 3] in this frame's ego, metres."""
        camera = self.camera[index]
        pixel = torch.cat((self.uv[index], torch.ones_like(self.uv[index, :1])), dim=1)
        rays = torch.einsum("nij,nj->ni", torch.linalg.inv(self.Ks)[camera], pixel)
        at_camera = rays * self.depth_m[index, None]
        T = self.T_ego_cam[camera]
        return torch.einsum("nij,nj->ni", T[:, :3, :3], at_camera) + T[:, :3, 3], T[:, :3, 3]


class TrainingFrames:
    """Frames of a data set by index; nothing is decoded or computed twice while memory lasts.

    ``dataset`` needs ``frame(i)`` and ``adjacent(i, k)``, as ``data.nuscenes.NuScenes``.
    """

    def __init__(self, dataset, model: GSRender, device: torch.device, rare_boost: float, cache_gb: float):
        self.dataset, self.model, self.device = dataset, model, device
        self.rare_boost, self.budget = rare_boost, int(cache_gb * 1e9)
        self._labels: dict[int, FrameLabels] = {}
        self._maps: dict[int, list[torch.Tensor]] = {}
        self._used = 0

    def labels(self, i: int) -> FrameLabels:
        """Labels of frame i."""
        if i not in self._labels:
            self._labels[i] = self._to_labels(self.dataset.frame(i))
        return self._labels[i]

    def maps(self, i: int) -> list[torch.Tensor]:
        """Backbone maps of frame i, [C, F_s, h_s, w_s] each; cached as bfloat16 if the backbone is frozen."""
        if i in self._maps:
            return [m.to(self.device).float() for m in self._maps[i]]
        frame = self.dataset.frame(i)
        if i not in self._labels:
            self._labels[i] = self._to_labels(frame)
        maps = self.model.image_features(torch.from_numpy(frame.images)[None].to(self.device))
        if not self.model.backbone.frozen:
            return maps
        maps = [m.to(torch.bfloat16) for m in maps]  # also what is not kept: a frame looks the same on every visit
        if self._used < self.budget:
            self._maps[i] = [m.cpu() for m in maps]
            self._used += sum(m.numel() * 2 for m in maps)
        return [m.float() for m in maps]

    def _to_labels(self, frame: Frame) -> FrameLabels:
        labels = frame.labels
        if labels is None or len(labels) == 0:
            raise ValueError(f"frame {frame.token} of {frame.scene} has no LiDAR labels to learn from")
        counts = np.bincount(labels.class_id, minlength=256).astype(np.float64)
        draw = np.maximum(counts, 1)[labels.class_id] ** -self.rare_boost

        def tensor(array, dtype):
            return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

        return FrameLabels(
            tensor(labels.camera, torch.int64),
            tensor(labels.uv, torch.float32),
            tensor(labels.depth_m, torch.float32),
            tensor(labels.class_id, torch.int64),
            tensor(draw, torch.float32),
            tensor(frame.Ks, torch.float32),
            tensor(frame.T_ego_cam, torch.float32),
            frame.T_global_ego,
        )
