"""All transforms of a bag, loaded ahead: one tree for every stretch between backward jumps of time."""

import dataclasses
from collections import Counter

import numpy as np

from gsrender_core.geometry import quaternion_from_rotation
from gsrender_ros.bag_index import BagIndex, Poses
from gsrender_ros.bag_sets import runs_of
from gsrender_ros.calibration import RigCalibration
from gsrender_ros.layouts import effective, fixed_frame, mounting_frame
from gsrender_ros.parameters import Settings
from gsrender_ros.transform_tree import TransformTree


@dataclasses.dataclass
class BagPoses:
    """Trees by run, the frame in which the world stands still, and transforms that were refused, by reason."""

    trees: list[TransformTree]
    fixed_frame: str
    refused: Counter


def bag_poses(index: BagIndex, settings: Settings, jumps_ns: list[int], calibration: RigCalibration | None) -> BagPoses:
    """Load what ``pose_source`` says: /tf, or Odometry besides what is static and the calibration's mountings.

    Raises:
        ValueError: there is no odometry topic of that name.
    """
    trees = [TransformTree() for _ in range(len(jumps_ns) + 1)]
    result = BagPoses(trees, fixed_frame(settings).lstrip("/"), Counter())
    use_odometry = effective(settings).pose_source == "odometry"
    assert index.transforms is not None
    _add(result, index.transforms, jumps_ns)
    if use_odometry:
        topic = "/" + effective(settings).odometry_topic.lstrip("/")
        if topic not in index.odometry:
            raise ValueError(
                f"{index.path} has no odometry on {topic} (topics.odometry); it has "
                f"{', '.join(index.odometry) or 'none at all'}"
            )
        poses = index.odometry[topic]
        ego = settings.ego_frame.lstrip("/")  # some publishers leave the child frame empty
        links = [(parent, child or ego, static) for parent, child, static in poses.links]
        _add(result, dataclasses.replace(poses, links=links), jumps_ns)
        if not settings.fixed_frame:
            result.fixed_frame = poses.links[0][0]
    for camera in calibration.cameras.values() if calibration else ():
        if camera.T_ego_cam is not None:
            w, x, y, z = (float(v) for v in quaternion_from_rotation(camera.T_ego_cam[:3, :3]))
            value = (tuple(float(v) for v in camera.T_ego_cam[:3, 3]), (x, y, z, w))
            for tree in trees:
                tree.add((calibration.ego_frame.lstrip("/"), mounting_frame(camera.camera)), 0, value, static=True)
    return result


def _add(result: BagPoses, poses: Poses, jumps_ns: list[int]) -> None:
    for number, (parent, child, static) in enumerate(poses.links):
        rows = np.flatnonzero(poses.link == number)
        stamps = poses.stamp_ns[rows]
        runs = runs_of(poses.log_ns[rows], stamps, jumps_ns)
        for stamp_ns, run, values in zip(stamps.tolist(), runs.tolist(), poses.values[rows].tolist(), strict=True):
            value = (tuple(values[:3]), tuple(values[3:]))
            problem = TransformTree.problem(parent, child, *value)
            if problem:
                result.refused[f"{parent} -> {child}: {problem.split(' has norm')[0]}"] += 1
                continue
            for tree in result.trees if static else [result.trees[run]]:
                tree.add((parent, child), stamp_ns, value, static)
