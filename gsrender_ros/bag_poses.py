"""All transforms of a bag, loaded ahead: one tree for every stretch between jumps, of time or of the odometry."""

import bisect
import dataclasses
from collections import Counter

import numpy as np

from gsrender_core.geometry import quaternion_from_rotation
from gsrender_ros.bag_contents import BagIndex, Poses
from gsrender_ros.bag_sets import runs_of
from gsrender_ros.calibration import RigCalibration
from gsrender_ros.layouts import effective, fixed_frame, mounting_frame
from gsrender_ros.odometry_rules import JumpRule, pose_problem
from gsrender_ros.parameters import Settings
from gsrender_ros.transform_tree import TransformTree


@dataclasses.dataclass
class BagPoses:
    """Poses of a bag.

    Attributes:
        trees: by run: the stamps from which on each tree holds, rising, and the trees. Where the odometry jumped,
            the next one begins: nothing is interpolated across.
        fixed_frame: the frame in which the world stands still.
        refused: transforms that were refused, by reason.
        jumps: of the odometry, in words.
    """

    trees: list[tuple[list[int], list[TransformTree]]]
    fixed_frame: str
    refused: Counter
    jumps: list[str] = dataclasses.field(default_factory=list)

    def stretch(self, run: int, stamp_ns: int) -> int:
        """Which of the run's stretches between jumps of the odometry a stamp lies in."""
        return bisect.bisect_right(self.trees[run][0], stamp_ns) - 1

    def tree(self, run: int, stamp_ns: int) -> TransformTree:
        """The transforms that hold at a stamp of a run."""
        return self.trees[run][1][self.stretch(run, stamp_ns)]


def bag_poses(index: BagIndex, settings: Settings, jumps_ns: list[int], calibration: RigCalibration | None) -> BagPoses:
    """Load what ``pose_source`` says: /tf, or Odometry besides what is static and the calibration's mountings.

    Raises:
        ValueError: there is no odometry topic of that name.
    """
    trees = [([-(2**62)], [TransformTree()]) for _ in range(len(jumps_ns) + 1)]
    result = BagPoses(trees, fixed_frame(settings).lstrip("/"), Counter())
    use_odometry = effective(settings).pose_source == "odometry"
    assert index.transforms is not None
    _add(result, index.transforms, jumps_ns)
    for camera in calibration.cameras.values() if calibration else ():
        if camera.T_ego_cam is not None:
            w, x, y, z = (float(v) for v in quaternion_from_rotation(camera.T_ego_cam[:3, :3]))
            value = (tuple(float(v) for v in camera.T_ego_cam[:3, 3]), (x, y, z, w))
            for _, (tree,) in trees:
                tree.add((calibration.ego_frame.lstrip("/"), mounting_frame(camera.camera)), 0, value, static=True)
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
        _add_odometry(result, dataclasses.replace(poses, links=links), jumps_ns, settings.tf_max_speed_mps)
        if not settings.fixed_frame:
            result.fixed_frame = poses.links[0][0]
    return result


def _add_odometry(result: BagPoses, poses: Poses, jumps_ns: list[int], max_speed_mps: float) -> None:
    """Add odometry by the node's rule, in the order in which it was recorded; a jump begins another tree."""
    runs = runs_of(poses.log_ns, poses.stamp_ns, jumps_ns)
    rule, before = JumpRule(max_speed_mps), 0
    rows = zip(poses.link.tolist(), runs.tolist(), poses.stamp_ns.tolist(), poses.values.tolist(), strict=True)
    for link, run, stamp_ns, values in rows:
        parent, child, _ = poses.links[link]
        position, quaternion = tuple(values[:3]), tuple(values[3:])
        problem = pose_problem(parent, stamp_ns, np.array(position), quaternion)
        if problem:
            result.refused[f"odometry {parent} -> {child}: {problem.split(':')[0]}"] += 1
            continue
        if run != before:
            rule.clear()
            before = run
        jump = rule(stamp_ns, np.array(position))
        starts, trees = result.trees[run]
        if jump and stamp_ns > starts[-1]:
            result.jumps.append(f"{jump} at {stamp_ns / 1e9:.3f}")
            starts.append(stamp_ns)
            trees.append(trees[-1].apart_from(child))
        result.tree(run, stamp_ns).add((parent, child), stamp_ns, (position, quaternion))


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
            for _, (tree,) in result.trees if static else [result.trees[run]]:
                tree.add((parent, child), stamp_ns, value, static)
