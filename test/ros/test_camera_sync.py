import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from gsrender_ros import stragglers
from gsrender_ros.camera_sync import CameraSync, clock_jump_text
from gsrender_ros.layouts import camera_names
from gsrender_ros.parameters import Settings
from gsrender_ros.statistics import FrameStatistics

CAMERAS = ("cam_front", "cam_left", "cam_right")
START = 1_532_402_927_000_000_000
MS = 1_000_000


class FixedClock:
    nanoseconds = START + 777 * MS

    def now(self):
        return self


class Rig:
    """A CameraSync of three cameras with what came out of it. Times in ms since START."""

    def __init__(self, **changes):
        settings = Settings(cameras=CAMERAS, **changes)
        self.statistics = FrameStatistics()
        self.sync = CameraSync(camera_names(settings), settings, self.statistics, FixedClock())
        self.sets, self.jumps = [], []
        self.sync.on_set = self.sets.append
        self.said = []
        self.sync.on_missing = self.said.append
        self.sync.on_jump = lambda before, after: self.jumps.append(((before - START) // MS, (after - START) // MS))

    def image(self, camera: int, at_ms: int | None, frame_id: str = "") -> None:
        stamp_ns = 0 if at_ms is None else START + at_ms * MS
        stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        self.sync.add_image(camera, Image(header=Header(stamp=stamp, frame_id=frame_id)))

    def frame(self, at_ms: int, offsets=(0, 10, 20)) -> None:
        for camera, offset in enumerate(offsets):
            self.image(camera, at_ms + offset)

    @property
    def times(self):
        return [(s.stamp_ns - START) // MS for s in self.sets]

    def assert_accounted(self):
        summary = self.statistics.summary()
        waiting = len(self.sync._expected)
        assert summary.frames_in == len(self.sets) + sum(summary.dropped.values()) + waiting


def test_sets_carry_the_reference_stamp_and_every_cameras_own():
    rig = Rig(reference_camera="cam_left")
    rig.image(2, 30, "right_optical")
    rig.image(0, 0)
    rig.image(1, 15, "/left_optical")
    (found,) = rig.sets
    assert found.stamp_ns == START + 15 * MS
    assert [(s - START) // MS for s in found.stamps_ns] == [0, 15, 30]
    assert found.frames == ("cam_front", "left_optical", "right_optical")
    assert found.channels == ("CAM_FRONT", "CAM_LEFT", "CAM_RIGHT")
    rig.assert_accounted()


def test_a_spread_beyond_the_slop_gives_nothing_and_is_counted_and_explained():
    rig = Rig(sync_queue_size=4)
    for at in range(0, 2000, 200):
        rig.frame(at, offsets=(0, 20, 83))
    assert rig.sets == []
    summary = rig.statistics.summary()
    assert (summary.frames_in, summary.dropped) == (10, {"spread": 6})  # four still wait in the queues
    reason, text = rig.statistics.last_drop
    assert "within sync.slop_s=0.06: best spread 0.083 s, last cam_right" in text
    spread, last = rig.sync.best_spread_s()
    assert (round(spread, 3), last) == (0.083, "cam_right")
    rig.assert_accounted()


def test_a_silent_camera_is_named():
    rig = Rig(sync_queue_size=2)
    for at in range(0, 500, 100):
        rig.image(0, at)
        rig.image(1, at)
    assert rig.statistics.last_drop == ("spread", "no set of 3 images: nothing from cam_right")
    assert rig.sync.best_spread_s() is None


def test_lost_images_cost_their_frame_only():
    rng = np.random.default_rng(11)
    rig = Rig()
    complete = []
    for at in range(0, 8300, 83):
        lost = rng.random(3) < 0.1
        for camera in range(3):
            if not lost[camera]:
                rig.image(camera, at + 12 * camera)
        if not lost.any():
            complete.append(at)
    assert rig.times == complete and len(complete) > 50
    rig.assert_accounted()


def test_a_camera_that_stops_is_named_and_output_resumes_with_its_first_image():
    rig = Rig(sync_queue_size=4)
    for at in range(0, 1000, 100):
        rig.frame(at)
    for at in range(1000, 4000, 100):
        rig.image(0, at)
        rig.image(1, at + 10)
    assert rig.times == list(range(0, 1000, 100))
    assert rig.sync.missing == ("cam_right",)
    (text,) = rig.said
    assert text.startswith("cam_right is missing: no image for more than 1 s; no output until it returns (sync.missing")
    reason, text = rig.statistics.last_drop
    assert (reason, text) == ("spread", "no set of 3 images: nothing more from cam_right (for 2.6 s)")
    rig.frame(4000)
    assert rig.times[-1] == 4000 and rig.sync.missing == ()
    assert rig.said[1:] == ["cam_right is back"]
    rig.assert_accounted()


def test_continue_goes_on_without_a_dead_camera_and_takes_it_back():
    rig = Rig(sync_missing_cameras="continue")
    for at in range(0, 1000, 100):
        rig.frame(at)
    for at in range(1000, 4000, 100):
        rig.image(0, at)
        rig.image(1, at + 10)
    without = [s for s in rig.sets if len(s.channels) == 2]
    assert [(s.stamp_ns - START) // MS for s in without] == list(range(2000, 4000, 100))
    assert {s.channels for s in without} == {("CAM_FRONT", "CAM_LEFT")}
    assert rig.sync.active_cameras == ("cam_front", "cam_left")
    assert "going on without it, what only it sees is guessed" in rig.said[0]
    for at in range(4000, 4300, 100):
        rig.frame(at)
    assert rig.times[-2:] == [4100, 4200] and len(rig.sets[-1].channels) == 3
    rig.assert_accounted()


def test_a_camera_that_was_never_there_is_missing_too_but_the_reference_cannot_be_done_without():
    rig = Rig(sync_missing_cameras="continue", reference_camera="cam_left")
    for at in range(0, 3000, 100):
        rig.image(1, at)
        rig.image(2, at)
    assert {s.channels for s in rig.sets} == {("CAM_LEFT", "CAM_RIGHT")}
    before = len(rig.sets)
    for at in range(3000, 6000, 100):
        rig.image(2, at)
    assert len(rig.sets) == before
    assert "it is the reference_camera, name another one" in rig.said[-1]
    rig.image(1, 6000)
    rig.image(2, 6000)
    assert rig.times[-1] == 6000 and rig.said[-1] == "cam_left is back"
    rig.assert_accounted()


@pytest.mark.parametrize("policy", ["wait", "continue"])
@pytest.mark.parametrize("jump_ms", [5_000, 10**10])
def test_a_pause_or_a_recording_of_a_later_time_accuses_nobody(policy, jump_ms):
    """Every camera's first image after the gap comes when the others' last ones are long past."""
    rig = Rig(sync_missing_cameras=policy)
    for at in [*range(0, 1000, 100), *range(jump_ms, jump_ms + 1000, 100)]:
        rig.frame(at)
    assert rig.times == [*range(0, 1000, 100), *range(jump_ms, jump_ms + 1000, 100)]
    assert rig.said == [] and {len(s.channels) for s in rig.sets} == {3}
    rig.assert_accounted()


def test_a_recording_of_an_earlier_time_is_published_from_its_first_frame():
    rig = Rig()
    for start in (10**9, 0, 5 * 10**8):
        for at in range(start, start + 500, 100):
            rig.frame(at)
    assert rig.times == [at for start in (10**9, 0, 5 * 10**8) for at in range(start, start + 500, 100)]
    rig.assert_accounted()


def test_stamps_that_come_twice_are_counted_and_used_once():
    rig = Rig()
    for at in range(0, 500, 100):
        rig.image(0, at)
        rig.image(0, at)
        rig.image(1, at + 10)
        rig.image(1, at + 10)
        rig.image(2, at + 20)
        rig.image(0, at)
    assert rig.times == list(range(0, 500, 100))
    assert rig.statistics.summary().dropped == {"late": 10}
    assert rig.statistics.last_drop[1].startswith("cam_front published the stamp 1532402927.400 twice")
    rig.assert_accounted()


def test_output_never_goes_back_in_time():
    """A set that becomes complete after a newer one is not published, and is counted once."""
    rig = Rig()
    for at in (0, 100):
        rig.image(0, at)
        rig.image(1, at + 10)
    rig.image(2, 120)  # completes the newer set
    rig.image(2, 20)  # and, late, the older one
    rig.image(0, 50)  # a reference image older than what is out
    rig.frame(200)
    assert rig.times == [100, 200]
    assert rig.statistics.summary().dropped == {"spread": 1, "late": 1}
    rig.assert_accounted()


def test_any_order_of_arrival_is_accounted_for():
    rng = np.random.default_rng(7)
    rig = Rig(sync_queue_size=5)
    arrivals = [(at + 10 * camera, camera) for at in range(0, 20000, 83) for camera in range(3)]
    delays = rng.exponential(40.0, len(arrivals))
    for stamp, camera in (
        arrivals[i] for i in np.argsort([at + d for (at, _), d in zip(arrivals, delays, strict=True)])
    ):
        if rng.random() > 0.05:
            rig.image(camera, stamp)
        if rng.random() < 0.05:
            rig.image(camera, stamp)
    assert rig.times == sorted(set(rig.times)) and len(rig.times) > 80
    rig.assert_accounted()


def test_without_a_clock_arrival_times_are_missed_not_the_publisher(monkeypatch):
    monkeypatch.setattr(FixedClock, "nanoseconds", 0)
    rig = Rig(stamp_source="auto")
    rig.image(0, None)
    assert rig.statistics.last_drop == (
        "zero_stamp",
        "the clock stands at 0: use_sim_time is set and nobody publishes /clock (play the bag with --clock)",
    )


def test_zero_stamps_are_counted_and_never_synchronised():
    rig = Rig()
    for _ in range(5):
        for camera in range(3):
            rig.image(camera, None)
    assert rig.sets == []
    assert rig.statistics.summary().dropped == {"zero_stamp": 5}
    assert rig.sync.images_without_stamp == {name: 5 for name in CAMERAS}
    assert "stamp_source:=auto" in rig.statistics.last_drop[1]
    rig.assert_accounted()


@pytest.mark.parametrize(("source", "stamp", "expected"), [("auto", None, 777), ("auto", 5, 5), ("receive", 5, 777)])
def test_stamp_source(source, stamp, expected):
    rig = Rig(stamp_source=source)
    for camera in range(3):
        rig.image(camera, stamp)
    assert rig.times == [expected]


def test_a_looped_bag_goes_on_after_the_jump(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stragglers.time, "monotonic", lambda: now[0])
    rig = Rig(sync_queue_size=3)
    for round_ in range(3):
        now[0] = 10.0 * round_
        for at in range(0, 1000, 100):
            rig.frame(at)
    assert rig.times == list(range(0, 1000, 100)) * 3
    assert rig.jumps == [(900, 0), (900, 0)]
    rig.assert_accounted()


def test_without_the_rebuild_the_second_round_would_starve():
    """Why the synchroniser is rebuilt: its full queues keep the large stamps and drop every new one."""
    rig = Rig(sync_queue_size=3)
    for at in (0, 100, 200, 300):
        rig.image(0, at)  # only one camera: the queues stay full
    old = rig.sync._gates
    rig.image(0, 0)
    assert rig.sync._gates is not old
    assert rig.statistics.summary().dropped == {"spread": 1, "reset": 3}
    rig.assert_accounted()


def test_stragglers_of_the_time_before_a_jump_do_not_jump_again():
    rig = Rig()
    for at in range(0, 5000, 100):
        rig.frame(at)
    rig.image(0, 0)  # the bag has looped, but the other cameras' queues still hold old images
    rig.image(1, 4910 + 100)
    rig.image(2, 4920 + 100)
    rig.image(0, 5000)
    rig.image(1, 10)
    rig.image(2, 20)
    assert rig.times[-1] == 0 and len(rig.jumps) == 1
    assert rig.statistics.summary().dropped == {"reset": 1}
    rig.assert_accounted()


def test_slightly_late_images_are_no_jump():
    rig = Rig()
    rig.frame(0)
    rig.image(0, 200)
    rig.image(0, 100)
    rig.image(1, 110)
    rig.image(2, 120)
    assert rig.jumps == [] and rig.times == [0, 100]


def test_several_clocks_are_named_where_the_clock_jumps_back():
    class Node:
        publishers = 1

        def count_publishers(self, topic):
            return self.publishers if topic == "/clock" else 0

    node = Node()
    assert clock_jump_text(node) == "the clock jumped back"
    node.publishers = 2
    assert clock_jump_text(node).startswith("the clock jumped back (2 publishers on /clock: end all but one")
