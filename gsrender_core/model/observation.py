"""``Observation``: what the 2D part of the network found in a frame; also all that the next frame needs of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch


@dataclass
class Observation:
    """Image-plane results of B frames of C cameras.

    Attributes:
        context: features to lift [B, C, F, h, w]; None where only the stereo match is wanted.
        depth_logits: float32 [B, C, D, h, w] (or None); their softmax places the features along their rays.
        matching: finest backbone map [B * C, F4, h4, w4] for the stereo depth of the next frame; None without stereo.
        Ks: intrinsics float32 [B, C, 3, 3], px of the network's images.
        T_ego_cam: float32 [B, C, 4, 4], m; which ego frame is the caller's business, see ``seen_from``.
    """

    context: torch.Tensor | None
    depth_logits: torch.Tensor | None
    matching: torch.Tensor | None
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor

    def seen_from(self, T_curr_prev: torch.Tensor) -> Observation:
        """The same with camera poses in the ego frame of another moment; ``T_curr_prev`` float32 [B, 4, 4], m."""
        with torch.autocast(T_curr_prev.device.type, enabled=False):  # bfloat16 poses are off by metres
            return dataclasses.replace(self, T_ego_cam=T_curr_prev[:, None] @ self.T_ego_cam)


@dataclass
class PastMaps:
    """Backbone maps of earlier frames, as ``GSRender.image_features`` gives them, and where their cameras stood.

    ``Ks`` [B, C, 3, 3] px, ``T_ego_cam`` [B, C, 4, 4] m in their own ego, ``T_next_this`` [B, 4, 4] m to the ego of
    the frame that follows.
    """

    maps: list[torch.Tensor]
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor
    T_next_this: torch.Tensor
