"""The training thread: its pace, its end, and what it leaves, without topics."""

import json
import time

import numpy as np
import pytest
from ros_processes import PATIENCE_S
from small_drives import write_small_training

from gsrender_core.config import load_train_config
from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.lidar_returns import frame_bytes
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_ros.live_training import LiveTraining
from gsrender_ros.training_parameters import TrainingSettings


def small_frame(number: int) -> Frame:
    """Two black images and two labels."""
    labels = PixelLabels(
        np.zeros(2, np.int64), np.ones((2, 2), np.float32), np.ones(2, np.float32), np.zeros(2, np.uint8)
    )
    images, Ks, poses = np.zeros((2, 3, 64, 96), np.uint8), np.stack([np.eye(3)] * 2), np.stack([np.eye(4)] * 2)
    return Frame(images, Ks, poses, np.eye(4), number, ("front", "back"), f"t{number}", "a", labels)


def make(folder, memory_bytes: int = 10**7, **changes) -> LiveTraining:
    config = load_train_config(write_small_training(folder / "small.yaml"))
    settings = TrainingSettings(**({"out": str(folder / "run"), "finish_steps": 2} | changes))
    return LiveTraining(config, settings, ReplayBuffer(BufferLimits(memory_bytes)), "cpu")


def wait_for(training: LiveTraining) -> None:
    end = time.monotonic() + PATIENCE_S
    while not training.over:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_pace_is_that_of_the_steps(tmp_path):
    training = make(tmp_path, steps_per_frame=2.0, ahead=3)
    # 10 steps are worth 5 frames; 3 more may wait for theirs.
    training.steps = 10
    assert [training.is_behind(frames) for frames in (8, 9)] == [False, True]
    assert not make(tmp_path, steps_per_frame=0.0).is_behind(10**9)


def test_the_training_is_behind_before_frames_find_no_room(tmp_path):
    frames = [small_frame(number) for number in range(2)]
    training = make(tmp_path, memory_bytes=8 * 3 * frame_bytes(frames[0]) + 64)  # three may wait
    assert training.buffer.put(frames[0]) and not training.is_behind(1)
    assert training.buffer.put(frames[1]) and training.is_behind(2)
    training.buffer.take_in()
    assert not training.is_behind(2)


def test_a_stop_before_the_first_frame_leaves_a_report(tmp_path):
    training = make(tmp_path)
    training.facts = lambda: {"replay": {"in": 0}}
    training.start()
    training.stop()
    assert training.state == "stopped" and training.failure == "" and not training.takes_frames
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["steps"] == 0 and report["frames"]["taken_in"] == 0 and report["replay"] == {"in": 0}


def test_a_replay_without_a_frame_is_a_failure_that_is_named(tmp_path, caplog):
    training = make(tmp_path)
    training.start()
    training.end()
    wait_for(training)
    assert training.state == "failed" and training.failure == "the replay ended without a frame to train on"
    assert "training failed: the replay ended without a frame" in caplog.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"resume": True}, "nothing to resume"), ({"init": "none.safetensors"}, "no checkpoint at none.safetensors")],
)
def test_what_the_run_cannot_begin_with_is_named(tmp_path, changes, text):
    training = make(tmp_path, **changes)
    training.start()
    wait_for(training)
    assert training.state == "failed" and text in training.failure
