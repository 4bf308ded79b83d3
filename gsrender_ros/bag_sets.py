"""Complete sets of images of a bag, as the node's synchroniser makes them of the same messages."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from gsrender_ros.bag_contents import IMAGE_TYPES, BagIndex, TopicIndex, merged
from gsrender_ros.layouts import CameraNames
from gsrender_ros.parameters import Settings
from gsrender_ros.stamp_matching import StampMatcher

# As gsrender_ros.camera_sync: further back than this, time itself went back.
BACKWARD_JUMP_NS = 200_000_000
# How far from the images' own jump another stream's may be recorded.
JUMP_WINDOW_NS = 2_000_000_000


@dataclass(frozen=True)
class BagSet:
    """One image of every camera by its number in its topic, and their stamps; ``run`` counts backward jumps before."""

    numbers: tuple[int, ...]
    stamps_ns: tuple[int, ...]
    run: int


@dataclass
class BagSets:
    """All sets of a bag in order; ``dropped`` counts images of the reference camera that found none, by reason.

    ``jumps_ns``: log times at which the images' stamps jumped back.
    """

    sets: list[BagSet]
    dropped: Counter
    jumps_ns: list[int]


def image_topics(index: BagIndex, names: tuple[CameraNames, ...]) -> list[TopicIndex]:
    """The image topic of every camera, in whichever transport the bag has it.

    Raises:
        ValueError: some are missing; the text names them.
    """
    found, missing = [], []
    for camera in names:
        candidates = ["/" + topic.lstrip("/") for topic in (camera.image_topic, camera.other_image_topic) if topic]
        there = [index.topics[t] for t in candidates if t in index.topics and index.topics[t].msgtype in IMAGE_TYPES]
        found += there[:1]
        missing += [] if there else [" or ".join(dict.fromkeys(candidates))]
    if missing:
        raise ValueError(
            f"{index.path} has no images on {', '.join(missing)}; `gsrender inspect {index.path}` shows what it has"
        )
    return found


def stamps_of(topic: TopicIndex, source: str) -> np.ndarray:
    """Stamps in ns as the parameter ``stamp_source`` says; the log time is when a message arrived."""
    if source == "receive":
        return topic.log_ns
    return np.where(topic.stamp_ns == 0, topic.log_ns, topic.stamp_ns) if source == "auto" else topic.stamp_ns


def image_sets(topics: list[TopicIndex], settings: Settings) -> BagSets:
    """Match the images of all cameras (``image_topics``) in the order in which they were recorded."""
    stamps = [stamps_of(topic, settings.stamp_source) for topic in topics]
    reference = settings.cameras.index(settings.reference_camera)
    slop_ns = int(settings.sync_slop_s * 1e9)
    result = BagSets([], Counter(), [])
    latest: list[int | None] = [None] * len(topics)
    matcher = StampMatcher(len(topics), settings.sync_queue_size, slop_ns)
    behind: set[int] = set()  # cameras that have not shown the new time since a jump
    divide_ns = matched = seen = 0
    for camera, number in merged(topics):
        stamp_ns = int(stamps[camera][number])
        seen += camera == reference
        if stamp_ns == 0:
            result.dropped["zero_stamp"] += camera == reference
            continue
        if camera in behind:
            if stamp_ns > divide_ns:
                result.dropped["reset"] += camera == reference
                continue
            behind.discard(camera)
            latest[camera] = None
        if (before := latest[camera]) is not None and stamp_ns < before - BACKWARD_JUMP_NS:
            result.jumps_ns.append(int(topics[camera].log_ns[number]))
            divide_ns = (max(at for at in latest if at is not None) + stamp_ns) // 2
            behind = set(range(len(topics))) - {camera}
            matcher = StampMatcher(len(topics), settings.sync_queue_size, slop_ns)
        latest[camera] = stamp_ns
        found = matcher.add(camera, stamp_ns, (number, stamp_ns))
        if found is not None:
            matched += 1
            numbers, at = zip(*found, strict=True)
            result.sets.append(BagSet(numbers, at, len(result.jumps_ns)))
    unmatched = seen - matched - sum(result.dropped.values())
    if unmatched:
        result.dropped["spread"] += unmatched
    result.dropped = +result.dropped
    return result


def runs_of(log_ns: np.ndarray, stamp_ns: np.ndarray, jumps_ns: list[int]) -> np.ndarray:
    """Which run (0 before the first jump of the images, ...) each message of another stream belongs to, int64 [N].

    A stream's own jump near the images' divides it; where it has none, the moment of the images' does.
    """
    runs = np.zeros(len(log_ns), np.int64)
    own = np.flatnonzero(np.diff(stamp_ns) < -BACKWARD_JUMP_NS) + 1
    for jump_ns in jumps_ns:
        apart_ns = np.abs(log_ns[own] - jump_ns)
        if len(own) and apart_ns.min() <= JUMP_WINDOW_NS:
            divide = int(own[apart_ns.argmin()])
        else:
            divide = int(np.searchsorted(log_ns, jump_ns))
        runs[divide:] += 1
    return runs
