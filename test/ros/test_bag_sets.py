"""Sets of images of a bag are those that the synchroniser makes of the same messages."""

from types import SimpleNamespace

import numpy as np
import pytest

from gsrender_ros.bag_contents import TopicIndex
from gsrender_ros.bag_sets import image_sets, runs_of
from gsrender_ros.parameters import Settings
from gsrender_ros.standins.message_filters import ApproximateTimeSynchronizer, SimpleFilter

MS = 1_000_000


def topic(stamps_ns, log_ns, first_sequence: int) -> TopicIndex:
    count = len(stamps_ns)
    zeros, at, logs = np.zeros(count, np.int64), np.asarray(stamps_ns), np.asarray(log_ns)
    sequence = np.arange(first_sequence, first_sequence + count)
    place = np.zeros((count, 3), np.int64)
    return TopicIndex("/x", "sensor_msgs/msg/Image", logs, at, place, sequence, zeros, zeros, ("",), 0)


def settings(cameras: int, **changes) -> Settings:
    names = tuple(f"c{i}" for i in range(cameras))
    return Settings(cameras=names, reference_camera="c0", stamp_source="header", **changes)


def message(stamp_ns: int):
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp))


@pytest.mark.parametrize("seed", range(5))
def test_sets_are_the_synchronisers_on_random_streams(seed):
    rng = np.random.default_rng(seed)
    topics, base = [], 10**15
    for camera in range(3):
        stamps = base + np.arange(60) * 83 * MS + camera * 15 * MS + rng.integers(-8, 8, 60) * MS
        stamps = np.sort(stamps[rng.random(60) > 0.15])
        logs = np.sort(stamps + rng.integers(0, 120, len(stamps)) * MS)
        topics.append(topic(stamps, logs, camera * 1000))
    found = image_sets(topics, settings(3, sync_slop_s=0.06))

    filters, expected = [SimpleFilter() for _ in topics], []
    synchronizer = ApproximateTimeSynchronizer(filters, 10, 0.06)
    synchronizer.registerCallback(lambda *m: expected.append(tuple(x.header.stamp for x in m)))
    rows = [(t.log_ns[n], t.sequence[n], c, t.stamp_ns[n]) for c, t in enumerate(topics) for n in range(len(t))]
    for _, _, camera, stamp_ns in sorted(rows):
        filters[camera].signalMessage(message(int(stamp_ns)))
    stamps = [tuple(s.sec * 10**9 + s.nanosec for s in each) for each in expected]
    assert [each.stamps_ns for each in found.sets] == stamps
    assert len(stamps) > 20
    assert len(found.sets) + found.dropped["spread"] == len(topics[0])


def test_a_backward_jump_divides_and_old_images_are_dropped():
    at = np.array([0, 1000, 2000, 0, 1000]) * MS + 10**15
    logs = np.array([0, 1000, 2000, 3000, 4000]) * MS + 10**15
    late_logs = logs + np.array([0, 0, 1010, 50, 50]) * MS  # the second camera's last old image comes after the jump
    order = np.argsort(late_logs, kind="stable")
    second = topic(at[order], late_logs[order], 100)
    found = image_sets([topic(at, logs, 0), second], settings(2))
    assert [each.run for each in found.sets] == [0, 0, 1, 1]
    assert len(found.jumps_ns) == 1
    assert sum(found.dropped.values()) == 1  # the image of the first camera whose partner came too late


def test_streams_are_divided_at_their_own_jump_near_the_images():
    logs = np.arange(6) * 100 * MS
    stamps = np.array([0, 100, 200, 0, 100, 200]) * MS + 10**15
    np.testing.assert_array_equal(runs_of(logs, stamps, [250 * MS]), [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(runs_of(logs, np.arange(6) * MS, [150 * MS]), [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(runs_of(logs, stamps, []), np.zeros(6))


def test_images_without_stamps_are_counted_or_take_their_arrival():
    zero = topic(np.zeros(3, np.int64), np.arange(1, 4) * 100 * MS, 0)
    other = topic(np.arange(1, 4) * 100 * MS, np.arange(1, 4) * 100 * MS, 10)
    assert image_sets([zero, other], settings(2)).dropped == {"zero_stamp": 3}
    auto = Settings(cameras=("c0", "c1"), reference_camera="c0", stamp_source="auto")
    assert len(image_sets([zero, other], auto).sets) == 3
