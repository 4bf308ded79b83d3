"""The last stage of a compiled prediction on a CPU: Eq. 7, with classes of the occupied voxels alone."""

import math

import numba
import numpy as np
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.parts import CellPart, VolumePart
from gsrender_core.numba_threads import numba_threads


class RowLabels:
    """Labels from P: what ``VolumePart`` leaves."""

    def __init__(self, model: GSRender, part: VolumePart):
        self._model, self._part = model, part

    def __call__(self, opacity: np.ndarray, rows: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 and confidence float32, both [X, Y, Z]."""
        probability, free = torch.sigmoid(torch.from_numpy(opacity)), self._model.config.num_classes
        index = torch.nonzero(probability >= tau).squeeze(1)
        logits = self._part.logits(torch.from_numpy(rows).index_select(0, index))
        nowhere = torch.empty(len(index), 3)  # labels do not depend on places
        label, sure = Gaussians(nowhere, nowhere, probability[index], logits).to_occupancy(tau, free)
        labels, confidence = np.full(len(probability), free, np.uint8), np.zeros(len(probability), np.float32)
        labels[index.numpy()], confidence[index.numpy()] = label.numpy(), sure.numpy()
        return self._part.by_voxel(labels), self._part.by_voxel(confidence)


class CellLabels:
    """Labels from the features of cells: what ``CellPart`` leaves."""

    def __init__(self, model: GSRender, part: CellPart):
        self._shape, self._free = model.config.grid.shape, model.config.num_classes
        self._weights, self._upsample = [part.class_weight.numpy(), part.class_bias.numpy()], part.cell_shape[2]

    def __call__(self, opacity: np.ndarray, rows: np.ndarray, tau: float) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 and confidence float32, both [X, Y, Z]."""
        labels, confidence = np.empty(self._shape, np.uint8), np.empty(self._shape, np.float32)
        least = math.log(tau / (1 - tau)) if 0 < tau < 1 else math.copysign(math.inf, tau - 0.5)
        with numba_threads():
            _label(opacity, rows, *self._weights, np.float32(least), self._upsample, self._free, labels, confidence)
        return labels, confidence


# Sums of products in any order: in vector registers.
@numba.njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _label(opacity, rows, class_weight, class_bias, least, u, free, labels, confidence):
    X, Y, Z = labels.shape
    C, K = rows.shape[1], class_bias.shape[1]
    for x in numba.prange(X // u):
        logits = np.empty(K, np.float32)
        for y in range(Y // u):
            cell = x * (Y // u) + y
            for slot in range(u * u * Z):
                i, j, z = x * u + slot // (u * Z), y * u + slot // Z % u, slot % Z
                o = opacity[cell, slot]
                if not o >= least:
                    labels[i, j, z], confidence[i, j, z] = free, 0
                    continue
                best = 0
                for k in range(K):
                    total = class_bias[slot, k]
                    for c in range(C):
                        total += rows[cell, c] * class_weight[slot, k, c]
                    logits[k] = total
                    if total > logits[best]:
                        best = k
                others = np.float32(0)
                for k in range(K):
                    below = logits[k] - logits[best]
                    if below > -20:  # e^-20 is less than a float32 near 1 can tell
                        others += np.exp(below)
                labels[i, j, z] = best
                confidence[i, j, z] = 1 / ((1 + np.exp(-o)) * others)
