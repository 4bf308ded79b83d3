import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import SIZE, SmallData, camera_pose, small_model, small_training

from gsrender_core.config import AugmentConfig, BackboneConfig
from gsrender_core.data.augment import (
    augment_images,
    augmented_pixels,
    change_light,
    draw_transform,
    image_transform,
    warp_image,
)
from gsrender_core.model.depth_net import DepthNet
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.view_transformer import LiftSplat, Projection
from gsrender_core.objective import Objective
from gsrender_core.train import Trainer
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.voxel_grid import VoxelGrid

ALL = AugmentConfig((0.9, 1.2), 6.0, 0.5, 0.05, 0.1, 0.1)
W, H = SIZE
K = np.array([[60.0, 0, 48], [0, 60, 24], [0, 0, 1]])
UNFROZEN = BackboneConfig(pretrained=False, frozen=False)


def bilinear(image: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Slow reference of ``warp_image``: every target pixel looks up its source; outside is black."""
    out = np.zeros(image.shape)
    for row in range(H):
        for column in range(W):
            u, v, _ = np.linalg.inv(A) @ (column + 0.5, row + 0.5, 1)
            x, y = u - 0.5, v - 0.5
            for yy in (int(np.floor(y)), int(np.floor(y)) + 1):
                for xx in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= xx < W and 0 <= yy < H:
                        out[:, row, column] += (1 - abs(x - xx)) * (1 - abs(y - yy)) * image[:, yy, xx]
    return out


def test_transforms_by_hand():
    """A 96 x 64 image: each part of the transform on pixels that are easy to follow."""

    def moved(A, u, v):
        return (A @ (u, v, 1))[:2]

    np.testing.assert_allclose(moved(image_transform(SIZE, flip=True), 0.5, 7), (95.5, 7))  # first column -> last
    np.testing.assert_allclose(moved(image_transform(SIZE, resize=2.0), 50, 30), (52, 28))  # about (48, 32)
    np.testing.assert_allclose(moved(image_transform(SIZE, rotation_deg=90), 58, 32), (48, 42))  # right -> down
    np.testing.assert_allclose(moved(image_transform(SIZE, shift=(0.25, -0.5)), 1, 40), (25, 8))
    np.testing.assert_array_equal(image_transform(SIZE), np.eye(3))


def test_a_marked_pixel_is_found_where_the_transform_says():
    torch.manual_seed(1)
    for _ in range(20):
        A = draw_transform(ALL, SIZE)
        image = np.zeros((3, H, W), np.uint8)
        image[:, 28:31, 38:41] = 255  # centre of the mark at (39.5, 29.5)
        warped = warp_image(image, A)[0].astype(float)
        v, u = (np.indices((H, W)) + 0.5) * warped / warped.sum()
        np.testing.assert_allclose((u.sum(), v.sum()), (A @ (39.5, 29.5, 1))[:2], atol=0.1)  # 1/32 px steps
        here = augmented_pixels(torch.tensor([[39.5, 29.5]]).double(), torch.from_numpy(A)[None])
        np.testing.assert_allclose(here[0], (A @ (39.5, 29.5, 1))[:2])


def test_warp_matches_the_slow_reference():
    torch.manual_seed(2)
    rng = np.random.default_rng(2)
    for A in (draw_transform(ALL, SIZE), image_transform(SIZE, 0.8, -5.0, True, (0.1, 0.0)), np.eye(3)):
        image = rng.integers(0, 256, (3, H, W), dtype=np.uint8)
        warped = warp_image(image, A)
        # OpenCV rounds positions to 1/32 px: on noise images up to 255 / 32 in each direction.
        assert np.abs(warped - bilinear(image, A)).max() <= 17
        assert np.abs(warped - bilinear(image, A)).mean() < 2
    np.testing.assert_array_equal(warped, image)


def test_light_by_hand():
    image = np.array([0, 100, 127, 128, 255], np.uint8)
    np.testing.assert_array_equal(change_light(image, 0.0, 0.0), image)
    np.testing.assert_array_equal(change_light(image, 0.2, 0.0), [51, 151, 178, 179, 255])
    np.testing.assert_array_equal(change_light(image, 0.0, -0.5), [64, 114, 127, 128, 191])  # 63.75, 113.75, ...


def test_draws_differ_by_camera_and_repeat_by_seed():
    images = SmallData().frame(0).images
    torch.manual_seed(5)
    first, A = augment_images(images, ALL)
    assert np.abs(A[0] - A[1]).max() > 0.01 and first.shape == images.shape and first.dtype == np.uint8
    torch.manual_seed(5)
    again, B = augment_images(images, ALL)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(A, B)


def test_frustum_of_an_augmented_pixel_is_that_of_the_original():
    """The ray of cell (row, column) through A K is the original K's ray of the pixel that landed there."""
    torch.manual_seed(3)
    view = LiftSplat(VoxelGrid(), 2, 8, torch.tensor([2.0, 7.0]))
    T = torch.from_numpy(np.stack([camera_pose(a) for a in (0.0, 2.1)])).float()
    A = torch.from_numpy(np.stack([draw_transform(ALL, SIZE), image_transform(SIZE, 1.1, 4.0, True)])).float()
    pinhole = torch.from_numpy(K).float()
    points = view.frustum_ego(H // 8, W // 8, A @ pinhole, T)
    for camera in range(2):
        for row, column in ((0, 0), (3, 7), (7, 11)):
            original = torch.linalg.inv(A[camera]) @ torch.tensor([column * 8 + 4.0, row * 8 + 4.0, 1.0])
            for b, z in enumerate((2.0, 7.0)):
                at_camera = torch.linalg.inv(pinhole) @ original * z
                expected = T[camera, :3, :3] @ at_camera + T[camera, :3, 3]
                assert torch.allclose(points[camera, b, row, column], expected, atol=1e-4)


def scene(u, v):
    """A smooth picture of two channels, and a smooth nearest surface in metres, of original pixels [...]."""
    colour = torch.stack((100 + 60 * torch.sin(u / 17) + 20 * torch.cos(v / 11), 30 + u + v), dim=0)
    return colour, 4 + torch.sin(u / 25) + v / 40


@pytest.mark.parametrize("kind", [LiftSplat, Projection])
def test_the_lifted_volume_is_that_of_the_original_images(kind):
    """Features are cell means of the augmented image itself, so that image, cells and A K have to agree."""
    size, stride = (192, 128), 4
    intrinsics = torch.tensor([[120.0, 0, 96], [0, 120, 48], [0, 0, 1]])[None, None]
    T = torch.from_numpy(camera_pose(0.0)).float()[None, None]
    grid = VoxelGrid((0.0, -4.0, -2.0), 0.4, (16, 20, 10))
    edges = torch.linspace(1.0, 9.0, 33)
    view = kind(grid, 1, stride, (edges[1:] + edges[:-1]) / 2 if kind is LiftSplat else edges)
    u, v = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="xy")
    image = scene(u, v)[0]
    picture = torch.cat((image, torch.full_like(image[:1], 255))).round().to(torch.uint8).numpy()
    volumes = []
    for A in (np.eye(3), image_transform(size, 1.1, 5.0, True, (0.04, -0.03))):
        warped = torch.from_numpy(np.ascontiguousarray(warp_image(picture, A)))
        features = F.avg_pool2d(warped[None].float(), stride)
        cells = torch.stack(
            torch.meshgrid(*(torch.arange(n // stride) * stride + stride / 2 for n in size), indexing="xy")
            + (torch.ones(size[1] // stride, size[0] // stride),),
            -1,
        )
        original = cells @ torch.linalg.inv(torch.from_numpy(A)).float().T
        surface = scene(original[..., 0], original[..., 1])[1]
        centers = (edges[1:] + edges[:-1]) / 2
        depth = torch.softmax(-((centers[:, None, None] - surface) ** 2) * 2, dim=0)[None, None]
        known = features[:, 2:] > 254.5  # cells wholly inside the photograph
        volumes.append(view((features * known)[None], depth, torch.from_numpy(A).float() @ intrinsics, T)[0])
    weights = [volume[2] / 255 for volume in volumes]
    both = (weights[0] > 0.2) & (weights[1] > 0.2)
    assert both.sum() > 150
    for channel in (0, 1):
        a, b = (volume[channel][both] / w[both] for volume, w in zip(volumes, weights, strict=True))
        assert a.std() > 8  # the picture varies over the voxels compared
        assert (a - b).abs().median() < 2.5 and torch.corrcoef(torch.stack((a, b)))[0, 1] > 0.97


def test_depth_net_reads_focal_lengths_through_mirror_and_rotation():
    torch.manual_seed(0)
    net = DepthNet(8, 4, 3).eval()
    features = torch.randn(1, 8, 4, 4)
    pinhole = torch.tensor([[600.0, 0, 48], [0, 550, 24], [0, 0, 1]])

    def depth(K):
        return net(features, K[None])[0]

    turned = torch.from_numpy(image_transform(SIZE, 1.0, 20.0, True)).float() @ pinhole
    turned[:2, 2] = pinhole[:2, 2]  # the principal point moves with the image; only the focal lengths are compared
    assert torch.allclose(depth(turned), depth(pinhole), atol=1e-4)
    assert (depth(1.3 * pinhole) - depth(pinhole)).abs().max() > 1e-3


def objective_of(config, data=None) -> Objective:
    torch.manual_seed(0)
    model = GSRender(config.model).train()
    return Objective(config, model, TrainingFrames(data or SmallData(), model, torch.device("cpu"), 0.5, 1.0))


def test_depth_labels_follow_the_augmented_image():
    """One label; the loss reads the cell it moved to, and nothing when it left the image."""
    config = small_training(model=small_model(backbone=UNFROZEN), augment=ALL)
    objective = objective_of(config)
    labels = objective.frames.labels(0)
    one = dataclasses.replace(
        labels,
        camera=labels.camera[:1] * 0 + 1,
        uv=torch.tensor([[20.0, 30.0]]),
        depth_m=torch.tensor([3.0]),
        class_id=labels.class_id[:1],
        draw=labels.draw[:1],
    )
    logits = torch.zeros(3, 12, 8, 12, requires_grad=True)
    A = torch.from_numpy(np.stack([np.eye(3), image_transform(SIZE, flip=True, shift=(0.0, 0.25)), np.eye(3)])).float()
    objective._depth_net(logits, one, A).backward()
    cells = torch.nonzero(logits.grad.abs().sum(1)).tolist()
    assert cells == [[1, 5, 9]]  # (20, 30) -> (76, 46)
    out = A.clone()
    out[1, 0, 2] += 25  # 101 > 96 px
    assert objective._depth_net(logits, one, out).item() == 0.0


def test_training_sees_augmented_images_and_renders_original_labels():
    config = small_training(model=small_model(backbone=UNFROZEN), augment=ALL)
    objective = objective_of(config)
    frames = objective.frames
    plain = frames.seen(0, AugmentConfig())
    assert plain.A is None and plain.Ks is frames.labels(0).Ks
    torch.manual_seed(4)
    first, second = frames.seen(0, ALL), frames.seen(0, ALL)
    assert (first.A - second.A).abs().max() > 1e-3 and (first.maps[0] - second.maps[0]).abs().max() > 1e-3
    assert torch.allclose(first.Ks, first.A @ frames.labels(0).Ks)
    np.testing.assert_allclose(frames.labels(0).Ks[0], K)
    terms = objective(0)
    assert all(torch.isfinite(value).all() for value in terms.values())


def test_a_run_with_augmentation_repeats_itself(tmp_path):
    def weights(name):
        config = small_training(model=small_model(backbone=UNFROZEN), augment=ALL, steps=2)
        trainer = Trainer(config, SmallData(), tmp_path / name, "cpu")
        trainer.run()
        return trainer.model.state_dict()

    first, second = weights("a"), weights("b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_frozen_backbone_and_bad_ranges_are_refused():
    with pytest.raises(ValueError, match="augment: a frozen backbone"):
        small_training(augment=ALL)
    small_training(augment=AugmentConfig())
    for bad in (dict(resize=(1.2, 0.9)), dict(resize=(0.0, 1.0)), dict(rotation_deg=-1.0), dict(flip=1.5),
                dict(shift=0.6), dict(brightness=2.0), dict(contrast=-0.1)):  # fmt: skip
        with pytest.raises(ValueError, match=f"augment.{next(iter(bad))}"):
            AugmentConfig(**bad)
