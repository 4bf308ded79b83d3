"""The mirrored volume of ``bev_flip``: everything a frame's labels say about it must be mirrored with it."""

import dataclasses

import numpy as np
import pytest
import torch
from small import GRID, SIZE, SmallData, small_model, small_training

from gsrender_core.data.frame import PixelLabels
from gsrender_core.model.gsrender import GSRender
from gsrender_core.objective import Objective
from gsrender_core.ray_supervision import flat_index
from gsrender_core.training_frames import TrainingFrames

LEFT_M, RIGHT_M = 2.2, -2.3  # walls along the street, within voxels 12 and 3 of y
CLASSES = np.array([[7, 4], [16, 15]])  # [left, ahead]: every quadrant has its own
FLIPS = [(1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)]


class Street(SmallData):
    """Labels on the two walls, seen by the three cameras."""

    def frame(self, i, labels=True):
        frame, parts = self.frames[i], []
        u, v = (a.ravel() + 0.5 for a in np.meshgrid(np.arange(0, SIZE[0], 3), np.arange(0, SIZE[1], 3)))
        for camera in range(3):
            rays = np.linalg.inv(frame.Ks[camera]) @ np.stack((u, v, np.ones_like(u)))
            toward = frame.T_ego_cam[camera][1, :3] @ rays
            depth = (np.where(toward > 0, LEFT_M, RIGHT_M) - frame.T_ego_cam[camera][1, 3]) / toward
            keep = np.abs(depth) < 7
            ahead = frame.T_ego_cam[camera][0, :3] @ rays > 0
            class_id = CLASSES[(toward > 0).astype(int), ahead.astype(int)][keep].astype(np.uint8)
            uv = np.stack((u, v), axis=1)[keep].astype(np.float32)
            parts.append((np.full(keep.sum(), camera), uv, depth[keep].astype(np.float32), class_id))
        return dataclasses.replace(frame, labels=PixelLabels(*(np.concatenate(p) for p in zip(*parts, strict=True))))


def terms_of(P: torch.Tensor, mirror: torch.Tensor) -> dict[str, float]:
    """Loss terms of frame 0, the network's volume being P and the step's reflection ``mirror``."""
    config = small_training(model=small_model(), pixels=400, rays=400, render_cameras=0, adjacent=(1,))
    torch.manual_seed(0)
    model = GSRender(config.model).eval()
    model.lift = lambda *_, **__: (P[None], torch.zeros(1, 3, 12, 8, 12))
    model.encoder = torch.nn.Identity()
    frames = TrainingFrames(Street(), model, torch.device("cpu"), 0.5, 1.0)
    objective = Objective(config, model, frames)
    objective._mirror = lambda: mirror
    torch.manual_seed(7)
    return {name: float(value.detach()) for name, value in objective(0).items()}


@pytest.mark.parametrize("signs", FLIPS)
def test_all_losses_are_those_of_the_scene_that_is_not_mirrored(signs):
    torch.manual_seed(1)
    quadrants = torch.randn(6, 2, 2, 1).repeat_interleave(8, 1).repeat_interleave(8, 2)
    P = 6 * quadrants + torch.randn(6, *GRID.shape)
    plain = terms_of(P, torch.eye(4))
    mirrored = terms_of(P, torch.diag(torch.tensor([*signs, 1.0, 1.0])))  # the objective flips the volume itself
    unlike = terms_of(P.flip([1 + axis for axis in (0, 1) if signs[axis] < 0]), torch.eye(4))
    compared = [name for name in plain if name != "free_prior"]  # draws voxels at random, wherever they lie
    assert {"ray_opacity", "ray_semantic", "semantic", "depth", "adj_semantic", "adj_depth"} <= set(compared)
    for name in compared:
        assert mirrored[name] == pytest.approx(plain[name], rel=2e-3, abs=1e-5), name
    # Were the labels left where they are, the losses would differ.
    assert max(abs(unlike[name] / plain[name] - 1) for name in ("ray_semantic", "semantic", "adj_semantic")) > 0.01


@pytest.mark.parametrize("signs", FLIPS)
def test_labelled_points_land_in_the_mirrored_voxels(signs):
    """Wall voxels of the plain and of the mirrored grid."""
    labels = TrainingFrames(Street(), GSRender(small_model()), torch.device("cpu"), 0.5, 1.0).labels(0)
    points, _ = labels.points_and_origins(torch.arange(len(labels.camera)))
    assert torch.allclose(points[:, 1], torch.where(points[:, 1] > 0, LEFT_M, RIGHT_M), atol=1e-4)
    volume = torch.full((GRID.size,), 17)
    voxel, inside = flat_index(points, GRID)
    volume[voxel[inside]] = labels.class_id[inside]
    volume = volume.view(GRID.shape)
    assert (volume[9:, 12] == 15).any() and (volume[9:, 3] == 4).any()  # ahead: x of 0.5 m and more
    assert set(volume[9:, 12].unique().tolist()) <= {15, 17} and set(volume[:7, 3].unique().tolist()) <= {7, 17}
    flipped = volume.flip([axis for axis in (0, 1) if signs[axis] < 0])
    now_ahead_left = int(CLASSES[int(signs[1] > 0), int(signs[0] > 0)])
    assert now_ahead_left in flipped[9:, 12].unique().tolist()
    voxel, inside = flat_index(points * torch.tensor([*signs, 1.0]), GRID)
    off_faces = ((points + 4) / 0.5 % 1 - 0.5).abs().max(1).values < 0.499  # where floor would pick a side
    kept = inside & off_faces
    assert torch.equal(flipped.reshape(-1)[voxel[kept]], labels.class_id[kept])
