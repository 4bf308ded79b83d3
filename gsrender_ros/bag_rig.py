"""The rig of a bag: ``Settings`` from a parameter file of the node, or guessed from the bag's topics. No rclpy."""

import dataclasses
import re
from collections import Counter, defaultdict
from pathlib import Path

import yaml

from gsrender_ros.bag_contents import CLOUD_TYPE, IMAGE_TYPES, INFO_TYPE, BagIndex, TopicIndex
from gsrender_ros.calibration import CALIBRATION_FILE
from gsrender_ros.layouts import LAYOUTS, camera_names
from gsrender_ros.parameters import Settings, specifications

_SIX = ("front", "front_right", "back_right", "back", "back_left", "front_left")
# Of several cloud topics, those of sensors; what the node itself or a mapper publishes is none.
_LIDAR_NAMES = re.compile(r"lidar|laser|velodyne|ouster|hesai|rslidar|livox|points", re.IGNORECASE)
_NO_LIDAR_NAMES = re.compile(r"occupancy|map|radar|depth|costmap|cluster|ground", re.IGNORECASE)


def settings_from_file(path: str | Path) -> Settings:
    """Read the node's parameters from a ``--params-file``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, an unknown parameter, or a value of a wrong type or out of its range.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"parameter file {path} does not exist; `gsrender inspect BAG --params {path}` writes one"
        )
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        (section,) = [node["ros__parameters"] for node in document.values()]
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is no parameter file of one node ('/**: ros__parameters: ...')") from error
    given = dict(_flat(section or {}))
    known = {spec.metadata["name"]: spec for spec in specifications()}
    unknown = sorted(set(given) - set(known) - {"use_sim_time"})
    if unknown:
        raise ValueError(f"{path}: parameter {unknown[0]!r} does not exist; known: {', '.join(known)}")
    values = {}
    for name, value in given.items():
        if name not in known:
            continue
        default = known[name].default
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, type(default)):
            raise ValueError(f"{path}: {name} is {value!r}, must be a {type(default).__name__}")
        values[known[name].name] = value
    try:
        return Settings(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _flat(section: dict, prefix: str = ""):
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def guess_settings(index: BagIndex) -> Settings:
    """Settings under which most images of a bag are found: a known layout, else one template for all image topics.

    Raises:
        ValueError: no image topic.
    """
    images = index.topics_of(*IMAGE_TYPES)
    if not images:
        raise ValueError(f"{index.path} has no image topic (sensor_msgs Image or CompressedImage)")
    best = max((_fit_layout(index, layout) for layout in LAYOUTS), key=lambda fit: fit[0])
    settings = best[1] if best[0] >= 1 else _fit_template(images)
    changes = {} if best[0] >= 1 else _guess_infos(index, settings)
    changes |= _guess_frames(index, settings)
    beside = index.path / CALIBRATION_FILE
    if not index.topics_of(INFO_TYPE) and beside.is_file():
        changes["calibration_file"] = str(beside)
    return dataclasses.replace(settings, **changes)


def _fit_layout(index: BagIndex, layout: str) -> tuple[int, Settings]:
    """How many cameras of a layout a bag has, and the settings for them."""
    found = set()
    for kind, template in zip(IMAGE_TYPES, (LAYOUTS[layout].raw_topic, LAYOUTS[layout].compressed_topic), strict=True):
        place = re.escape("{CAMERA}" if "{CAMERA}" in template else "{camera}")
        name = "[A-Z0-9_]+" if "{CAMERA}" in template else "[^/]+"
        pattern = re.compile(re.escape(template).replace(place, f"(?P<camera>{name})"))
        matches = [pattern.fullmatch(topic.topic.lstrip("/")) for topic in index.topics_of(kind)]
        found |= {m["camera"].lower() if "{CAMERA}" in template else m["camera"] for m in matches if m}
    if not found:
        return 0, Settings(layout=layout)
    cameras = _ordered(found)
    return len(found), Settings(layout=layout, cameras=cameras, reference_camera=_reference(cameras))


def _reference(cameras: tuple[str, ...]) -> str:
    return next((camera for camera in cameras if _is_front(camera)), cameras[0])


def _fit_template(images: list[TopicIndex]) -> Settings:
    """The template that most image topics share: their names differ in one part."""
    groups: dict[tuple, list[str]] = defaultdict(list)
    for topic in images:
        parts = topic.topic.strip("/").split("/")
        for place, part in enumerate(parts):
            groups[topic.msgtype, "/".join([*parts[:place], "{camera}", *parts[place + 1 :]])].append(part)
    (msgtype, template), cameras = max(groups.items(), key=lambda item: (len(item[1]), -item[0][1].index("{camera}")))
    cameras = _ordered(cameras)
    return Settings(
        image_transport="compressed" if msgtype == IMAGE_TYPES[1] else "raw",
        cameras=cameras,
        reference_camera=_reference(cameras),
        image_topic="/" + template,
    )


def _guess_infos(index: BagIndex, settings: Settings) -> dict:
    """The CameraInfo topics beside the images: the template with the longest common beginning."""
    votes: Counter = Counter()
    for camera in settings.cameras:
        for topic in index.topics_of(INFO_TYPE):
            parts = topic.topic.strip("/").split("/")
            if camera in parts:
                votes["/" + "/".join("{camera}" if part == camera else part for part in parts)] += 1
    return {"camera_info_topic": votes.most_common(1)[0][0]} if votes else {}


def _guess_frames(index: BagIndex, settings: Settings) -> dict:
    """The fixed frame, where the layout's is not in the bag: the root above the ego frame; pose_source likewise."""
    assert index.transforms is not None
    links = {(parent, child) for parent, child, _ in index.transforms.links}
    parents = dict((child, parent) for parent, child in links)
    changes: dict = {}
    dynamic = {child: parent for parent, child, static in index.transforms.links if not static}
    fixed = settings.fixed_frame or LAYOUTS[settings.layout].fixed_frame
    ego = settings.ego_frame
    if ego not in parents and ego not in {parent for parent, _ in links} and dynamic:
        children = Counter(parent for parent, _ in links)
        # The vehicle is what moves and carries the most sensors.
        ego = max(dynamic, key=lambda frame: children[frame])
        changes["ego_frame"] = ego
    above, frame = [], ego
    while frame in parents and frame not in above:
        above.append(frame)
        frame = parents[frame]
    if frame != ego and fixed not in (*above[1:], frame):
        changes["fixed_frame"] = frame
    if frame == ego and index.odometry:  # nothing moves it on /tf
        topic, poses = max(index.odometry.items(), key=lambda item: len(item[1].link))
        parent, child, _ = poses.links[0]
        changes |= {"pose_source": "odometry", "odometry_topic": topic, "fixed_frame": parent}
        if child and child != ego:
            changes["ego_frame"] = child
    return changes


def guess_lidars(index: BagIndex) -> tuple[str, ...]:
    """The cloud topics that look like sensors; the only one whatever its name."""
    return likely_lidars([t.topic for t in index.topics_of(CLOUD_TYPE)])


def likely_lidars(topics: list[str]) -> tuple[str, ...]:
    """Of PointCloud2 topics those that look like sensors; the only one whatever its name."""
    if len(topics) == 1:
        return tuple(topics)
    likely = [t for t in topics if _LIDAR_NAMES.search(t) and not _NO_LIDAR_NAMES.search(t)]
    return tuple(likely)


def rig_facts(settings: Settings) -> str:
    """One line on a rig."""
    names = camera_names(settings)
    return (
        f"layout {settings.layout}, {len(names)} cameras ({', '.join(settings.cameras)}; {names[0].image_topic} ...), "
        f"reference {settings.reference_camera}"
    )


def _is_front(camera: str) -> bool:
    return re.fullmatch(r"(cam(era)?_?)?front(_?(center|middle|wide))?", camera, re.IGNORECASE) is not None


def _ordered(cameras) -> tuple[str, ...]:
    """The six of nuScenes in its order, others by name."""
    order = {f"cam_{place}": i for i, place in enumerate(_SIX)}
    return tuple(sorted(set(cameras), key=lambda c: (order.get(c.lower(), len(order)), c)))
