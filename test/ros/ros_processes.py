"""For tests with real processes: small bags, a small network, processes on a ROS domain of their own."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
import simplejpeg
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosbags.rosbag2 import StoragePlugin, Writer

from gsrender_core.geometry import transform
from gsrender_ros import bag_messages as messages
from gsrender_ros.calibration import CameraCalibration, RigCalibration, write_calibration
from gsrender_ros.trials.small_network import write_small_network

ROOT = Path(__file__).resolve().parents[2]
CAMERAS = ("cam_front", "cam_back")
SIZE = (96, 64)
K = np.array([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]])
START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 200_000_000
OPTICAL = (0.5, -0.5, 0.5, -0.5)  # camera axes (x right, z forward) in the ego's (x forward, y left)
# Slow shared machines need patience; nothing here waits longer than it must.
PATIENCE_S = 90.0


def own_domain(offset: int) -> int:
    """A domain id that no other test process on this machine is likely to use."""
    return 10 + (os.getpid() + offset * 31) % 90


def write_small_bag(path: Path, frames: int = 6, with_tf: bool = True, stamped: bool = True) -> list[int]:
    """Two cameras at 5 Hz 20 ms apart, CameraInfo, TF at every stamp; returns cam_front's stamps in ns."""
    rng = np.random.default_rng(0)
    connections = {}
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:

        def put(topic, kind, message, at_ns):
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=messages.TYPESTORE)
            writer.write(connections[topic], at_ns, messages.TYPESTORE.serialize_cdr(message, kind))

        if with_tf:
            mounts = [
                messages.transform_stamped(transform(OPTICAL, (x, 0.0, 1.5)), START_NS, "base_link", camera)
                for camera, x in zip(CAMERAS, (1.5, -0.5), strict=True)
            ]
            put("/tf_static", "tf2_msgs/msg/TFMessage", messages.tf_message(mounts), START_NS)
        reference = []
        for frame in range(frames):
            for index, camera in enumerate(CAMERAS):
                at_ns = START_NS + frame * PERIOD_NS + index * 20_000_000
                stamp_ns = at_ns if stamped else 0
                if index == 0:
                    reference.append(stamp_ns)
                if with_tf:
                    T = transform((1, 0, 0, 0), ((at_ns - START_NS) / 1e9 * 5.0, 0, 0))
                    pose = messages.transform_stamped(T, at_ns, "map", "base_link")
                    put("/tf", "tf2_msgs/msg/TFMessage", messages.tf_message([pose]), at_ns)
                info = messages.camera_info(K, SIZE, stamp_ns, camera)
                put(f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", info, at_ns)
                jpeg = simplejpeg.encode_jpeg(rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
                image = messages.compressed_image(jpeg, "jpeg", stamp_ns, camera)
                put(f"/{camera}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", image, at_ns)
    return reference


def write_small_nuscenes2bag(path: Path, frames: int = 6) -> Path:
    """The same rig as clynamen's nuscenes2bag writes it, without TF: raw bgr8, no CameraInfo, /odom.

    Returns the path of the calibration file beside it.
    """
    rng = np.random.default_rng(1)
    connections = {}
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for frame in range(frames):
            at_ns = START_NS + frame * PERIOD_NS
            entries = [
                ("/odom", "nav_msgs/msg/Odometry", messages.odometry(np.eye(4), at_ns, "odom", "base_link")),
                *(
                    (
                        f"/{camera}/raw",
                        "sensor_msgs/msg/Image",
                        messages.raw_image(
                            rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8), "bgr8", at_ns, camera
                        ),
                    )
                    for camera in CAMERAS
                ),
            ]
            for topic, kind, message in entries:
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=messages.TYPESTORE)
                writer.write(connections[topic], at_ns, messages.TYPESTORE.serialize_cdr(message, kind))
    rig = RigCalibration(
        "base_link",
        {c: CameraCalibration(c, c, *SIZE, K, transform(OPTICAL, (1.0, 0.0, 1.5))) for c in CAMERAS},
    )
    write_calibration(path / "calibration.yaml", rig)
    return path / "calibration.yaml"


def write_small_checkpoint(path: Path) -> None:
    """An untrained network for images of SIZE."""
    write_small_network(path, SIZE)


class Process:
    """A module of the package run as a process; ``text`` is what it has printed. ``end_all`` leaves none behind."""

    started: list["Process"] = []

    def __init__(self, module: str, arguments: list, domain: int, log: Path):
        self._log = log
        environment = {
            **os.environ,
            "ROS_DOMAIN_ID": str(domain),
            "PYTHONPATH": str(ROOT),
            "ROS_LOG_DIR": str(log.parent),
            "RCUTILS_LOGGING_USE_STDOUT": "0",
            "OMP_NUM_THREADS": "1",
        }
        with log.open("w") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *(str(a) for a in arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=log.parent,
            )
        Process.started.append(self)

    @classmethod
    def end_all(cls) -> None:
        """Kill what a failed test has left running."""
        while cls.started:
            process = cls.started.pop()
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait()

    @property
    def text(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Exit status, when it ends by itself."""
        try:
            return self.popen.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"did not end in {PATIENCE_S:g} s; it said:\n{self.text}") from None


@contextmanager
def listening_node(domain: int, name: str = "listener"):
    """A node in this process on a domain, and ``spin_until(condition, process)``."""
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = Node(name, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin_until(condition, *processes: Process) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            said = "\n".join(process.text for process in processes)
            assert time.monotonic() < end, f"nothing after {PATIENCE_S:g} s; the processes said:\n{said}"
            executor.spin_once(timeout_sec=0.05)

    try:
        yield node, spin_until
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
