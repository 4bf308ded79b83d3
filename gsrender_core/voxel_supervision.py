"""3D supervision (the 2D + 3D rows of Table 1): Occ3D's voxel labels, where a camera observed the voxel."""

import logging

import numpy as np
import torch
from torch import nn

from gsrender_core.classes import CLASSES, balance_weights
from gsrender_core.config import TrainConfig
from gsrender_core.data.occ3d_labels import on_grid
from gsrender_core.losses import voxel_loss

logger = logging.getLogger(__name__)

FREE_VOXEL_COUNT = 2307405309  # free voxels of the Occ3D-nuScenes training split, as published with RenderOcc


class VoxelSupervision:
    """Voxel cross-entropy against the ground truth of a data set.

    Args:
        config: ``voxels`` and the grid, which must be aligned with the ground truth's.
        head: gives opacity and logits of rows of features.
        dataset: ``ground_truth(i)`` returns ``Occ3DLabels`` or None.
        device: of the voxel features.
    """

    def __init__(self, config: TrainConfig, head: nn.Module, dataset, device: torch.device):
        self.config, self.head, self.dataset = config, head, dataset
        counts = np.array([*(c.voxel_count for c in CLASSES), FREE_VOXEL_COUNT])
        self.beta = torch.from_numpy(balance_weights(counts)).to(device)
        self._named = False

    def __call__(self, i: int, P: torch.Tensor, flipped: list[int]) -> torch.Tensor | None:
        """Loss of frame i, or None where it has no ground truth (named once in the log).

        Args:
            i: the frame.
            P: [F, X, Y, Z], voxel features.
            flipped: axes (0 for x, 1 for y) along which P is mirrored against the ground truth.

        Raises:
            ValueError: the grids are not aligned.
        """
        labels = self.dataset.ground_truth(i)
        if labels is None:
            if not self._named:
                logger.warning("frame %d has no ground truth: the voxel loss is left out of such frames", i)
                self._named = True
            return None
        labels = on_grid(labels, self.config.model.grid)
        semantics, observed = (np.flip(a, tuple(flipped)).reshape(-1) for a in (labels.semantics, labels.mask_camera))
        voxel = torch.from_numpy(np.flatnonzero(observed))
        if 0 < self.config.voxels < len(voxel):
            voxel = voxel[torch.randperm(len(voxel))[: self.config.voxels]]
        target = torch.from_numpy(semantics)[voxel].long().to(P.device)
        rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
        opacity_logit, logits = self.head.opacity_and_logits(rows.index_select(0, voxel.to(P.device)))
        return voxel_loss(opacity_logit, logits, target, self.beta)
