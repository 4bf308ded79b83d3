"""What a bag's LiDARs are like: layout of their clouds, and how high above the ground they stand. No rclpy."""

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_ros.bag_access import BagMessages
from gsrender_ros.bag_contents import BagIndex
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_recording import BagRecording
from gsrender_ros.clouds import TIME_FIELDS, CloudError, read_cloud
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.sweeps import SweepPoints, sweep_points

# Of the returns around a LiDAR a tenth lie on the ground or below: few enough where walls stand, more than stray ones.
GROUND_NEAR_M, GROUND_FAR_M, GROUND_PERCENTILE, FEWEST_RETURNS = 3.0, 20.0, 10, 100
# No LiDAR of a vehicle stands lower; one that seems to is not where its cloud's frame is.
LOWEST_M = 0.3


def lidar_facts(index: BagIndex, config: BagConfig, topic: str) -> dict:
    """Facts on a LiDAR from its first readable cloud; ``problem`` where there is none."""
    entry, facts = index.topics[topic], {"topic": topic, "messages": len(index.topics[topic])}
    try:
        message = BagMessages(index).read(entry, 0)
        cloud = read_cloud(message, config.point_times)
    except (BagError, CloudError) as error:
        return facts | {"problem": str(error)}
    times = None if cloud.times_ns is None else cloud.times_ns - cloud.stamp_ns
    return facts | {
        "frame": cloud.frame,
        "points": len(cloud.points),
        "not_finite": cloud.dropped,
        "organised": bool(message.height > 1),
        "fields": [field.name for field in message.fields],
        "time_field": next((n for n in TIME_FIELDS if n in cloud.fields), None),
        "sweep_s": None if times is None else [float(times.min() / 1e9), float(times.max() / 1e9)],
        "sweeps_with_classes": int((entry.labelled == 1).sum()),
    }


def lidar_places(recording: BagRecording) -> list[dict]:
    """Where each LiDAR stands, by its sweep of the first keyframe.

    Returns:
        for every LiDAR ``origin_m`` (where its rays begin, ego frame) and ``height_m`` as ``height_above_ground_m``;
        nothing of one whose sweep cannot be read.
    """
    config, keyframe, places = recording.config, recording.keyframes[0], []
    offset_ns = round(config.lidar_time_offset_s * 1e9)
    origins_m = config.lidar_origins_m or [(0.0, 0.0, 0.0)] * len(recording.lidars)
    try:
        moment, clouds = recording.moment(keyframe), recording.clouds(keyframe)
        for cloud, origin_m in zip(clouds, origins_m, strict=True):
            points = sweep_points([cloud], moment.transforms, moment.reference, offset_ns, [origin_m])
            origin = [float(v) for v in np.median(points.origins_ego, axis=0)]
            places.append({"origin_m": origin, "height_m": height_above_ground_m(points)})
    except (BagError, CloudError, FrameDropped):
        return [{} for _ in recording.lidars]
    return places


def height_above_ground_m(points: SweepPoints) -> float | None:
    """How far a LiDAR stands above the ground around it, m; None where too few returns lie 3 to 20 m away to tell."""
    away_m = np.linalg.norm((points.points_ego - points.origins_ego)[:, :2], axis=1)
    near = (away_m > GROUND_NEAR_M) & (away_m < GROUND_FAR_M)
    if near.sum() < FEWEST_RETURNS:
        return None
    ground_m = np.percentile(points.points_ego[near, 2], GROUND_PERCENTILE)
    return float(np.median(points.origins_ego[:, 2]) - ground_m)


def height_problem(lidar: dict) -> str:
    """What is wrong where a LiDAR seems to stand on the ground, and what follows; empty where nothing is."""
    height_m = lidar.get("height_m")
    if height_m is None or height_m >= LOWEST_M:
        return ""
    origin = ", ".join(f"{value:.2f}" for value in lidar["origin_m"])
    return (
        f"{lidar['topic']}: the origin of its frame {lidar['frame']!r} lies {height_m:.2f} m above the ground around "
        f"it (at {origin} m in the ego frame), lower than {LOWEST_M:g} m: no LiDAR stands there, its clouds are "
        "probably given in the vehicle's frame. What is learnt along camera rays is right all the same; rays from "
        "there run through the road, so evaluation by LiDAR rays, and the threshold and best checkpoint that it "
        "chooses, mean nothing. Give the LiDAR's true place in that frame in bag.lidar_origins_m"
    )
