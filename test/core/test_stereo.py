"""Plane sweep: against loops over pixels, and on scenes whose depth is known."""

import numpy as np
import pytest
import torch

from gsrender_core.geometry import transform
from gsrender_core.model.stereo import INVALID_COST, stereo_distribution

K = torch.tensor([[30.0, 0.0, 16.0], [0.0, 28.0, 9.0], [0.0, 0.0, 1.0]])
H, W = 18, 32


def rotation_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def motion(angle: float = 0.0, t=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """T_prevcam_curcam of a camera that turned and moved."""
    return torch.from_numpy(transform(rotation_y(angle), t)).float()


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Eight features of a surface point."""
    return np.stack([np.sin(a * x + b * y + a * b) for a, b in np.random.default_rng(5).uniform(-3, 3, (8, 2))])


def photograph(T_world_cam: np.ndarray, plane_z: float) -> torch.Tensor:
    """Features [8, H, W] of a textured plane z = plane_z of the world; its waves are 30 pixels long or longer."""
    u, v = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K.double().numpy()).T @ T_world_cam[:3, :3].T
    origin = T_world_cam[:3, 3]
    points = origin + rays * ((plane_z - origin[2]) / rays[..., 2:])
    return torch.from_numpy(texture(*(points[..., :2] * (2 / plane_z)).transpose(2, 0, 1))).float()


def distribution(current, previous, T, planes, Ks=(K, K)):
    return stereo_distribution(current[None], previous[None], (Ks[0][None], Ks[1][None]), T[None], planes)[0]


def distribution_by_loops(current, previous, T, planes, Ks) -> np.ndarray:
    """One cell and one plane at a time: unproject, move, project, sample the four neighbours."""
    current, previous, T = current.double().numpy(), previous.double().numpy(), T.double().numpy()
    K_now, K_before = (k.double().numpy() for k in Ks)
    F, h, w = current.shape
    cost = np.zeros((len(planes), h, w))
    for d, depth in enumerate(planes.tolist()):
        for row in range(h):
            for column in range(w):
                point = np.linalg.inv(K_now) @ [column + 0.5, row + 0.5, 1] * depth
                x, y, z = T[:3, :3] @ point + T[:3, 3]
                sampled, valid = np.zeros(F), z > 1e-3
                if valid:
                    u, v, _ = K_before @ [x / z, y / z, 1]
                    valid = 0 <= u <= w and 0 <= v <= h
                if valid:
                    left, top = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
                    for i, j in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                        if 0 <= i < w and 0 <= j < h:
                            sampled += (1 - abs(u - 0.5 - i)) * (1 - abs(v - 0.5 - j)) * previous[:, j, i]
                cost[d, row, column] = np.abs(current[:, row, column] - sampled).sum() + INVALID_COST * (not valid)
    e = np.exp(-(cost - cost.min(0)))
    return e / e.sum(0)


def test_it_equals_loops_over_cells_and_planes(monkeypatch):
    rng = torch.Generator().manual_seed(int(torch.seed()) % 2**31)
    current, previous = torch.rand(2, 3, H, W, generator=rng)
    # A turn, a step back through some of the planes (points behind the camera), intrinsics with a mirrored axis.
    T, planes = motion(0.3, (0.4, -0.1, -2.5)), torch.tensor([0.5, 1.0, 2.0, 4.0, 9.0])
    mirrored = K * torch.tensor([[-1.0], [1.0], [1.0]]) + torch.tensor([[0, 0, W], [0, 0, 0], [0, 0, 0.0]])
    monkeypatch.setattr("gsrender_core.model.stereo._CHUNK", 2 * current.numel())  # planes in chunks of two
    got = distribution(current, previous, T, planes, (K, mirrored))
    expected = distribution_by_loops(current, previous, T, planes, (K, mirrored))
    # Positions that rounding puts on the other side of the image border may differ.
    wrong = (np.abs(got.numpy() - expected) > 1e-3).any(0)
    assert wrong.mean() < 0.01 and got.std() > 0.05


@pytest.mark.parametrize("depth_m", [6.25, 11.75])
def test_it_peaks_at_the_depth_of_a_textured_plane(depth_m):
    """Known motion (1.1 m aside, 0.6 m ahead, 2 degrees): the plane's own depth bin wins everywhere."""
    T = motion(0.035, (1.1, 0.1, 0.6))
    current = photograph(np.eye(4), depth_m)
    previous = photograph(np.linalg.inv(T.double().numpy()), depth_m)
    planes = torch.arange(88) * 0.5 + 1.25  # centres of the paper's bins
    got = distribution(current, previous, T, planes)
    visible = torch.zeros(H, W, dtype=torch.bool)
    visible[2:-2, 3:-8] = True  # the part that the previous image shows as well
    assert (planes[got.argmax(0)][visible] == depth_m).all()


def test_its_depth_is_right_to_a_fraction_of_a_bin():
    T = motion(-0.02, (0.9, 0.0, 0.4))
    current, previous = photograph(np.eye(4), 8.0), photograph(np.linalg.inv(T.double().numpy()), 8.0)
    planes = torch.arange(6.0, 10.0, 0.02)
    found = planes[distribution(current, previous, T, planes).argmax(0)][3:-3, 4:-8]
    # Half a pixel of error in the geometry would move the depth by more than a metre; bins are half a metre wide.
    assert abs(found.mean().item() - 8.0) < 0.02 and (found - 8.0).abs().max() < 0.15


def test_without_motion_every_depth_is_equally_likely():
    current, previous = torch.rand(2, 4, H, W)
    got = distribution(current, previous, motion(), torch.linspace(1, 45, 7))
    assert torch.allclose(got, torch.full_like(got, 1 / 7), atol=1e-5)
    turned = distribution(current, previous, motion(0.1), torch.linspace(1, 45, 7))  # a turn alone shows no depth
    assert torch.allclose(turned, torch.full_like(turned, 1 / 7), atol=1e-4)


def test_planes_that_the_previous_image_does_not_show_are_unlikely():
    T = motion(0.0, (0.0, 0.0, -5.0))  # the camera went back: planes nearer than 5 m were behind the earlier one
    same = torch.zeros(1, H, W)
    got = distribution(same, same, T, torch.tensor([2.0, 20.0, 30.0]))
    center = got[:, H // 2, W // 2]
    assert center[0].item() == pytest.approx(np.exp(-5) / (np.exp(-5) + 2), rel=1e-4)
    assert center[1].item() == pytest.approx(center[2].item(), rel=1e-5)


def test_no_gradient_flows():
    current = torch.rand(1, 4, H, W, requires_grad=True)
    got = distribution(current[0], current[0], motion(0.0, (1, 0, 0)), torch.tensor([2.0, 4.0]))
    assert not got.requires_grad
