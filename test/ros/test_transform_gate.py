import numpy as np
import pytest
from rclpy.duration import Duration
from rclpy.time import Time

from gsrender_core.geometry import transform
from gsrender_ros import stragglers, transform_gate
from gsrender_ros.standins import Buffer
from gsrender_ros.tf_lookup import matrix_from_message, message_from_matrix
from gsrender_ros.transform_gate import TransformGate

CACHE_S = 10
START_S = 1_700_000_000


def near(x: float):
    return pytest.approx(x, abs=1e-5)  # interpolated between rounded stamps


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, text, **_):
        self.lines.append(text)


class Gate:
    """A gate before a real buffer, with seconds since START_S; ego's x is what is set, so look-ups show whose it is."""

    def __init__(self):
        self.log = Log()
        self.buffer = Buffer(cache_time=Duration(seconds=CACHE_S))
        self.gate = TransformGate(self.buffer, CACHE_S * 10**9, self.log)

    def set(self, at_s: float, x: float, child: str = "ego") -> None:
        stamp_ns = round((START_S + at_s) * 1e9)
        self.gate.set_transform(message_from_matrix(transform((1, 0, 0, 0), (x, 0, 0)), "map", child, stamp_ns))

    def clear(self, after_s: float | None = None) -> None:
        self.gate.clear(None if after_s is None else round((START_S + after_s) * 1e9))

    def x(self, at_s: float, child: str = "ego") -> float | None:
        """Where the child is, None where nothing is known of that time."""
        time = Time(nanoseconds=round((START_S + at_s) * 1e9))
        if not self.buffer.can_transform("map", child, time):
            return None
        return float(matrix_from_message(self.buffer.lookup_transform("map", child, time))[0, 3])


@pytest.fixture
def wall(monkeypatch):
    """Wall time that moves only when told."""

    class Wall:
        now = 100.0

        def monotonic(self):
            return self.now

    wall = Wall()
    monkeypatch.setattr(transform_gate, "time", wall)
    monkeypatch.setattr(stragglers, "time", wall)
    return wall


def test_transforms_go_through_and_clear_forgets_those_that_move(wall):
    rig = Gate()
    rig.gate.set_transform_static(message_from_matrix(transform((1, 0, 0, 0), (7, 0, 0)), "map", "mast"))
    rig.set(0, 1.0)
    rig.set(1, 2.0)
    assert rig.x(0.5) == near(1.5) and rig.x(0, "mast") == 7
    rig.clear()
    assert rig.x(0.5) is None and rig.x(0, "mast") == 7
    rig.set(0.1, 5.0)  # without a new time nothing is known of a jump: nothing is taken for a straggler
    assert rig.x(0.1) == near(5.0)


@pytest.mark.parametrize("length_s", [3, 300])
def test_a_straggler_of_the_time_before_a_jump_neither_silences_nor_bends_what_follows(wall, length_s):
    rig = Gate()
    for at_s in np.arange(length_s - 1, length_s, 0.1):
        rig.set(at_s, 1000.0)
    rig.clear(after_s=0.0)
    rig.set(length_s, 1000.0)
    for at_s in (0.0, 0.1, 0.2):
        rig.set(at_s, at_s)
    assert rig.x(0.15) == near(0.15) and rig.x(0.3) is None
    assert not rig.log.lines
    # its own new time has begun: nothing of this frame is held back any more
    rig.set(length_s * 0.8, 5.0)
    assert rig.x(length_s * 0.8) == near(5.0)


def test_a_frame_that_never_shows_the_new_time_is_held_back_for_a_while_only(wall):
    rig = Gate()
    rig.set(300, 1.0)
    rig.clear(after_s=0.0)
    rig.set(301, 2.0)
    assert rig.x(301) is None
    wall.now += stragglers.STRAGGLER_S
    rig.set(302, 3.0)
    assert rig.x(302) == 3.0


def test_what_came_of_the_new_time_before_the_jump_was_noticed_is_kept(wall):
    rig = Gate()
    for at_s in (8.0, 8.1, 8.2):
        rig.set(at_s, 1000.0)
        rig.set(at_s, 1000.0, "arm")
    rig.set(0.0, 0.0)  # the transforms loop first
    rig.set(0.1, 0.1)
    rig.clear(after_s=0.05)
    assert rig.x(0.05) == near(0.05)
    assert rig.x(0.15) is None and rig.x(8.1) is None and rig.x(8.1, "arm") is None
    rig.set(0.2, 0.2)
    assert rig.x(0.15) == near(0.15)
    rig.set(8.3, 1000.0, "arm")  # the arm has not looped yet
    assert rig.x(8.3, "arm") is None


def test_what_went_back_long_before_the_clear_is_not_of_the_new_time(wall):
    rig = Gate()
    rig.set(8.0, 1000.0)
    rig.set(0.0, 0.0)
    wall.now += transform_gate.NEW_TIME_S
    rig.set(0.1, 0.1)
    rig.clear(after_s=0.0)
    assert rig.x(0.0) is None and rig.x(0.1) is None


def test_one_stamp_far_ahead_silences_a_buffer_but_not_one_behind_a_gate(wall):
    rig = Gate()
    rig.set(0.0, 0.0)
    rig.set(5000.0, 1.0)  # of a publisher that does not follow use_sim_time, say
    for at_s in (0.1, 0.2):
        rig.set(at_s, at_s)
        assert rig.x(at_s) is None and not rig.log.lines
    rig.set(0.3, 0.3)
    assert rig.x(0.15) == near(0.15) and rig.x(0.3) == near(0.3) and rig.x(5000.0) is None
    (line,) = rig.log.lines
    assert line.startswith("the last 3 transforms of ego are 4999.7 s older than one before them (at 1700005000.000;")
    rig.set(0.4, 0.4)
    assert rig.x(0.4) == near(0.4)


def test_late_transforms_among_others_clear_nothing(wall):
    rig = Gate()
    for at_s in range(100, 130):
        rig.set(at_s, at_s)
        rig.set(at_s - 90, -1.0)  # another publisher of the same frame, far behind
        rig.set(at_s - 90, -1.0)
    assert rig.x(125.5) == near(125.5) and not rig.log.lines


def test_stamps_of_zero_are_left_to_the_buffer(wall):
    rig = Gate()
    rig.set(0, 0.0)
    for _ in range(5):
        rig.set(-START_S, 9.0)
    rig.set(1, 1.0)
    assert rig.x(0.5) == near(0.5) and not rig.log.lines
