"""Which earlier frames the node hands to a network that looks back."""

import numpy as np

from gsrender_core.data.frame import Frame
from gsrender_ros.frame_history import FrameHistory


def frame(stamp_s: float, names: tuple[str, ...] = ("front",), x_m: float = 0.0) -> Frame:
    count = len(names)
    K, T = np.array([[50.0, 0, 16], [0, 50, 8], [0, 0, 1]]), np.eye(4)
    images = np.zeros((count, 3, 16, 32), np.uint8)
    T_global_ego = np.eye(4)
    T_global_ego[0, 3] = x_m
    return Frame(images, np.stack([K] * count), np.stack([T] * count), T_global_ego, round(stamp_s * 1e9), names)


def stamps(frames) -> list[float]:
    return [f.stamp_ns / 1e9 for f in frames]


def history_of(*stamps_s: float, count: int = 2, interval_s: float = 0.5) -> FrameHistory:
    history = FrameHistory(count, interval_s)
    for stamp_s in stamps_s:
        history.add(frame(stamp_s))
    return history


def test_frames_at_the_interval_are_found_newest_first():
    history = history_of(10.0, 10.5, 11.0)
    assert stamps(history.before(frame(11.5))) == [11.0, 10.5]
    assert stamps(history_of(10.0, count=2).before(frame(10.4))) == [10.0]


def test_at_full_rate_the_frames_nearest_to_the_interval_are_taken_and_few_are_kept():
    history = history_of(*np.arange(10.0, 13.0, 1 / 12))
    first, second = stamps(history.before(frame(13.0)))
    assert abs(13.0 - first - 0.5) < 0.15 and abs(first - second - 0.5) < 0.15
    assert len(history._frames) <= 13


def test_a_gap_too_long_or_too_short_is_no_history():
    assert history_of(10.0).before(frame(11.0)) and not history_of(10.0).before(frame(11.01))
    assert history_of(10.0).before(frame(10.25)) and not history_of(10.0).before(frame(10.2))
    assert stamps(history_of(10.0, 12.0).before(frame(12.5))) == [12.0]  # a hole further back cuts the chain there


def test_a_reset_or_other_cameras_end_the_history():
    history = history_of(10.0)
    assert not history.before(frame(10.5, ("front", "left")))
    history.clear()
    assert not history.before(frame(10.5))


def test_a_network_that_does_not_look_back_keeps_nothing():
    history = history_of(10.0, 10.5, count=0)
    assert not history._frames and history.before(frame(11.0)) == []


def test_a_pose_that_jumped_is_no_history():
    history = FrameHistory(1, 0.5, max_speed_mps=50.0)
    history.add(frame(10.0))
    assert history.before(frame(10.5, x_m=24.0)) and not history.before(frame(10.5, x_m=26.0))
