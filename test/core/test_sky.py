"""Sky pixels on hand-made frames: one camera at (0, 0, 1.5) m that looks along x, 100 px focal length."""

import math

import numpy as np
import pytest
import torch
from small import camera_pose

from gsrender_core.sky import columns, elevations, sky_pixels
from gsrender_core.training_frames import FrameLabels

SIZE = (200, 120)
FOCAL, CX, CY = 100.0, 100.0, 80.0
ALL = torch.tensor([True])


def frame(u, v, depth, yaws=(0.0,), camera=None) -> FrameLabels:
    u, v, depth = (torch.as_tensor(x, dtype=torch.float32).expand(len(u)) for x in (u, v, depth))
    K = torch.tensor([[FOCAL, 0, CX], [0, FOCAL, CY], [0, 0, 1]])
    T = torch.from_numpy(np.stack([camera_pose(yaw, z=1.5) for yaw in yaws])).float()
    camera = torch.zeros(len(u), dtype=torch.int64) if camera is None else camera
    return FrameLabels(
        camera, torch.stack((u, v), 1), depth, torch.full((len(u),), 15), torch.ones(len(u)),
        K.expand(len(yaws), 3, 3), T, np.eye(4),
    )  # fmt: skip


def row(degrees: float) -> float:
    return CY - FOCAL * math.tan(math.radians(degrees))


def skyline(tower_u=150.0, tower_deg=12.0) -> FrameLabels:
    """A far low skyline at 2 degrees everywhere, and a tower that the highest beam of 12 degrees still meets."""
    u = np.repeat(np.arange(1.0, 200.0, 2), 3)
    v = np.tile([row(2), row(0.5), row(-1)], 100)
    tower = np.linspace(-1, tower_deg, 12)
    u = np.concatenate((u, np.full(12, tower_u)))
    v = np.concatenate((v, [row(d) for d in tower]))
    return frame(u, v, 40.0)


def test_elevations_by_hand():
    labels = frame([CX, CX, CX + 100], [row(0), row(10), row(0)], 10.0)
    angle = elevations(labels, labels.camera, labels.uv)
    assert angle.tolist() == pytest.approx([0, math.radians(10), 0], abs=1e-5)


def test_columns_find_the_topmost_label_of_the_bins_around():
    bin_px = FOCAL * math.tan(math.radians(1.5))  # 2.6 px
    labels = frame([10.0, 10.0, 10.0 + bin_px, 50.0], [60.0, 40.0, 30.0, 20.0], 40.0)
    top, count = columns(labels, torch.zeros(4, dtype=torch.int64), torch.tensor([10.0, 50.0, 120.0, 199.9]), 200)
    assert top.tolist() == [30.0, 20.0, math.inf, math.inf] and count.tolist() == [3, 1, 0, 0]


def test_the_bins_of_two_cameras_do_not_touch():
    labels = frame([199.9, 199.9], [50.0, 50.0], 40.0, yaws=(0.0, 1.0))
    top, count = columns(labels, torch.tensor([1, 0]), torch.tensor([0.0, 199.9]), 200)
    assert top.tolist() == [math.inf, 50.0] and count.tolist() == [0, 2]


def test_sky_is_above_the_skyline_below_the_highest_beam_and_beside_the_tower():
    torch.manual_seed(0)
    pixels = sky_pixels(skyline(), SIZE, ALL, 20_000)
    u, v = pixels.uv.unbind(1)
    gap = FOCAL * math.tan(math.radians(2.5))
    # The highest beam is that of the tower's top, at its own column; the limit is an elevation, not a row.
    limit = math.atan2(math.tan(math.radians(12)), math.hypot(1, (150 - CX) / FOCAL))
    expected = (row(2) - gap, CY - FOCAL * math.tan(limit))
    assert len(pixels) > 1000 and v.max() <= expected[0] and v.max() > expected[0] - 0.5
    steep = torch.atan2(CY - v, torch.hypot(torch.full_like(u, FOCAL), u - CX))
    assert steep.max() <= limit and steep.max() > limit - 0.01
    assert not ((u - 150).abs() < 2.6).any() and ((u - 150).abs() < 8).any()  # a bin's width around the tower


def test_without_a_tower_nothing_is_known_to_be_within_the_beams():
    u = np.repeat(np.arange(1.0, 200.0, 2), 3)
    assert len(sky_pixels(frame(u, np.tile([row(2), row(1), row(-1)], 100), 40.0), SIZE, ALL, 5000)) == 0


def test_a_near_tower_does_not_stretch_the_beams():
    labels = skyline()
    near = labels.depth_m.clone()
    near[-12:] = 5.0
    labels.depth_m = near
    assert len(sky_pixels(labels, SIZE, ALL, 5000)) == 0


def test_a_black_car_is_not_sky():
    """Road up to a car that swallows every beam: above the topmost label, but below the horizon."""
    labels = skyline()
    dark = (labels.uv[:, 0] > 40) & (labels.uv[:, 0] < 80)
    labels.uv[dark, 1] = torch.where(labels.uv[dark, 1] < row(0), row(-8), row(-10))
    pixels = sky_pixels(labels, SIZE, ALL, 20_000)
    assert (pixels.uv[:, 1] < CY).all()


def test_columns_without_labels_say_nothing():
    labels = skyline()
    labels = frame(labels.uv[:, 0][labels.uv[:, 0] > 60].numpy(), labels.uv[:, 1][labels.uv[:, 0] > 60].numpy(), 40.0)
    pixels = sky_pixels(labels, SIZE, ALL, 20_000)
    assert len(pixels) > 500 and pixels.uv[:, 0].min() > 60 - 2 * 2.62


def test_only_chosen_cameras_and_no_far_label_at_all():
    labels = skyline()
    two = frame(labels.uv[:, 0].numpy(), labels.uv[:, 1].numpy(), 40.0, (0.0, 2.0), torch.ones(312, dtype=torch.int64))
    pixels = sky_pixels(two, SIZE, torch.tensor([False, True]), 5000)
    assert len(pixels) > 100 and (pixels.camera == 1).all()
    assert len(sky_pixels(two, SIZE, torch.tensor([True, False]), 5000)) == 0
    two.depth_m = two.depth_m * 0 + 5
    assert len(sky_pixels(two, SIZE, torch.tensor([False, True]), 5000)) == 0
