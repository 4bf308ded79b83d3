"""From image messages to a ``Frame``: six 1600x900 jpegs to the packaged network's size, the short way and the long."""

import array
import time

import cv2
import numpy as np
import simplejpeg
from rclpy.duration import Duration
from sensor_msgs.msg import CompressedImage

from gsrender_core.checkpoint import default_checkpoint, read_header
from gsrender_ros.frame_assembly import FrameAssembler, ImageSet
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit, CameraFit
from gsrender_ros.lens import Distortion
from gsrender_ros.standins import Buffer
from gsrender_ros.tf_lookup import TransformLookup, message_from_matrix

CAMERAS, SIZE = 6, (1600, 900)
STAMP_NS = 1_532_402_927_612_460_000
LENS = Distortion("plumb_bob", (-0.2, 0.05, 0.0, 0.0, 0.0))


def packaged_size() -> tuple[int, int]:
    """Width and height of the packaged network's images."""
    width, height = read_header(default_checkpoint())["model"]["image_size"]
    return width, height


def street_like_jpeg(seed: int, size: tuple[int, int] = SIZE) -> CompressedImage:
    """A jpeg of about the bytes of nuScenes' (131 to 142 kB in one keyframe): shades, edges, and noise in a half."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (18, 32, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    for _ in range(50):
        x, y = (int(v) for v in rng.integers(0, size))
        cv2.rectangle(image, (x, y), (x + 60, y + 40), tuple(int(v) for v in rng.integers(0, 256, 3)), -1)
    lower = image[size[1] // 2 :]
    noise = rng.normal(0, 1.5, (*lower.shape[:2], 1)).repeat(3, axis=2)
    lower[:] = np.clip(lower + noise, 0, 255).astype(np.uint8)
    return CompressedImage(
        format="jpeg", data=array.array("B", simplejpeg.encode_jpeg(image, 80, colorsubsampling="420"))
    )


def bench_inputs(quick: bool = False) -> dict:
    """Median milliseconds from the last image's arrival to the ``Frame``, transforms looked up as well.

    Keys: target (size of the network's images), bytes (of one jpeg), ahead_ms (the other five were decoded as they
    came: the network was idle), ahead_least_ms
    (the least of the repetitions, what other work on the machine did not touch), at_once_ms
    (none was: it was busy), distorted_ms (ahead, lens distortion taken out), slow_ms (full decode and area averages on
    the same threads: the readable reference), ratio (slow to at once), grey_levels (mean difference of the two).
    """
    repeats, target = 7 if quick else 31, packaged_size()
    messages = [street_like_jpeg(seed) for seed in range(CAMERAS)]
    K = np.array([[1266.0, 0, 816], [0, 1266, 491], [0, 0, 1]])
    plain = [Intrinsics(K, SIZE, f"cam_{index}") for index in range(CAMERAS)]
    distorted = [Intrinsics(K, SIZE, f"cam_{index}", LENS) for index in range(CAMERAS)]
    lookup, rig = _moving_rig()
    names = tuple(f"CAM_{index}" for index in range(CAMERAS))
    image_set = ImageSet(tuple(messages), tuple(ns for _, ns in rig), tuple(f for f, _ in rig), names, STAMP_NS)
    assemble, slow_fit = FrameAssembler(target), AreaFit(plain[0], target)

    def frame(cameras, ahead: int) -> float:
        for index in range(ahead):
            assemble.expect(messages[index], cameras[index])
        if ahead:
            time.sleep(0.1)  # the cameras' spread, with room for a slow machine
        started = time.perf_counter()
        if ahead:
            assemble.expect(messages[-1], cameras[-1])
        assemble(image_set, cameras, lookup.rig_pose(STAMP_NS, rig))
        return time.perf_counter() - started

    def slowly() -> float:
        started = time.perf_counter()
        poses = lookup.rig_pose(STAMP_NS, rig)
        np.stack(list(assemble.pool.map(slow_fit, messages)))
        assert poses.T_ego_cam.shape == (CAMERAS, 4, 4)
        return time.perf_counter() - started

    try:
        ways = {
            "ahead_ms": lambda: frame(plain, CAMERAS - 1),
            "at_once_ms": lambda: frame(plain, 0),
            "distorted_ms": lambda: frame(distorted, CAMERAS - 1),
            "slow_ms": slowly,
        }
        durations = {name: [] for name in ways}
        for repeat in range(repeats + 1):
            for name, way in ways.items():  # side by side, so that a busy machine slows all of them
                seconds = way()
                if repeat:
                    durations[name].append(seconds)
    finally:
        assemble.close()
    result = {name: float(np.median(values) * 1e3) for name, values in durations.items()}
    fast, slow = CameraFit(plain[0], target)(messages[0]), slow_fit(messages[0])
    return {
        "target": f"{target[0]}x{target[1]}",
        "bytes": len(messages[0].data),
        **result,
        "ahead_least_ms": min(durations["ahead_ms"]) * 1e3,
        "ratio": result["slow_ms"] / result["at_once_ms"],
        "grey_levels": float(np.abs(fast.astype(float) - slow).mean()),
    }


def _moving_rig() -> tuple[TransformLookup, list[tuple[str, int]]]:
    """A look-up that knows half a second of poses at 100 Hz, and frame and stamp of cameras that fire 8 ms apart."""
    buffer = Buffer(cache_time=Duration(seconds=10))
    for step in range(-25, 26):
        T_map_ego = np.eye(4)
        T_map_ego[0, 3] = 0.1 * step
        buffer.set_transform(message_from_matrix(T_map_ego, "map", "base_link", STAMP_NS + step * 10_000_000), "bench")
    rig = [(f"cam_{index}", STAMP_NS + index * 8_000_000) for index in range(CAMERAS)]
    for frame, _ in rig:
        buffer.set_transform_static(message_from_matrix(np.eye(4), "base_link", frame), "bench")
    return TransformLookup(buffer, "base_link", "map", 0.0), rig
