"""What a bag holds, and what it lacks for training or inference: ``gsrender inspect``. No rclpy."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import yaml

from gsrender_core.bag_config import BagConfig
from gsrender_ros.bag_access import BagMessages, deserialize
from gsrender_ros.bag_contents import CLOUD_TYPE, IMAGE_TYPES, INFO_TYPE, BagIndex, TopicIndex
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_recording import BagRecording
from gsrender_ros.bag_rig import guess_lidars, guess_settings, settings_from_file
from gsrender_ros.bag_sets import BACKWARD_JUMP_NS, image_topics, stamps_of
from gsrender_ros.image_conversions import decode_image
from gsrender_ros.layouts import camera_names, effective
from gsrender_ros.lidar_facts import height_problem, lidar_facts, lidar_places
from gsrender_ros.parameters import Settings, specifications
from gsrender_ros.point_labels import supervision_of
from gsrender_ros.statistics import FrameDropped

logger = logging.getLogger(__name__)

# A stream pauses where two stamps lie so many usual intervals apart, and at least so long.
GAP_FACTOR, GAP_S = 5.0, 0.5


def inspect(path: str | Path, params_file: str = "", config: BagConfig | None = None) -> dict:
    """Look at a bag.

    Args:
        path: the bag.
        params_file: parameters of the node that describe its rig; empty: guessed.
        config: how it would be trained on.

    Returns:
        plain values ready for JSON: ``bag``, ``topics``, ``tf``, ``cameras``, ``lidars``, ``spread_s``, ``frames``,
        ``parameters`` (those that differ from the defaults), ``training`` (the ``bag`` section), and ``problems``:
        sentences, each with ``stops`` (training, inference, both or nothing) and ``text``.

    Raises:
        BagError: no bag, or nothing in it can be read.
    """
    index = bag_index(path)
    config = config or BagConfig()
    report: dict = {
        "bag": _bag(index),
        "topics": [_topic(t) for _, t in sorted(index.topics.items())],
        "tf": _tf(index),
    }
    problems = [{"stops": "nothing", "text": text} for text in index.problems]
    problems += _time_problems(index)
    try:
        given = settings_from_file(params_file) if params_file else guess_settings(index)
        settings = effective(given)
        topics = image_topics(index, camera_names(settings))
    except (ValueError, FileNotFoundError) as error:
        problems.append({"stops": "both", "text": str(error)})
        return report | {"cameras": [], "lidars": [], "problems": problems}
    report["parameters"] = changed_parameters(given)
    report["cameras"] = [_camera(index, settings, i, topic) for i, topic in enumerate(topics)]
    report["spread_s"] = _spread(topics, settings)
    lidars = [t if t.startswith("/") else f"/{t}" for t in config.lidar_topics] or list(guess_lidars(index))
    report["lidars"] = [lidar_facts(index, config, topic) for topic in lidars if topic in index.topics]
    problems += _rig_problems(index, settings, report, config)
    if report["lidars"] and not config.lidar_topics:
        config = dataclasses.replace(config, lidar_topics=tuple(lidar["topic"] for lidar in report["lidars"]))
    if config.lidar_topics:
        problems += _training(index, config, settings, report)
    report["training"] = {"params_file": params_file or "rig.yaml", "lidar_topics": list(config.lidar_topics)}
    return report | {"problems": problems}


def parameters_yaml(changed: dict) -> str:
    """A ``--params-file`` for the node of parameters by dotted name."""
    nested: dict = {}
    for name, value in changed.items():
        *groups, leaf = name.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump({"/**": {"ros__parameters": nested}}, sort_keys=False, default_flow_style=None)


def _bag(index: BagIndex) -> dict:
    logs = np.concatenate([topic.log_ns for topic in index.topics.values()])
    return {
        "path": str(index.path),
        "files": [{"name": file.name, "bytes": file.stat().st_size} for file in index.files],
        "start_s": int(logs.min()) / 1e9,
        "duration_s": int(logs.max() - logs.min()) / 1e9,
        "messages": len(logs),
    }


def _topic(topic: TopicIndex) -> dict:
    steps = np.diff(topic.log_ns)
    return {
        "topic": topic.topic,
        "type": topic.msgtype,
        "messages": len(topic),
        "rate_hz": float(1e9 / np.median(steps)) if len(steps) and np.median(steps) > 0 else None,
        "bytes": topic.size_bytes,
        "frames": [frame for frame in topic.frames if frame],
    }


def _tf(index: BagIndex) -> list[dict]:
    poses, rows = index.transforms, []
    assert poses is not None
    for number, (parent, child, static) in enumerate(poses.links):
        stamps = poses.stamp_ns[poses.link == number]
        span_s = (int(stamps.max()) - int(stamps.min())) / 1e9
        rate = (len(stamps) - 1) / span_s if not static and span_s > 0 else None
        rows.append({"parent": parent, "child": child, "static": static, "transforms": len(stamps), "rate_hz": rate})
    for topic, each in index.odometry.items():
        for parent, child, _ in each.links:
            rows.append({"parent": parent, "child": child, "static": False, "transforms": len(each.link), "on": topic})
    return rows


def _camera(index: BagIndex, settings: Settings, number: int, topic: TopicIndex) -> dict:
    """Facts on a camera; the size is that of its first readable image."""
    name = camera_names(settings)[number]
    facts: dict = {"camera": name.camera, "topic": topic.topic, "type": topic.msgtype, "messages": len(topic)}
    facts["zero_stamps"] = int((topic.stamp_ns == 0).sum())
    facts["frame"] = name.frame or topic.frames[topic.frame[0]] or name.default_frame
    try:
        image = decode_image(BagMessages(index).read(topic, 0))
        facts["size"] = [image.shape[1], image.shape[0]]
    except (BagError, FrameDropped) as error:
        facts["size"], facts["problem"] = None, str(error)
    infos = index.infos.get("/" + name.camera_info_topic.lstrip("/"), [])
    facts["calibrations"] = len(infos)
    if infos:
        info = deserialize(infos[0][1], INFO_TYPE)
        facts["K"] = [float(v) for v in info.k]
        facts["distortion"] = [info.distortion_model, [float(v) for v in info.d]]
        facts["calibrated_size"] = [info.width, info.height]
    return facts


def _spread(topics: list[TopicIndex], settings: Settings) -> dict | None:
    """How far apart in time the images lie that belong to one image of the reference camera: median and largest."""
    stamps = [np.sort(stamps_of(topic, settings.stamp_source)) for topic in topics]
    if any(len(s) == 0 for s in stamps):
        return None
    reference = stamps[settings.cameras.index(settings.reference_camera)]
    nearest = []
    for each in stamps:
        after = (
            np.searchsorted(each, reference).clip(1, len(each) - 1) if len(each) > 1 else np.zeros(len(reference), int)
        )
        before = np.maximum(after - 1, 0)
        closer = np.abs(each[before] - reference) <= np.abs(each[after] - reference)
        nearest.append(np.where(closer, each[before], each[after]))
    spread = np.ptp(np.stack(nearest), axis=0) / 1e9
    return {"median": float(np.median(spread)), "p95": float(np.percentile(spread, 95)), "largest": float(spread.max())}


def _time_problems(index: BagIndex) -> list[dict]:
    """Backward jumps and pauses of every stream that a frame is made of."""
    found = []
    for topic in index.topics_of(*IMAGE_TYPES, CLOUD_TYPE):
        steps = np.diff(topic.stamp_ns)
        back = np.flatnonzero(steps < -BACKWARD_JUMP_NS)
        if len(back):
            text = f"time runs backwards {len(back)} times, first by {-steps[back[0]] / 1e9:.2f} s"
            found.append({"stops": "nothing", "text": f"{topic.topic}: {text}; scenes are divided there"})
        usual = np.median(steps[steps > 0]) if (steps > 0).any() else 0
        gaps = steps[steps > max(GAP_FACTOR * usual, GAP_S * 1e9)]
        if len(gaps):
            text = f"{len(gaps)} gaps, the longest {gaps.max() / 1e9:.2f} s (usual distance {usual / 1e9:.3f} s)"
            found.append({"stops": "nothing", "text": f"{topic.topic}: {text}"})
    return found


def _rig_problems(index: BagIndex, settings: Settings, report: dict, config: BagConfig) -> list[dict]:
    found = []

    def say(stops: str, text: str) -> None:
        found.append({"stops": stops, "text": text})

    assert index.transforms is not None
    if not index.transforms.links and not index.odometry:
        say("both", "no TF and no odometry: neither where the vehicle was nor where its cameras are is known")
    elif not index.transforms.links and not settings.calibration_file:
        say("both", "no TF: give the mountings of the cameras in calibration_file")
    for camera in report["cameras"]:
        if "problem" in camera:
            say("nothing", f"{camera['camera']}: its first image is not readable: {camera['problem']}")
        if camera["zero_stamps"] and settings.stamp_source == "header":
            share = f"{camera['zero_stamps']} of {camera['messages']} images"
            say("both", f"{camera['camera']}: {share} have stamp 0; set stamp_source: auto")
        if not camera["calibrations"] and not settings.calibration_file:
            say("both", f"{camera['camera']}: no CameraInfo; give its intrinsics in calibration_file")
        if camera["calibrations"] > 1:
            say("nothing", f"{camera['camera']}: its CameraInfo changes {camera['calibrations'] - 1} times")
        if camera["calibrations"] and camera["size"] and camera["size"] != camera["calibrated_size"]:
            say("both", f"{camera['camera']}: images are {camera['size']}, CameraInfo says {camera['calibrated_size']}")
    spread = report["spread_s"]
    if spread and spread["median"] >= settings.sync_slop_s:
        say(
            "both",
            f"the cameras' images lie {spread['median']:.3f} s apart (median), beyond sync.slop_s "
            f"{settings.sync_slop_s:g}: no complete sets; raise it, below the cameras' period",
        )
    clouds = [topic.topic for topic in index.topics_of(CLOUD_TYPE)]
    if not clouds:
        say("training", "no LiDAR (no PointCloud2 topic): nothing to learn from; inference needs none")
    elif not report["lidars"] and not config.lidar_topics:
        say("training", f"none of {', '.join(clouds)} is surely a LiDAR's: name them in bag.lidar_topics")
    frames = {frame for parent, child, _ in index.transforms.links for frame in (parent, child)}
    for lidar in report["lidars"]:
        if "problem" in lidar:
            say("nothing", f"{lidar['topic']}: its first cloud is not readable: {lidar['problem']}")
        elif lidar["frame"] not in frames:
            say(
                "training", f"{lidar['topic']}: its frame {lidar['frame']!r} is not on TF ({', '.join(sorted(frames))})"
            )
    return found


def _training(index: BagIndex, config: BagConfig, settings: Settings, report: dict) -> list[dict]:
    """Try to find frames, and say how many and where their classes would come from."""
    try:
        recording = BagRecording(index.path, config, settings)
        report["supervision"] = supervision_of(config, recording.cloud_fields())
    except (ValueError, FileNotFoundError) as error:
        report["frames"] = {"usable": 0}
        return [{"stops": "training", "text": str(error)}]
    report["frames"] = {
        "usable": len(recording.keyframes),
        "sets": recording.set_count,
        "between_keyframes": recording.between,
        "not_usable": dict(recording.dropped),
    }
    for lidar, place in zip(report["lidars"], lidar_places(recording), strict=True):
        lidar.update(place)
    texts = [text for text in map(height_problem, report["lidars"]) if text]
    jumps = recording.poses.jumps
    if jumps:
        texts.append(f"{len(jumps)} jumps of the odometry, first: {jumps[0]}")
    texts += [
        f"{count} sets of images are not usable: {reason} {recording.why.get(reason, '')}"
        for reason, count in recording.dropped.items()
    ]
    return [{"stops": "nothing", "text": text} for text in texts]


def changed_parameters(settings: Settings) -> dict:
    """The parameters whose values are not the defaults, by dotted name."""
    return {
        spec.metadata["name"]: getattr(settings, spec.name)
        for spec in specifications()
        if getattr(settings, spec.name) != spec.default
    }
