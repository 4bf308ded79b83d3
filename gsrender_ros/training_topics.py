"""Subscriptions that only a trainer has: LiDARs, and label images where classes come from images."""

from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from gsrender_core.bag_config import BagConfig
from gsrender_ros.bag_rig import likely_lidars
from gsrender_ros.clouds import is_labelled
from gsrender_ros.image_conversions import set_stamp, stamp_to_ns
from gsrender_ros.parameters import Settings
from gsrender_ros.stamped_messages import StampedMessages

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
# Reliable and deep: a replay's messages are to be learnt from, all of them.
DEPTH = 20


class TrainingTopics:
    """Fills streams of stamped messages.

    Args:
        node: owns the subscriptions.
        settings: of stamps and cameras.
        config: names the topics.

    Attributes:
        sweeps: one stream a LiDAR; empty until one is known.
        label_images: one a camera; empty where the configuration names no such topics.
    """

    def __init__(self, node, settings: Settings, config: BagConfig):
        self._node, self._settings, self._config = node, settings, config
        self.sweeps: list[StampedMessages] = []
        topic = config.semantic_topic
        kind = CompressedImage if topic.endswith("compressed") else Image
        names = [topic.replace("{camera}", camera) for camera in settings.cameras] if topic else []
        self.label_images = [self._subscribe(kind, name) for name in names]
        self._use(config.lidar_topics)

    def look_for_lidars(self) -> None:
        """Where the configuration names no LiDAR: take those among the topics that look like one."""
        if self.sweeps:
            return
        node = self._node
        own = node.resolve_topic_name("~/occupancy")
        clouds = [name for name, kinds in node.get_topic_names_and_types() if CLOUD_TYPE in kinds and name != own]
        found = likely_lidars(clouds)
        if found:
            self._use(found)
            node.get_logger().info(f"LiDAR: {', '.join(found)} (bag.lidar_topics names none)")

    def _use(self, topics: tuple[str, ...]) -> None:
        # In place: whoever makes the frames holds the list.
        offset_s = self._config.lidar_time_offset_s
        self.sweeps += [self._subscribe(PointCloud2, topic, offset_s, is_labelled) for topic in topics]

    def _subscribe(self, kind: type, topic: str, offset_s: float = 0.0, mark=lambda _: None) -> StampedMessages:
        stream, offset_ns, source = StampedMessages(topic, mark), round(offset_s * 1e9), self._settings.stamp_source

        def take(message) -> None:
            stamp_ns = stamp_to_ns(message.header.stamp)
            if source == "receive" or (source == "auto" and stamp_ns == 0):
                stamp_ns = self._node.get_clock().now().nanoseconds
                set_stamp(message.header.stamp, stamp_ns)
            stream.add(stamp_ns + offset_ns, message)

        self._node.create_subscription(kind, topic, take, DEPTH)
        return stream
