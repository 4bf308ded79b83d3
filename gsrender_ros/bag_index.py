"""The index of a bag, made in one pass over it and kept: every message's stamps and place, all poses and calibrations.

The index lies beside the bag, or in the cache folder where the bag cannot be written, and is made anew when a file of
the bag has another size or date. With it any message is read without looking at another. No rclpy.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np

from gsrender_core.cache_folder import cache_folder
from gsrender_core.whole_file import write_whole
from gsrender_ros.bag_contents import BagIndex, Poses, TopicIndex
from gsrender_ros.bag_reading import first_line
from gsrender_ros.bag_scan import Scan
from gsrender_ros.bag_storage import storage_files

logger = logging.getLogger(__name__)

VERSION = 2
INDEX_NAME = ".gsrender-index.npz"
_COLUMNS = ("log_ns", "stamp_ns", "place", "sequence", "frame", "labelled")


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
    index = Scan(path, files, problems).run()
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
