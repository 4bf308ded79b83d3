"""LiDAR points as 2D labels: project a sweep into every camera at that camera's own stamp."""

import zlib
from dataclasses import dataclass

import numpy as np

from gsrender_core.data.frame import PixelLabels
from gsrender_core.geometry import apply, inverse, project

# The own vehicle in the ego frame (origin on the ground under the rear axle), metres: nuScenes' car is
# 4.08 x 1.73 m; a hand's breadth is added on each side. Nothing but the car itself can be in there.
OWN_VEHICLE_MIN_M = (-1.0, -1.05, -0.5)
OWN_VEHICLE_MAX_M = (3.7, 1.05, 2.0)


MIN_DEPTH_M = 0.1  # nothing outside the own vehicle comes nearer to a lens


@dataclass(frozen=True)
class LabelOptions:
    """What becomes a label.

    Attributes:
        renderocc_parity: as RenderOcc: noise and the own vehicle are supervised as "others". Otherwise
            noise keeps its depth without a class, and points on the own vehicle are dropped.
        drop_occluded: remove points seen through a nearer surface, see ``drop_occluded``. Not in RenderOcc.
        hold_out: share of every sweep's points that never becomes a label, see ``held_out_points``.
    """

    renderocc_parity: bool = False
    drop_occluded: bool = False
    hold_out: float = 0.0

    def __post_init__(self):
        if not 0 <= self.hold_out < 1:
            raise ValueError(f"hold_out: {self.hold_out} is not a share of the points in 0 .. 1 (1 leaves no label)")
        if self.renderocc_parity and self.drop_occluded:
            raise ValueError("renderocc_parity has no occlusion filter; switch drop_occluded off")


def held_out_points(token: str, count: int, share: float) -> np.ndarray:
    """Which of a sweep's ``count`` points are held out of training, bool [count]: the same on every call.

    Chosen by point, before any projection: a point that two cameras see is held out in both.

    Args:
        token: of the sample; another sample holds out other points.
        count: number of points in the sweep's file.
        share: probability of each point.
    """
    return np.random.default_rng(zlib.crc32(token.encode())).random(count) < share


def on_own_vehicle(
    points_ego: np.ndarray, low_m: tuple = OWN_VEHICLE_MIN_M, high_m: tuple = OWN_VEHICLE_MAX_M
) -> np.ndarray:
    """Which points [N, 3] (ego frame, m) lie on or in the own vehicle, bool [N].

    Args:
        points_ego: [N, 3].
        low_m, high_m: corners of a box in the ego frame.
    """
    return np.all((points_ego >= np.array(low_m)) & (points_ego <= np.array(high_m)), axis=1)


@dataclass(frozen=True)
class CameraView:
    """Cameras that points are projected into: ``T_ego_cam`` [C, 4, 4] m, ``Ks`` [C, 3, 3] px, images of ``size``."""

    T_ego_cam: np.ndarray
    Ks: np.ndarray
    size: tuple[int, int]


def pixel_labels(
    points_ego: np.ndarray,
    classes: np.ndarray,
    held: np.ndarray,
    view: CameraView,
    options: LabelOptions,
    held_out: bool = False,
) -> PixelLabels:
    """What points become in the images, those held out of training left out; with ``held_out`` those alone.

    Args:
        points_ego: [N, 3] m, ego frame of the reference stamp.
        classes: uint8 [N], 0..16 or ``IGNORE``.
        held: bool [N], see ``held_out_points``.
        view: the cameras.
        options: whether hidden points go.
        held_out: what is hidden is then decided among all points.
    """
    if not held_out:  # held-out points have no say in training, not even in what they hide
        points_ego, classes, held = points_ego[~held], classes[~held], held[~held]
    place = (np.eye(4), view.T_ego_cam, view.Ks, view.size)
    labels = project_lidar(points_ego, classes, *place)
    wanted = np.ones(len(labels), dtype=bool)
    if held_out:
        wanted = project_lidar(points_ego, held.astype(np.uint8), *place).class_id == 1
    if options.drop_occluded:
        wanted &= ~occluded(labels, view.size)
    return labels.select(wanted)


def project_lidar(
    points_lidar: np.ndarray,
    class_ids: np.ndarray,
    T_ego_lidar: np.ndarray,
    T_ego_cam: np.ndarray,
    Ks: np.ndarray,
    image_size: tuple[int, int],
) -> PixelLabels:
    """Project points into every camera; keep those in front of it and inside its image.

    Args:
        points_lidar: [N, 3] m in the LiDAR's frame.
        class_ids: uint8 [N], 0..16 or ``IGNORE``.
        T_ego_lidar: [4, 4] m, LiDAR -> ego of the reference (LiDAR) stamp.
        T_ego_cam: [C, 4, 4] m, camera (as it stood at its own stamp) -> ego of the reference stamp, so
            the ego motion between the two stamps is already in it.
        Ks: [C, 3, 3] px of the images.
        image_size: width and height in px.

    Returns:
        Labels in order of camera, then point; a point may appear in several cameras. Kept are
        z-depth > ``MIN_DEPTH_M``, 0 <= u < width and 0 <= v < height.

    Raises:
        ValueError: array shapes disagree.
    """
    points_lidar = np.asarray(points_lidar, dtype=np.float64)
    if points_lidar.ndim != 2 or points_lidar.shape[1] != 3 or class_ids.shape != points_lidar.shape[:1]:
        raise ValueError(f"points must be [N, 3] and classes [N], got {points_lidar.shape} and {class_ids.shape}")
    if T_ego_cam.ndim != 3 or T_ego_cam.shape[1:] != (4, 4) or Ks.shape != (len(T_ego_cam), 3, 3):
        raise ValueError(f"T_ego_cam must be [C, 4, 4] and Ks [C, 3, 3], got {T_ego_cam.shape} and {Ks.shape}")
    width, height = image_size
    cameras, pixels, depths, classes = [], [], [], []
    for camera, (T, K) in enumerate(zip(T_ego_cam, Ks, strict=True)):
        uv, z = project(K, apply(inverse(T) @ T_ego_lidar, points_lidar))
        # Compared as stored: rounding to float32 must not move a label onto the border.
        u, v = uv.astype(np.float32).T
        keep = np.flatnonzero((z > MIN_DEPTH_M) & (u >= 0) & (u < width) & (v >= 0) & (v < height))
        cameras.append(np.full(len(keep), camera, dtype=np.int64))
        pixels.append(uv[keep].astype(np.float32))
        depths.append(z[keep].astype(np.float32))
        classes.append(class_ids[keep].astype(np.uint8))
    return PixelLabels(np.concatenate(cameras), np.concatenate(pixels), np.concatenate(depths), np.concatenate(classes))


def label_points(labels: PixelLabels, Ks: np.ndarray, T_ego_cam: np.ndarray) -> np.ndarray:
    """Where M labels lie in the ego frame, float64 [M, 3] m: the inverse of ``project_lidar``.

    Args:
        labels: of cameras with intrinsics Ks [C, 3, 3] px and poses T_ego_cam [C, 4, 4] m.
    """
    pixels = np.concatenate([labels.uv, np.ones((len(labels), 1))], axis=1)
    at_camera = np.einsum("mij,mj->mi", np.linalg.inv(Ks)[labels.camera], pixels) * labels.depth_m[:, None]
    T = T_ego_cam[labels.camera]
    return np.einsum("mij,mj->mi", T[:, :3, :3], at_camera) + T[:, :3, 3]


def drop_occluded(
    labels: PixelLabels, image_size: tuple[int, int], reach_px: float | None = None, margin: float = 0.1
) -> PixelLabels:
    """The labels that no nearer surface hides from their camera, see ``occluded``."""
    return labels.select(~occluded(labels, image_size, reach_px, margin))


def occluded(
    labels: PixelLabels, image_size: tuple[int, int], reach_px: float | None = None, margin: float = 0.1
) -> np.ndarray:
    """Which labels a camera would see through a nearer surface, bool [M].

    The LiDAR stands higher than the cameras and looks over what hides things from them. Rule: a label
    goes when nearer labels lie both above and below it, within ``reach_px`` vertically and two
    columns of a fifth of that sideways, each nearer by more than ``margin`` of its own depth plus
    0.5 m. Both sides are asked for because road seen at a grazing angle always has nearer road below.

    Args:
        labels: of one frame.
        image_size: width and height, px.
        reach_px: somewhat more than the gap between two LiDAR rings; default 1/47 of the width, 1.5
            degrees of nuScenes' 70 degree cameras (32 rings, 1.33 degrees apart).
        margin: relative depth difference, 0 or more.
    """
    if len(labels) == 0:
        return np.zeros(0, dtype=bool)
    steps = 5
    cell = (image_size[0] / 47 if reach_px is None else reach_px) / steps
    columns, rows = (int(np.ceil(n / cell)) for n in image_size)
    x, y = np.floor(labels.uv / cell).astype(np.int64).T
    x, y = x + 1, y + steps  # a rim keeps the look-ups below inside the array
    nearest = np.full((int(labels.camera.max()) + 1, rows + 2 * steps, columns + 2), np.inf, dtype=np.float32)
    np.minimum.at(nearest, (labels.camera, y, x), labels.depth_m)
    nearest[:, :, 1:-1] = np.minimum(np.minimum(nearest[:, :, :-2], nearest[:, :, 2:]), nearest[:, :, 1:-1])
    above = np.min([nearest[labels.camera, y - k, x] for k in range(1, steps + 1)], axis=0)
    below = np.min([nearest[labels.camera, y + k, x] for k in range(1, steps + 1)], axis=0)
    surface = np.maximum(above, below)
    return labels.depth_m > surface * (1 + margin) + 0.5
