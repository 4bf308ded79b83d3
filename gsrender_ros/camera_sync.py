"""From image topics to sets of images of one moment: subscribe, check stamps, synchronise approximately.

Every image of the reference camera is a frame that came in; what becomes of it is counted by reason.
Time that jumps back (a looped bag) throws everything away that was waiting.
"""

from collections import Counter, deque

from rclpy.clock import JumpThreshold
from rclpy.duration import Duration

from gsrender_ros.frame_assembly import ImageSet
from gsrender_ros.image_conversions import set_stamp, stamp_to_ns
from gsrender_ros.layouts import CameraNames
from gsrender_ros.standins import ApproximateTimeSynchronizer, SimpleFilter
from gsrender_ros.statistics import FrameStatistics
from gsrender_ros.stragglers import BACKWARD_JUMP_NS, Stragglers


class CameraSync:
    """Turns single images into ``ImageSet``s. One thread (the executor's) calls it.

    Args:
        cameras: the cameras in order.
        settings: sync, stamp source and reference camera.
        statistics: counts frames.
        clock: the node's clock, read where the stamp is the time of arrival.

    ``on_set`` is called with every complete ``ImageSet``, ``on_jump`` when the stamps jump back, with the
    stamps before and after in ns, ``on_missing`` with a text when cameras go missing or return.

    Cameras are missing (``missing``, their names) whose images lag ``sync.camera_timeout_s`` behind the others'.
    Where ``sync.missing_cameras`` is "continue", sets are made without them from then on, and with them again from
    their next image on.
    """

    def __init__(self, cameras: tuple[CameraNames, ...], settings, statistics: FrameStatistics, clock):
        self.cameras = cameras
        self._settings = settings
        self._statistics = statistics
        self._clock = clock
        self._reference = [c.camera for c in cameras].index(settings.reference_camera)
        self.on_set = lambda image_set: None
        self.on_missing = lambda text: None
        self.on_jump = lambda before_ns, after_ns: None
        self.images_received: Counter = Counter()
        self.images_without_stamp: Counter = Counter()
        self.recent_stamps_ns = {c.camera: deque(maxlen=settings.sync_queue_size) for c in cameras}
        self._stragglers = Stragglers()
        self._newest_set_ns = 0
        # Newest stamp of any camera, and the first since the last silence of all.
        self._newest_ns = self._started_ns = 0
        self.missing: tuple[str, ...] = ()
        self._rebuild()

    def add_image(self, index: int, message) -> None:
        """Take an image message of camera ``index``."""
        name = self.cameras[index].camera
        self.images_received[name] += 1
        if index == self._reference:
            self._statistics.received()
        stamp_ns = self._stamp_of(message)
        if stamp_ns == 0:
            self._drop_without_stamp(index, name)
            return
        if self._stragglers.holds(index, stamp_ns):
            if index == self._reference:
                self._statistics.dropped("reset", "image of the time before the jump")
            return
        recent = self.recent_stamps_ns[name]
        if recent and stamp_ns < max(recent) - BACKWARD_JUMP_NS:
            before_ns = max(recent)
            self.reset(stamp_ns)  # this image belongs to the new time: reset first, then take it
            self.on_jump(before_ns, stamp_ns)
            recent = self.recent_stamps_ns[name]
        if self._is_late(index, stamp_ns):
            return
        recent.append(stamp_ns)
        if index == self._reference:
            self._expect(stamp_ns)
        self._watch(index, stamp_ns)
        self._gates[index].signalMessage(message)

    def reset(self, after_ns: int) -> None:
        """Forget all waiting images because time jumped back to ``after_ns``, and rebuild the synchroniser.

        Its queues drop their smallest stamps first: without the rebuild, the images of a second round of a
        bag would be the ones thrown away.
        """
        self._statistics.dropped("reset", "time jumped back", count=len(self._expected))
        before_ns = max((stamps[-1] for stamps in self.recent_stamps_ns.values() if stamps), default=after_ns)
        for stamps in self.recent_stamps_ns.values():
            stamps.clear()
        self._newest_set_ns = self._newest_ns = self._started_ns = 0
        self.missing = ()
        self._rebuild()
        self._stragglers.begin(range(len(self.cameras)), before_ns, after_ns)

    @property
    def active_cameras(self) -> tuple[str, ...]:
        """Names of the cameras of which sets are made."""
        return tuple(self.cameras[index].camera for index in self._active)

    def best_spread_s(self) -> tuple[float, str] | None:
        """Smallest spread of stamps over recent images and the camera that lagged most; None if a camera is silent."""
        if any(not stamps for stamps in self.recent_stamps_ns.values()):
            return None
        best = None
        for anchor in list(self.recent_stamps_ns[self._settings.reference_camera]):
            nearest = {
                name: min(stamps, key=lambda s, anchor=anchor: abs(s - anchor))
                for name, stamps in self.recent_stamps_ns.items()
            }
            spread_s = (max(nearest.values()) - min(nearest.values())) / 1e9
            if best is None or spread_s < best[0]:
                best = (spread_s, max(nearest, key=nearest.get))
        return best

    def _rebuild(self) -> None:
        self._expected: list[int] = []
        self._connect()

    def _connect(self) -> None:
        """Synchronise those cameras that are there; the images that wait are not carried over."""
        without = self.missing if self._settings.sync_missing_cameras == "continue" else ()
        self._active = [
            index
            for index, camera in enumerate(self.cameras)
            if index == self._reference or camera.camera not in without
        ]
        self._gates = [SimpleFilter() for _ in self.cameras]
        self._synchronizer = ApproximateTimeSynchronizer(
            [self._gates[index] for index in self._active],
            queue_size=self._settings.sync_queue_size,
            slop=self._settings.sync_slop_s,
        )
        self._synchronizer.registerCallback(self._on_messages)

    def _stamp_of(self, message) -> int:
        stamp_ns = stamp_to_ns(message.header.stamp)
        source = self._settings.stamp_source
        if source == "receive" or (source == "auto" and stamp_ns == 0):
            stamp_ns = self._clock.now().nanoseconds
            set_stamp(message.header.stamp, stamp_ns)
        return stamp_ns

    def _drop_without_stamp(self, index: int, name: str) -> None:
        self.images_without_stamp[name] += 1
        if index != self._reference:
            return
        if self._settings.stamp_source in ("receive", "auto"):
            text = "the clock stands at 0: use_sim_time is set and nobody publishes /clock (play the bag with --clock)"
        else:
            text = (
                f"images of {name} have stamp 0: set stamp_source:=auto to use their arrival time (their publisher "
                "never fills the header)"
            )
        self._statistics.dropped("zero_stamp", text)

    def _is_late(self, index: int, stamp_ns: int) -> bool:
        """Whether an image repeats a stamp of its camera, or is a reference image older than a set that is out."""
        name = self.cameras[index].camera
        if stamp_ns in self.recent_stamps_ns[name]:
            text = f"{name} published the stamp {stamp_ns / 1e9:.3f} twice"
        elif index == self._reference and stamp_ns <= self._newest_set_ns:
            text = (
                f"an image of {name} came {(self._newest_set_ns - stamp_ns) / 1e9:.3f} s after a newer set was complete"
            )
        else:
            return False
        if index == self._reference:
            self._statistics.dropped("late", text)
        return True

    def _watch(self, index: int, stamp_ns: int) -> None:
        """Notice cameras that stop and that return; stamps are compared with stamps, arrival may be delayed."""
        limit_ns = round(self._settings.sync_camera_timeout_s * 1e9)
        if stamp_ns - self._newest_ns > limit_ns:
            self._started_ns = stamp_ns  # all were silent, or it is another recording: judge nobody by that
        self._newest_ns = max(self._newest_ns, stamp_ns)
        judged = self.cameras if index == self._reference else (self.cameras[self._reference], self.cameras[index])
        last_ns = {c.camera: max(self._started_ns, max(self.recent_stamps_ns[c.camera], default=0)) for c in judged}
        known = [name for name in self.missing if name not in last_ns]
        missing = (*known, *(name for name, at_ns in last_ns.items() if stamp_ns - at_ns > limit_ns))
        gone = [name for name in missing if name not in self.missing]
        back = [name for name in self.missing if name not in missing]
        if not gone and not back:
            return
        self.missing = missing
        if self._settings.sync_missing_cameras == "continue":
            self._connect()
        for name in gone:
            self.on_missing(
                f"{name} is missing: no image for more than {self._settings.sync_camera_timeout_s:g} s; "
                f"{self._consequence(name)}"
            )
        for name in back:
            self.on_missing(f"{name} is back")

    def _consequence(self, name: str) -> str:
        if name == self.cameras[self._reference].camera:
            return "no output until it returns: it is the reference_camera, name another one to do without it"
        if self._settings.sync_missing_cameras == "continue":
            return "going on without it, what only it sees is guessed"
        return "no output until it returns (sync.missing_cameras:=continue would go on without it)"

    def _expect(self, stamp_ns: int) -> None:
        self._expected.append(stamp_ns)
        if len(self._expected) > self._settings.sync_queue_size:
            oldest_ns = min(self._expected)
            self._expected.remove(oldest_ns)  # as the synchroniser does
            self._drop_unmatched(1, oldest_ns)

    def _drop_unmatched(self, count: int, stamp_ns: int) -> None:
        best = self.best_spread_s()
        cameras = len(self._active)
        slop = f"sync.slop_s={self._settings.sync_slop_s:g}"
        stopped = [name for name in self.missing if self.recent_stamps_ns[name]]
        if best is None:
            silent = [name for name, stamps in self.recent_stamps_ns.items() if not stamps]
            text = f"no set of {cameras} images: nothing from {', '.join(silent)}"
        elif stopped:
            ages_s = [(stamp_ns - max(self.recent_stamps_ns[name])) / 1e9 for name in stopped]
            lags = ", ".join(f"{name} (for {age_s:.1f} s)" for name, age_s in zip(stopped, ages_s, strict=True))
            text = f"no set of {cameras} images: nothing more from {lags}"
        else:
            text = f"no set of {cameras} images within {slop}: best spread {best[0]:.3f} s, last {best[1]}"
        self._statistics.dropped("spread", text, count=count)

    def _on_messages(self, *messages) -> None:
        stamps_ns = tuple(stamp_to_ns(message.header.stamp) for message in messages)
        stamp_ns = stamps_ns[self._active.index(self._reference)]
        if stamp_ns <= self._newest_set_ns:
            return  # counted when the newer set was complete
        self._newest_set_ns = stamp_ns
        unmatched = [expected_ns for expected_ns in self._expected if expected_ns < stamp_ns]
        self._expected = [expected_ns for expected_ns in self._expected if expected_ns > stamp_ns]
        if unmatched:
            self._drop_unmatched(len(unmatched), max(unmatched))
        cameras = [self.cameras[index] for index in self._active]
        self.on_set(
            ImageSet(
                messages=messages,
                stamps_ns=stamps_ns,
                frames=tuple(
                    (c.frame or message.header.frame_id or c.default_frame).lstrip("/")
                    for c, message in zip(cameras, messages, strict=True)
                ),
                channels=tuple(c.channel for c in cameras),
                stamp_ns=stamp_ns,
            )
        )


def watch_clock(clock, on_backward_jump) -> object:
    """Call back when a (simulated) clock jumps back; keep the returned handle as long as it shall watch."""
    threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
    return clock.create_jump_callback(threshold, post_callback=lambda _: on_backward_jump())


def clock_jump_text(node) -> str:
    """That the clock jumped back, and why it may do so all the time: nothing would ever come out."""
    publishers = node.count_publishers("/clock")
    if publishers < 2:
        return "the clock jumped back"
    return f"the clock jumped back ({publishers} publishers on /clock: end all but one, or give them other domains)"
