"""What is known of a bag without looking at an image or a cloud. No rclpy."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO_TYPE, CLOUD_TYPE = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2"
TF_TYPE, ODOMETRY_TYPE = "tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry"
# Messages that begin with a std_msgs/Header.
HEADED = (*IMAGE_TYPES, INFO_TYPE, CLOUD_TYPE, ODOMETRY_TYPE)


@dataclass
class TopicIndex:
    """The N messages of a topic in the order of their log times.

    Attributes:
        msgtype: as "sensor_msgs/msg/Image".
        log_ns: int64 [N], when they were recorded.
        stamp_ns: int64 [N], header stamps; the log times where the type has no header.
        place: int64 [N, 3], storage file and position in it.
        sequence: int64 [N], running number in the bag: orders messages of one log time.
        frame: int64 [N], which of ``frames`` the header names.
        labelled: int64 [N], of a cloud with a field ``label``: 1 where it holds a class, 0 where all are unknown (255);
            -1 of everything else.
        frames: frame ids that occur.
        size_bytes: of all messages together.
    """

    topic: str
    msgtype: str
    log_ns: np.ndarray
    stamp_ns: np.ndarray
    place: np.ndarray
    sequence: np.ndarray
    frame: np.ndarray
    labelled: np.ndarray
    frames: tuple[str, ...]
    size_bytes: int

    def __len__(self) -> int:
        return len(self.log_ns)


@dataclass
class Poses:
    """N transforms: ``link`` int64 [N] of ``links`` (parent, child, static?), ``log_ns``, ``stamp_ns`` int64 [N], and
    ``values`` float64 [N, 7], translation m and quaternion xyzw."""

    links: list[tuple[str, str, bool]]
    link: np.ndarray
    log_ns: np.ndarray
    stamp_ns: np.ndarray
    values: np.ndarray


@dataclass
class BagIndex:
    """Everything that is known of a bag without looking at an image or a cloud.

    Attributes:
        path: the bag.
        files: its storage files.
        topics: by name.
        transforms: of all TFMessages.
        odometry: of every Odometry topic.
        infos: CameraInfo topics with (log time, CDR bytes) of the first message and of every change.
        problems: what could not be read.
    """

    path: Path
    files: list[Path]
    topics: dict[str, TopicIndex] = field(default_factory=dict)
    transforms: Poses | None = None
    odometry: dict[str, Poses] = field(default_factory=dict)
    infos: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The bag's name without suffix."""
        return self.path.name.removesuffix(self.path.suffix) if self.path.is_file() else self.path.resolve().name

    def topics_of(self, *msgtypes: str) -> list[TopicIndex]:
        """Topics of these types, by name."""
        return [t for _, t in sorted(self.topics.items()) if t.msgtype in msgtypes]


def merged(topics: list[TopicIndex]) -> Iterator[tuple[int, int]]:
    """(number of the topic, number of its message) of several topics, in the order in which they were recorded."""
    if not topics:
        return
    log_ns, sequence = (np.concatenate([getattr(t, n) for t in topics]) for n in ("log_ns", "sequence"))
    which = np.repeat(np.arange(len(topics)), [len(t) for t in topics])
    number = np.concatenate([np.arange(len(t)) for t in topics])
    for i in np.lexsort((sequence, log_ns)).tolist():
        yield int(which[i]), int(number[i])
