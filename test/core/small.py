"""A small network, its configuration and a hand-made frame for tests."""

import numpy as np

from gsrender_core.config import BackboneConfig, DepthConfig, EncoderConfig, ModelConfig, TrainConfig, ViewConfig
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import VoxelGrid

SIZE = (96, 64)
GRID = VoxelGrid((-4.0, -4.0, -1.0), 0.5, (16, 16, 8))


def small_model(**changes) -> ModelConfig:
    values = dict(
        image_size=SIZE,
        grid=GRID,
        backbone=BackboneConfig(pretrained=False),
        depth=DepthConfig(0.5, 8.0, 12),
        view=ViewConfig(neck_channels=16, channels=8),
        encoder=EncoderConfig(channels=8, features=6),
    )
    return ModelConfig(**(values | changes))


def small_training(**changes) -> TrainConfig:
    values = dict(
        model=small_model(), steps=4, warmup_steps=1, pixels=64, rays=64, validation_scenes=0, checkpoint_every=2
    )
    return TrainConfig(**(values | changes))


def camera_pose(yaw: float, x: float = 0.0, z: float = 0.5) -> np.ndarray:
    """T_ego_cam of a camera that looks along the horizontal direction ``yaw`` (0 = forward)."""
    c, s = np.cos(yaw), np.sin(yaw)
    return transform(np.array([[s, 0, c], [-c, 0, s], [0, -1, 0]]), (x, 0.0, z))


class SmallData:
    """Three consecutive frames 0.5 m apart: noise images and random labels on a wall around the car."""

    root = "test"
    scene_names = ("a",)

    def __init__(self, seed: int = 0, frames: int = 3):
        self.rng = np.random.default_rng(seed)
        self.frames = [self._make(i) for i in range(frames)]

    def __len__(self):
        return len(self.frames)

    def indices_of(self, scene):
        return list(range(len(self.frames)))

    def adjacent(self, i, k):
        return i + k if 0 <= i + k < len(self.frames) else None

    def frame(self, i, labels=True):
        return self.frames[i]

    def ground_truth(self, i):
        return None

    def _make(self, i: int) -> Frame:
        m = 300
        K = np.array([[60.0, 0, 48], [0, 60, 24], [0, 0, 1]])
        labels = PixelLabels(
            self.rng.integers(0, 3, m),
            (self.rng.uniform(0, 1, (m, 2)) * SIZE).astype(np.float32),
            self.rng.uniform(2, 5, m).astype(np.float32),
            self.rng.integers(0, 17, m).astype(np.uint8),
        )
        return Frame(
            self.rng.integers(0, 256, (3, 3, SIZE[1], SIZE[0]), dtype=np.uint8),
            np.stack([K] * 3),
            np.stack([camera_pose(a) for a in (0.0, 2.1, -2.1)]),
            transform(np.eye(3), (0.5 * i, 0, 0)),
            i * 500_000_000,
            ("front", "left", "right"),
            token=f"t{i}",
            scene="a",
            labels=labels,
        )
