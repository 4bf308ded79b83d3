"""One pass over all messages of a bag, which makes its index. No rclpy."""

from pathlib import Path

import numpy as np

from gsrender_ros.bag_access import deserialize, header_of, open_file
from gsrender_ros.bag_contents import CLOUD_TYPE, HEADED, INFO_TYPE, ODOMETRY_TYPE, TF_TYPE, BagIndex, Poses, TopicIndex
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_storage import BagFile, Record
from gsrender_ros.clouds import is_labelled


class Scan:
    """One pass over all messages of a bag."""

    def __init__(self, path: Path, files: list[Path], problems: list[str]):
        self.index = BagIndex(path, files, problems=list(problems))
        self._rows: dict[str, list] = {}
        self._types: dict[str, str] = {}
        self._frames: dict[str, dict[str, int]] = {}
        self._bytes: dict[str, int] = {}
        self._info_digests: dict[str, int] = {}
        self._transforms, self._odometry = _PoseRows(), {}
        self._broken: dict[tuple[str, str], int] = {}
        self._sequence = 0

    def run(self) -> BagIndex:
        """Read every file.

        Raises:
            BagError: not one message can be read.
        """
        for number, path in enumerate(self.index.files):
            try:
                file = open_file(path)
            except BagError as error:
                self.index.problems.append(str(error))
                continue
            for record in file.records():
                self._take(number, file, record)
            self.index.problems += [text if path.name in text else f"{path.name}: {text}" for text in file.problems]
            file.close()
        for (topic, reason), count in self._broken.items():
            self.index.problems.append(f"{topic}: {count} messages are not readable, first: {reason}")
        if not self._rows:
            raise BagError(f"{self.index.path} holds no readable message: {'; '.join(self.index.problems) or 'empty'}")
        for topic, rows in self._rows.items():
            self.index.topics[topic] = self._topic(topic, np.array(rows, np.int64))
        self.index.transforms = self._transforms.poses()
        self.index.odometry = {topic: rows.poses() for topic, rows in self._odometry.items()}
        return self.index

    def _topic(self, topic: str, rows: np.ndarray) -> TopicIndex:
        rows = rows[np.lexsort((rows[:, 5], rows[:, 0]))]
        frames = tuple(self._frames.get(topic, {"": 0}))
        columns = (rows[:, 0], rows[:, 1], rows[:, 2:5], rows[:, 5], rows[:, 6], rows[:, 7])
        return TopicIndex(topic, self._types[topic], *map(np.ascontiguousarray, columns), frames, self._bytes[topic])

    def _take(self, number: int, file: BagFile, record: Record) -> None:
        channel = file.channels.get(record.channel)
        if channel is None:
            self._spoil("a channel without description", "")
            return
        topic, msgtype = "/" + channel.topic.lstrip("/"), channel.msgtype
        if self._types.setdefault(topic, msgtype) != msgtype:
            self._spoil(topic, f"type {msgtype} besides {self._types[topic]}")
            return
        stamp_ns, frame, labelled = record.log_ns, 0, -1
        try:
            if msgtype in HEADED:
                stamp_ns, frame_id, offset = header_of(record.data)
                known = self._frames.setdefault(topic, {})
                frame = known.setdefault(frame_id, len(known))
                if msgtype == INFO_TYPE:
                    self._info(topic, record, offset)
                elif msgtype == CLOUD_TYPE:
                    labelled = is_labelled(deserialize(record.data, msgtype))
                elif msgtype == ODOMETRY_TYPE:
                    self._take_odometry(topic, record)
            elif msgtype == TF_TYPE:
                static = topic.endswith("tf_static")
                for transform in deserialize(record.data, msgtype).transforms:
                    self._transforms.add(
                        transform, transform.child_frame_id, transform.transform, record.log_ns, static
                    )
        except BagError as error:
            self._spoil(topic, str(error))
            return
        self._rows.setdefault(topic, []).append(
            (record.log_ns, stamp_ns, number, *record.position, self._sequence, frame, labelled)
        )
        self._bytes[topic] = self._bytes.get(topic, 0) + len(record.data)
        self._sequence += 1

    def _spoil(self, topic: str, reason: str) -> None:
        self._broken[topic, reason] = self._broken.get((topic, reason), 0) + 1

    def _info(self, topic: str, record: Record, offset: int) -> None:
        digest = hash(record.data[offset:])
        if self._info_digests.get(topic) != digest:
            self._info_digests[topic] = digest
            self.index.infos.setdefault(topic, []).append((record.log_ns, bytes(record.data)))

    def _take_odometry(self, topic: str, record: Record) -> None:
        message = deserialize(record.data, ODOMETRY_TYPE)
        rows = self._odometry.setdefault(topic, _PoseRows())
        pose = message.pose.pose
        rows.add_values(
            (message.header.frame_id, message.child_frame_id, False), record.log_ns, message.header.stamp,
            (pose.position, pose.orientation),
        )  # fmt: skip


class _PoseRows:
    """Collects transforms."""

    def __init__(self):
        self._links: dict[tuple[str, str, bool], int] = {}
        self._rows: list[tuple] = []
        self._values: list[tuple] = []

    def add(self, message, child: str, transform, log_ns: int, static: bool) -> None:
        """Add a TransformStamped."""
        parts = (transform.translation, transform.rotation)
        self.add_values((message.header.frame_id, child, static), log_ns, message.header.stamp, parts)

    def add_values(self, link: tuple[str, str, bool], log_ns: int, stamp, parts: tuple) -> None:
        """Add a pose of (parent, child, static?)."""
        link = (link[0].lstrip("/"), link[1].lstrip("/"), link[2])
        number = self._links.setdefault(link, len(self._links))
        self._rows.append((number, log_ns, stamp.sec * 1_000_000_000 + stamp.nanosec))
        p, q = parts
        self._values.append((p.x, p.y, p.z, q.x, q.y, q.z, q.w))

    def poses(self) -> Poses:
        """All of them in the order of their log times."""
        rows = np.array(self._rows, np.int64).reshape(-1, 3)
        order = np.argsort(rows[:, 1], kind="stable")
        values = np.array(self._values, np.float64).reshape(-1, 7)[order]
        link, log_ns, stamp_ns = (np.ascontiguousarray(column) for column in rows[order].T)
        return Poses(list(self._links), link, log_ns, stamp_ns, values)
