"""Validation without 3D labels: predicted grids against what the LiDARs of held-out frames measured."""

import logging
import math
from collections.abc import Sequence

import torch

from gsrender_core.classes import FREE
from gsrender_core.metrics.lidar_rays import LidarRayAgreement
from gsrender_core.model.gsrender import GSRender
from gsrender_core.statistics import voxel_features

logger = logging.getLogger(__name__)


@torch.inference_mode()
def sweep_tau_on_returns(model: GSRender, dataset, indices: Sequence[int], taus: Sequence[float]) -> dict[float, dict]:
    """``LidarRayAgreement.result`` at every opacity threshold, from one forward pass a frame.

    Args:
        model: in eval mode.
        dataset: with ``lidar_returns(i)``: origins [N, 3] and points [N, 3], m, ego frame, and classes or None.
        indices: frames; one that cannot be read is named and left out.
        taus: opacity thresholds.

    Returns:
        Empty where no frame has a return in the grid.
    """
    agreements = {tau: LidarRayAgreement(model.config.grid) for tau in taus}
    for i in indices:
        try:
            origins, points, classes = dataset.lidar_returns(i)
            evidence = model.evidence(voxel_features(model, dataset, i), model.config.readout, min(taus))
        except (ValueError, OSError) as error:
            logger.warning("frame %d is left out of the validation on LiDAR returns: %s", i, error)
            continue
        for tau, agreement in agreements.items():
            agreement.update(evidence.at(tau, FREE)[0].cpu().numpy(), origins, points, classes)
    return {tau: a.result() for tau, a in agreements.items()} if next(iter(agreements.values())).counts["rays"] else {}


def returns_score(figures: dict) -> float:
    """The one figure by which thresholds and checkpoints are chosen.

    ``lidar_rayiou`` where returns have classes; without, ``occupied_rayiou``, which rewards being met where the return
    is and neither before nor behind.
    """
    score = figures["lidar_rayiou"] if figures["labelled_rays"] else figures["occupied_rayiou"]
    return 0.0 if score is None or math.isnan(score) else score
