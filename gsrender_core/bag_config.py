"""How recordings become training frames: the ``bag`` section of a training configuration. Knows no ROS."""

import math
from dataclasses import dataclass

from gsrender_core.classes import IGNORE, NUM_CLASSES
from gsrender_core.data.lidar_labels import OWN_VEHICLE_MAX_M, OWN_VEHICLE_MIN_M

SUPERVISION = ("auto", "field", "images", "function", "geometry")
REFERENCES = ("camera", "lidar")
LABEL_IDS = ("occ3d", "lidarseg")
GEOMETRY_CLASSES = ("others", "unknown")


@dataclass(frozen=True)
class BagConfig:
    """What is read from recordings. The cameras, topics and frames of the rig are in ``params_file``."""

    params_file: str = ""  # parameters of occupancy_node that describe the rig; empty: guessed from each bag
    lidar_topics: tuple[str, ...] = ()  # PointCloud2 topics, all of which a frame needs; empty: guessed
    # Where each of lidar_topics stands in the frame of its clouds, m; empty: in that frame's origin. For clouds that
    # are given in the vehicle's frame: their points are right, and rays begin here.
    lidar_origins_m: tuple[tuple[float, float, float], ...] = ()
    lidar_slop_s: float = 0.06  # a sweep belongs to a frame whose reference stamp is at most so far away
    lidar_time_offset_s: float = 0.0  # added to the clouds' stamps, for LiDARs that stamp another end of their sweep
    point_times: str = "auto"  # field with the points' times; auto: t, time, timestamp, ...; none: one moment a sweep
    reference: str = "camera"  # a frame's ego frame and stamp: the reference camera's, as in the node, or the lidar's
    keyframe_interval_s: float = 0.5  # of frames that are trained on, as their adjacent ones are counted
    keyframe_distance_m: float = 0.0  # also travelled since the last one; 0: a standing vehicle gives frames too
    gap_s: float = 2.0  # a longer pause between frames begins another scene
    held_out_share: float = 0.15  # of every recording's frames, at its end: scenes that are validated on
    held_out_margin_s: float = 2.0  # left out before them, where both would see the same places
    supervision: str = "auto"  # field, images, function or geometry; auto: the first that the bag and this offer
    label_field: str = "label"  # of the clouds, with class ids
    label_ids: str = "occ3d"  # what those ids are: occ3d (0..16, others none), or lidarseg (nuScenes' 32)
    semantic_topic: str = ""  # label images with {camera}, class ids as pixels (mono8, 16UC1, png)
    semantic_ids: tuple[tuple[int, int], ...] = ()  # pairs of their id and the class id; empty: they are Occ3D's
    semantic_slop_s: float = 0.01  # a label image belongs to an image whose stamp is at most so far away
    # What points are where nothing tells their class: others, one class for all that is occupied, and what the network
    # then calls it; or unknown, depth alone: a class head begun with (--init) keeps saying what it said.
    geometry_class: str = "others"
    label_function: str = ""  # module:function(points_ego, fields, stamp_ns) -> class ids
    own_vehicle_min_m: tuple[float, float, float] = OWN_VEHICLE_MIN_M  # box in the ego frame whose points are the own
    own_vehicle_max_m: tuple[float, float, float] = OWN_VEHICLE_MAX_M
    max_range_m: float = 120.0  # points farther from the LiDAR are left out

    def __post_init__(self):
        choices = {
            "supervision": SUPERVISION,
            "reference": REFERENCES,
            "label_ids": LABEL_IDS,
            "geometry_class": GEOMETRY_CLASSES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"bag.{name}: {getattr(self, name)!r} is none of {', '.join(known)}")
        for name in ("lidar_slop_s", "keyframe_interval_s", "gap_s", "max_range_m", "semantic_slop_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"bag.{name}: {getattr(self, name)} must be a positive number")
        if not 0 <= self.held_out_share < 1:
            raise ValueError(f"bag.held_out_share: {self.held_out_share} must be a share of the frames, 0 .. below 1")
        if min(self.held_out_margin_s, self.keyframe_distance_m) < 0:
            raise ValueError("bag.held_out_margin_s and bag.keyframe_distance_m must be 0 or more")
        if any(low >= high for low, high in zip(self.own_vehicle_min_m, self.own_vehicle_max_m, strict=True)):
            raise ValueError(f"bag.own_vehicle: {self.own_vehicle_min_m} is not below {self.own_vehicle_max_m}")
        if self.semantic_topic and "{camera}" not in self.semantic_topic:
            raise ValueError(f"bag.semantic_topic: {self.semantic_topic!r} lacks {{camera}}")
        if self.lidar_origins_m and len(self.lidar_origins_m) != len(self.lidar_topics):
            raise ValueError(
                f"bag.lidar_origins_m has {len(self.lidar_origins_m)} places for {len(self.lidar_topics)} "
                "lidar_topics: name the topics, and one place [x, y, z] each"
            )
        if not all(math.isfinite(value) for origin in self.lidar_origins_m for value in origin):
            raise ValueError(f"bag.lidar_origins_m: {self.lidar_origins_m} must be finite")
        for theirs, ours in self.semantic_ids:
            if not 0 <= theirs < 2**16 or not (0 <= ours < NUM_CLASSES or ours == IGNORE):
                raise ValueError(
                    f"bag.semantic_ids: [{theirs}, {ours}] must be [their id 0..65535, class id 0..{NUM_CLASSES - 1} "
                    f"or {IGNORE} for none]"
                )
        if self.supervision == "images" and not self.semantic_topic:
            raise ValueError("bag.supervision is images: name their topics in bag.semantic_topic")
        if self.supervision == "function" and not self.label_function:
            raise ValueError("bag.supervision is function: name it in bag.label_function")
        if self.label_function and self.label_function.count(":") != 1:
            raise ValueError(f"bag.label_function: {self.label_function!r} is not module:function")
