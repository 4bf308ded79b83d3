"""What a bag holds, found in one pass over it and kept: every message's stamps and place, all poses, all calibrations.

The index lies beside the bag, or in the cache folder where the bag cannot be written, and is made anew when a file of
the bag has another size or date. With it any message is read without looking at another. No rclpy.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gsrender_core.whole_file import write_whole
from gsrender_ros.bag_messages import TYPESTORE
from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import BagFile, Channel, Record, storage_files
from gsrender_ros.cache_folder import cache_folder
from gsrender_ros.clouds import is_labelled
from gsrender_ros.mcap_file import McapFile
from gsrender_ros.ros1_file import Ros1File
from gsrender_ros.sqlite_file import SqliteFile

logger = logging.getLogger(__name__)

VERSION = 2
_COLUMNS = ("log_ns", "stamp_ns", "place", "sequence", "frame", "labelled")
INDEX_NAME = ".gsrender-index.npz"
KINDS = {".mcap": McapFile, ".db3": SqliteFile, ".bag": Ros1File}
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


class BagMessages:
    """Messages of an indexed bag by their number; opens the bag's files when they are first needed.

    Can be pickled; the copy opens files of its own.
    """

    def __init__(self, index: BagIndex):
        self.index = index
        self._open: dict[int, BagFile] = {}

    def __getstate__(self):
        return {"index": self.index, "_open": {}}

    def read(self, topic: TopicIndex, number: int):
        """Message ``number`` of a topic, as ``rosbags`` represents it.

        Raises:
            BagError: it cannot be read any more, or is no message of its type.
        """
        file, *position = (int(v) for v in topic.place[number])
        if file not in self._open:
            self._open[file] = open_file(self.index.files[file])
        data = self._open[file].read((position[0], position[1]), Channel(topic.topic, topic.msgtype))
        return deserialize(data, topic.msgtype)

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open = {}


def open_file(path: Path) -> BagFile:
    """Open one storage file, decompressed where it is compressed as a whole.

    Raises:
        BagError: not readable at all.
    """
    suffix = (path.with_suffix("") if path.suffix == ".zstd" else path).suffix
    if suffix not in KINDS:
        raise BagError(f"{path}: storage {suffix or 'without a suffix'} is unknown; known: {', '.join(KINDS)}")
    try:
        return KINDS[suffix](path)
    except OSError as error:
        raise BagError(f"{path} cannot be read: {first_line(error)}") from error


def deserialize(data: bytes, msgtype: str):
    """A message of its CDR bytes.

    Raises:
        BagError: the bytes are no such message.
    """
    try:
        return TYPESTORE.deserialize_cdr(data, msgtype)
    except Exception as error:  # rosbags lets struct, index, value and unicode errors through
        raise BagError(f"not a readable {msgtype} of {len(data)} bytes: {first_line(error)}") from error


def header_of(data: bytes) -> tuple[int, str, int]:
    """Stamp in ns, frame id without a leading slash, and the offset behind them, of CDR bytes that begin with a Header.

    Raises:
        BagError: too short.
    """
    order = "little" if data[1:2] == b"\x01" else "big"
    length = int.from_bytes(data[12:16], order)
    if len(data) < 16 or 16 + length > len(data):
        raise BagError(f"a message of {len(data)} bytes has no header")
    sec = int.from_bytes(data[4:8], order, signed=True)
    stamp_ns = sec * 1_000_000_000 + int.from_bytes(data[8:12], order)
    return stamp_ns, data[16 : 16 + length].rstrip(b"\0").decode("utf-8", "replace").lstrip("/"), 16 + length


def bag_index(path: str | Path) -> BagIndex:
    """The index of a bag: the kept one where it fits, else made by one pass over the bag and kept.

    Raises:
        BagError: no bag, or nothing in it can be read.
    """
    path = Path(path)
    files, problems = storage_files(path)
    key = _key(files)
    places = _places(path)
    for place in places:
        if place.is_file():
            try:
                return _load(place, path, files, key)
            except (ValueError, KeyError, OSError) as error:
                logger.info("index %s is not used: %s", place, first_line(error))
    logger.info("%s: reading it once to index it", path)
    index = _Scan(path, files, problems).run()
    for place in places:
        try:
            write_whole(place, lambda partial: _save(partial, index, key))
            logger.info("index of %s kept in %s", path, place)
            return index
        except OSError as error:
            logger.debug("index not kept: %s", error)
    logger.warning("the index of %s could not be kept; it will be made again next time", path)
    return index


def _places(path: Path) -> list[Path]:
    beside = path / INDEX_NAME if path.is_dir() else path.with_name(path.name + INDEX_NAME)
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    return [beside, cache_folder() / f"{digest}{INDEX_NAME}"]


def _key(files: list[Path]) -> list:
    return [VERSION, *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]


class _Scan:
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


def _save(path: Path, index: BagIndex, key: list) -> None:
    arrays, topics = {}, []
    for number, topic in enumerate(index.topics.values()):
        topics.append([topic.topic, topic.msgtype, list(topic.frames), topic.size_bytes])
        for name in _COLUMNS:
            arrays[f"topic{number}.{name}"] = getattr(topic, name)
    poses = {"transforms": index.transforms, **{f"odometry {t}": p for t, p in index.odometry.items()}}
    for name, each in poses.items():
        for part in ("link", "log_ns", "stamp_ns", "values"):
            arrays[f"{name}.{part}"] = getattr(each, part)
    infos = {t: [[log_ns, data.hex()] for log_ns, data in each] for t, each in index.infos.items()}
    text = {
        "key": key,
        "topics": topics,
        "links": {name: each.links for name, each in poses.items()},
        "infos": infos,
        "problems": index.problems,
    }
    arrays["text"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    with path.open("wb") as file:  # given a name, NumPy appends .npz to it
        np.savez(file, **arrays)


def _load(place: Path, path: Path, files: list[Path], key: list) -> BagIndex:
    with np.load(place, allow_pickle=False) as stored:
        text = json.loads(stored["text"].tobytes())
        if text["key"] != json.loads(json.dumps(key)):
            raise ValueError("the bag has changed since")
        index = BagIndex(path, files, problems=text["problems"])
        for number, (topic, msgtype, frames, size_bytes) in enumerate(text["topics"]):
            columns = (stored[f"topic{number}.{n}"] for n in _COLUMNS)
            index.topics[topic] = TopicIndex(topic, msgtype, *columns, tuple(frames), size_bytes)

        def poses(name: str) -> Poses:
            links = [(parent, child, static) for parent, child, static in text["links"][name]]
            return Poses(links, *(stored[f"{name}.{part}"] for part in ("link", "log_ns", "stamp_ns", "values")))

        index.transforms = poses("transforms")
        index.odometry = {n.removeprefix("odometry "): poses(n) for n in text["links"] if n.startswith("odometry ")}
    index.infos = {t: [(log_ns, bytes.fromhex(data)) for log_ns, data in each] for t, each in text["infos"].items()}
    return index


def merged(topics: list[TopicIndex]) -> Iterator[tuple[int, int]]:
    """(number of the topic, number of its message) of several topics, in the order in which they were recorded."""
    if not topics:
        return
    log_ns, sequence = (np.concatenate([getattr(t, n) for t in topics]) for n in ("log_ns", "sequence"))
    which = np.repeat(np.arange(len(topics)), [len(t) for t in topics])
    number = np.concatenate([np.arange(len(t)) for t in topics])
    for i in np.lexsort((sequence, log_ns)).tolist():
        yield int(which[i]), int(number[i])
