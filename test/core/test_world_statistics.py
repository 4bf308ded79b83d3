import numpy as np
import pytest

from gsrender_core.classes import FREE
from gsrender_core.data.occ3d_labels import Occ3DLabels
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.world.statistics import statistics


class Two:
    """Two frames, the second 0.4 m ahead: a road of 4 voxels of which one is hidden, then revealed."""

    root = "two"

    def __len__(self):
        return 2

    def adjacent(self, i, k):
        return 1 if i == 0 else None

    def frame(self, i, labels=False):
        pose = np.eye(4)
        pose[0, 3] = 0.4 * i
        return type("F", (), {"T_global_ego": pose})

    def ground_truth(self, i):
        semantics = np.full(VoxelGrid().shape, FREE, np.uint8)
        semantics[100:104, 100, 2] = 11
        mask = np.zeros_like(semantics)
        mask[100:103, 100, 2:4] = 1  # in frame 0 the fourth voxel is hidden; frame 1 sees it as its third
        return Occ3DLabels(semantics, mask, mask)

    def lidar(self, i):
        return (
            np.array([[0.1, 0.1, 0.0, 0, 0], [0.1, 0.1, 2.0, 0, 0]], np.float32),
            np.array([24, 24], np.uint8),
            np.eye(4),
        )


def test_shares_by_hand():
    result = statistics(Two())
    assert result["samples"] == 2 and result["seen_share"]["driveable_surface"] == 1.0
    assert result["occupied_of_seen"] == pytest.approx(0.5)
    assert result["lidar_agreement"] == pytest.approx(0.5)
    assert result["unseen_of_occupied"] == pytest.approx(0.25)
    assert result["unseen_seen_next"] == pytest.approx(1.0)
