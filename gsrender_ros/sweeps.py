"""LiDAR points in the ego frame of a frame's reference stamp: every point where it was when it was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gsrender_core.geometry import apply
from gsrender_ros.clouds import Cloud
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.transform_history import TransformException
from gsrender_ros.transform_tree import TransformTree

# Poses of a sweep are looked up once in so long and held in between: 20 mm at 20 m/s.
POSE_STEP_NS = 1_000_000


@dataclass(frozen=True)
class SweepPoints:
    """Points of one or several LiDARs.

    Attributes:
        points_ego: float64 [N, 3], m, ego frame at the reference stamp.
        origins_ego: float64 [N, 3], where the LiDAR stood when it measured each.
        fields: the clouds' scalar fields [N] that all of them have.
    """

    points_ego: np.ndarray
    origins_ego: np.ndarray
    fields: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.points_ego)

    def select(self, index: np.ndarray) -> "SweepPoints":
        """The points at an index or mask [N]."""
        fields = {name: values[index] for name, values in self.fields.items()}
        return SweepPoints(self.points_ego[index], self.origins_ego[index], fields)


@dataclass(frozen=True)
class Reference:
    """What points are brought to: the ego frame at a stamp, through a frame that stands still."""

    ego_frame: str
    fixed_frame: str
    stamp_ns: int


def transform_between(transforms: TransformTree, reference: Reference, frame: str, stamp_ns: int) -> np.ndarray:
    """``T_ego_frame`` float64 [4, 4]: from a frame as it stood at its stamp to the reference.

    Raises:
        FrameDropped: reason no_tf; names the frames, the stamp and the frames that exist.
    """
    try:
        target = (reference.ego_frame, reference.stamp_ns)
        return transforms.look_up_full(target, (frame, stamp_ns), reference.fixed_frame)
    except TransformException as error:
        known = ", ".join(transforms.frames()) or "none"
        raise FrameDropped(
            "no_tf",
            f"No transform {reference.ego_frame} <- {frame} at {stamp_ns / 1e9:.3f} (through {reference.fixed_frame}): "
            f"{str(error).strip()} Known: {known}.",
        ) from error


def sweep_points(
    clouds: Sequence[Cloud],
    transforms: TransformTree,
    reference: Reference,
    offset_ns: int = 0,
    origins_m: Sequence[tuple[float, float, float]] = (),
) -> SweepPoints:
    """Bring the points of clouds to the reference, each from the moment at which it was measured.

    A cloud without times of its points is taken as measured at its stamp, all of it.

    Args:
        clouds: of every LiDAR.
        transforms: reaching from the earliest to the latest point.
        reference: what the points are brought to.
        offset_ns: added to all stamps.
        origins_m: where each cloud's LiDAR stands in the cloud's frame; empty: in its origin.

    Raises:
        FrameDropped: reason no_tf.
    """
    parts, origins = [], []
    for cloud, origin_m in zip(clouds, origins_m or [(0.0, 0.0, 0.0)] * len(clouds), strict=True):
        times = np.full(1, cloud.stamp_ns) if cloud.times_ns is None else cloud.times_ns
        steps, which = np.unique(np.round((times + offset_ns) / POSE_STEP_NS).astype(np.int64), return_inverse=True)
        if cloud.times_ns is None:
            steps = times + offset_ns  # exactly its stamp, where perhaps alone there is a pose
        else:
            steps = steps * POSE_STEP_NS
        poses = np.stack([transform_between(transforms, reference, cloud.frame, int(at)) for at in steps])
        if len(poses) == 1:
            parts.append(apply(poses[0], cloud.points))
            origins.append(np.broadcast_to(apply(poses[0], np.array([origin_m])), cloud.points.shape))
            continue
        T = poses[which.reshape(-1)]
        parts.append(np.einsum("nij,nj->ni", T[:, :3, :3], cloud.points) + T[:, :3, 3])
        origins.append(T[:, :3, :3] @ np.array(origin_m) + T[:, :3, 3])
    common = set.intersection(*(set(cloud.fields) for cloud in clouds))
    fields = {name: np.concatenate([cloud.fields[name] for cloud in clouds]) for name in sorted(common)}
    return SweepPoints(np.concatenate(parts), np.concatenate(origins), fields)
