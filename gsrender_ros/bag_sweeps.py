"""The sweeps of a bag's LiDARs: which belong to a moment. No rclpy."""

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_ros.bag_contents import CLOUD_TYPE, BagIndex, TopicIndex
from gsrender_ros.bag_rig import guess_lidars
from gsrender_ros.bag_sets import runs_of, stamps_of
from gsrender_ros.statistics import FrameDropped


class BagSweeps:
    """Sweeps of every LiDAR by run (stretch without a backward jump of time) and stamp.

    Args:
        index: of the bag.
        config: names the LiDARs, says what is near enough and whether classes are wanted.
        stamp_source: the node's parameter of that name.
        jumps_ns: log times at which the images' stamps jumped back.

    Attributes:
        topics: of the LiDARs.

    Raises:
        ValueError: no such topics, or none that is surely a LiDAR's.
    """

    def __init__(self, index: BagIndex, config: BagConfig, stamp_source: str, jumps_ns: list[int]):
        self._config, self._stamp_source = config, stamp_source
        self.topics = _lidar_topics(index, config)
        self._sweeps = [self._by_run(topic, jumps_ns) for topic in self.topics]

    def at(self, stamp_ns: int, run: int) -> tuple[tuple[int, ...], int]:
        """The number of the nearest sweep of every LiDAR, and the stamp of the first LiDAR's.

        Where only some sweeps carry classes, the nearest of those: a recording of annotated keyframes has many between.

        Raises:
            FrameDropped: reason no_lidar or no_labels.
        """
        numbers, stamps = [], []
        slop_ns = self._config.lidar_slop_s * 1e9
        for topic, by_run in zip(self.topics, self._sweeps, strict=True):
            at, which = by_run[run]
            near = np.flatnonzero(np.abs(at - stamp_ns) <= slop_ns)
            if len(near) == 0:
                raise FrameDropped(
                    "no_lidar",
                    f"no sweep on {topic.topic} within bag.lidar_slop_s={self._config.lidar_slop_s:g} of "
                    f"{stamp_ns / 1e9:.3f}",
                )
            if self._wants_labels(topic):
                near = near[topic.labelled[which[near]] == 1]
                if len(near) == 0:
                    raise FrameDropped("no_labels", f"no sweep with classes on {topic.topic} near {stamp_ns / 1e9:.3f}")
            nearest = near[np.abs(at[near] - stamp_ns).argmin()]
            numbers.append(int(which[nearest]))
            stamps.append(int(at[nearest]))
        return tuple(numbers), stamps[0]

    def frame_and_stamp(self, topic: TopicIndex, number: int) -> tuple[str, int]:
        """The frame that a sweep's header names, and its stamp in ns, ``lidar_time_offset_s`` left out."""
        return topic.frames[topic.frame[number]], int(stamps_of(topic, self._stamp_source)[number])

    def _by_run(self, topic: TopicIndex, jumps_ns: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Stamps in rising order and the numbers that belong to them, for every run."""
        stamps = stamps_of(topic, self._stamp_source) + round(self._config.lidar_time_offset_s * 1e9)
        runs = runs_of(topic.log_ns, topic.stamp_ns, jumps_ns)
        result = []
        for run in range(len(jumps_ns) + 1):
            numbers = np.flatnonzero(runs == run)
            numbers = numbers[np.argsort(stamps[numbers], kind="stable")]
            result.append((stamps[numbers], numbers))
        return result

    def _wants_labels(self, topic: TopicIndex) -> bool:
        """Whether a topic mixes sweeps with classes and without, and the classes are wanted."""
        wanted = self._config.supervision in ("auto", "field") and self._config.label_field == "label"
        return wanted and bool((topic.labelled == 1).any()) and bool((topic.labelled == 0).any())


def _lidar_topics(index: BagIndex, config: BagConfig) -> list[TopicIndex]:
    wanted = ["/" + t.lstrip("/") for t in config.lidar_topics] or guess_lidars(index)
    clouds = [t.topic for t in index.topics_of(CLOUD_TYPE)]
    missing = [topic for topic in wanted if topic not in clouds]
    if missing or not wanted:
        what = f"no PointCloud2 on {', '.join(missing)}" if missing else "no topic that is surely a LiDAR's"
        raise ValueError(
            f"{index.path} has {what}; its PointCloud2 topics: {', '.join(clouds) or 'none'}. Training needs "
            "a LiDAR: name its topics in bag.lidar_topics"
        )
    return [index.topics[topic] for topic in wanted]
