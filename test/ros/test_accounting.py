"""in = out + dropped + pending, whatever happens in whatever order: synchroniser and worker under random events."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.inference_worker import InferenceWorker
from gsrender_ros.layouts import camera_names
from gsrender_ros.parameters import Settings
from gsrender_ros.statistics import FrameDropped, FrameStatistics

CAMERAS = ("cam_front", "cam_left", "cam_right")
MS = 1_000_000


class Clock:
    nanoseconds = 5_000_000 * MS

    def now(self):
        return self


class Log:
    def warning(self, text, **_):
        pass

    error = warning


class Chain:
    """Synchroniser, pause and worker wired as in the node; how an item ends is drawn at random."""

    def __init__(self, seed: int):
        settings = Settings(cameras=CAMERAS, sync_queue_size=4)
        self.rng = np.random.default_rng(seed)
        self.statistics = FrameStatistics()
        self.worker = InferenceWorker(self.process, self.statistics, Log())
        self.sync = CameraSync(camera_names(settings), settings, self.statistics, Clock())
        self.sync.on_set = self.on_set
        self.sync.on_jump = lambda before, after: self.worker.reset()
        self.paused = False
        self.busy = threading.Event()
        self.fates = np.random.default_rng(seed + 1000)  # the worker's thread draws from this one
        self.done: Counter = Counter()
        self.worker.start()

    def on_set(self, image_set):
        if self.paused:
            self.statistics.dropped("paused", "")
        else:
            self.worker.submit(image_set)

    def process(self, image_set, generation):
        self.busy.set()
        time.sleep(self.fates.uniform(0, 0.002))
        fate = self.fates.integers(6)
        if fate == 0:
            raise FrameDropped("no_tf", "")
        if fate == 1:
            raise RuntimeError("the network")
        if generation != self.worker.generation:
            raise FrameDropped("reset", "")
        self.done["out"] += 1
        return 0.001

    def image(self, camera: int, stamp_ms: int):
        stamp = Time(sec=stamp_ms // 1000, nanosec=stamp_ms % 1000 * MS)
        self.sync.add_image(camera, Image(header=Header(stamp=stamp)))

    def check(self):
        """Nothing is ever counted twice, and only what really waits is pending."""
        waiting = len(self.sync._expected)
        summary = self.statistics.summary()
        # Beside the synchroniser's, one may lie in the worker's slot and one be in work.
        assert waiting <= summary.pending <= waiting + 2, summary

    def settle(self):
        end = time.monotonic() + 30
        while self.statistics.summary().pending > len(self.sync._expected):
            assert time.monotonic() < end, self.statistics.summary()
            time.sleep(0.001)


@pytest.mark.parametrize("seed", range(6))
def test_every_frame_is_accounted_for(seed):
    chain = Chain(seed)
    now_ms, sent = 1_000_000, 0
    for _ in range(400):
        event = chain.rng.choice(
            ["frame", "lone", "shuffled", "unstamped", "jump", "reset", "pause", "rest"],
            p=[0.5, 0.1, 0.1, 0.05, 0.03, 0.02, 0.1, 0.1],
        )
        now_ms += int(chain.rng.integers(20, 200))
        cameras = list(range(3))
        if event == "frame":
            for camera in cameras:
                chain.image(camera, now_ms + int(chain.rng.integers(0, 90)))
            sent += 1
        elif event == "lone":
            camera = int(chain.rng.integers(3))
            chain.image(camera, now_ms)
            sent += camera == 0
        elif event == "shuffled":
            for camera in chain.rng.permutation(cameras):
                chain.image(int(camera), now_ms - int(chain.rng.integers(0, 150)))
            sent += 1
        elif event == "unstamped":
            chain.image(0, 0)
            sent += 1
        elif event == "jump":
            now_ms -= int(chain.rng.integers(300, 5000))
        elif event == "reset":
            chain.sync.reset(now_ms * MS)
            chain.worker.reset()
        elif event == "pause":
            chain.paused = not chain.paused
        else:
            time.sleep(0.002)
        chain.check()
    chain.settle()
    chain.worker.stop()
    summary = chain.statistics.summary()
    assert summary.frames_in == sent
    assert summary.frames_out == chain.done["out"] > 0
    assert summary.frames_in == summary.frames_out + sum(summary.dropped.values()) + len(chain.sync._expected)
    assert {"spread", "zero_stamp", "reset", "paused", "no_tf", "error"} <= set(summary.dropped)
