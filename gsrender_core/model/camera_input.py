"""``CameraInput``: the batch of frames that the network sees, and the frames before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gsrender_core.data.frame import Frame
from gsrender_core.geometry import inverse


@dataclass
class CameraInput:
    """What the network sees: B frames of C cameras.

    ``images`` uint8 [B, C, 3, H, W], ``Ks`` float32 [B, C, 3, 3] px, ``T_ego_cam`` float32 [B, C, 4, 4] m;
    ``previous``: the frames one step earlier with ``T_curr_prev`` float32 [B, 4, 4] m, both None where
    there are none. ``previous`` may have a previous itself (the stereo depth of the previous frame).
    """

    images: torch.Tensor
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor
    previous: CameraInput | None = None
    T_curr_prev: torch.Tensor | None = None

    def __post_init__(self):
        if (self.previous is None) != (self.T_curr_prev is None):
            raise ValueError("previous frames need T_curr_prev, and T_curr_prev needs previous frames; give both")

    @classmethod
    def from_frames(
        cls, frames: Sequence[Frame], device="cpu", previous: Sequence[Sequence[Frame]] | None = None
    ) -> CameraInput:
        """Stack frames of equal camera count and image size.

        Args:
            frames: B frames.
            device: where the tensors go.
            previous: for every frame the frames before it, newest first (as ``data.frame.previous_frames``);
                empty for a frame that has none.

        Raises:
            ValueError: frames with and without previous frames in one batch, or previous frames of other cameras.
        """
        tensors = (
            torch.from_numpy(np.stack([f.images for f in frames])).to(device),
            torch.from_numpy(np.stack([f.Ks for f in frames])).float().to(device),
            torch.from_numpy(np.stack([f.T_ego_cam for f in frames])).float().to(device),
        )
        lengths = {len(p) for p in previous} if previous is not None else {0}
        if len(lengths) != 1 or (previous is not None and len(previous) != len(frames)):
            raise ValueError(
                f"a batch of {len(frames)} frames has {[len(p) for p in previous]} previous frames; run frames "
                "with different numbers of previous frames in batches of their own"
            )
        if lengths == {0}:
            return cls(*tensors)
        for frame, (newest, *_) in zip(frames, previous, strict=True):
            if frame.camera_names != newest.camera_names:
                raise ValueError(
                    f"frame {frame.token or frame.stamp_ns} has cameras {frame.camera_names}, the one before it "
                    f"{newest.camera_names}; give frames of the same cameras in the same order"
                )
        before = cls.from_frames([p[0] for p in previous], device, [p[1:] for p in previous])
        # In double precision: global coordinates are kilometres, and float32 would lose centimetres.
        T = [inverse(f.T_global_ego) @ p[0].T_global_ego for f, p in zip(frames, previous, strict=True)]
        return cls(*tensors, before, torch.from_numpy(np.stack(T)).float().to(device))

    def chain(self) -> list[tuple[torch.Tensor, CameraInput]]:
        """The frames before, newest first, each with the transform to the ego of the frame that follows it."""
        result, frame = [], self
        while frame.previous is not None:
            result.append((frame.T_curr_prev, frame.previous))
            frame = frame.previous
        return result
