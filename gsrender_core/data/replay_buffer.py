"""``ReplayBuffer``: a data set that grows while it is read, and forgets when its memory is full."""

import dataclasses
import logging
import threading
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.frame import Frame, require_labels
from gsrender_core.data.lidar_returns import LidarReturns, frame_bytes

logger = logging.getLogger(__name__)

FEW_FRAMES = 16  # a buffer that holds no more than this hardly shows a drive
RECENT_STEPS = 100  # of which the usual distance in time is the median


@dataclass
class _Stretch:
    """Consecutive frames by number. ``priority``: the lowest is forgotten first."""

    number: int
    held_out: bool
    priority: float
    numbers: list[int] = field(default_factory=list)
    open: bool = True  # frames are still added


class ReplayBuffer:
    """Frames of a replay in the order of their arrival, as a data set.

    Frames are numbered 0, 1, 2, ... as they are taken in; a number is never given again, and ``i`` below is one.
    ``adjacent`` counts in them, within a scene and within what is trained on or held out.

    Any thread may ``put`` frames; they wait until the one thread that reads the data set calls ``take_in``. So what it
    reads changes between two steps of a training only, and what is forgotten depends on the order of arrival alone.

    What is forgotten: whole stretches of consecutive frames, so that neighbours stay together, and of those a random
    choice. Every stretch draws a priority; the highest stay. That is reservoir sampling: however long the replay, each
    stretch that has passed is in the buffer with the same probability, and the network does not forget the beginning
    of a drive for its end. Every ``hold_out_every``-th stretch is held out of training, in a share of the memory of
    its own.

    Args:
        limits: memory and stretches.
        name: of the source, for checkpoints (``root``).
    """

    def __init__(self, limits: BufferLimits, name: str = "replay"):
        self.limits, self.root = limits, name
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Frame, LidarReturns | None]] = deque()
        self._waiting_bytes = 0
        self._frames: dict[int, Frame] = {}
        self._returns: dict[int, LidarReturns] = {}  # of held-out frames
        self._stretch_of: dict[int, _Stretch] = {}
        self._stretches: list[_Stretch] = []
        self._bytes = {False: 0, True: 0}  # of what is trained on, and held out
        self._rig: tuple | None = None  # of the first frame; read and set under the lock
        self._last: Frame | None = None  # the newest that was put
        self._steps_s: deque[float] = deque(maxlen=RECENT_STEPS)  # between consecutive frames
        self._count = self._stretch_count = 0
        self.forgotten = 0

    # -- filling: any thread ------------------------------------------------------------------------------------------

    def put(self, frame: Frame, returns: LidarReturns | None = None) -> bool:
        """Let a frame wait to be taken in; False where too many wait already, and nothing has happened then.

        ``returns``: what its LiDARs measured, kept for frames that are held out.

        Raises:
            ValueError: no usable labels, another rig than the first frame's, not later than the frame before it in its
                scene, or larger than the memory. The text says which.
        """
        size_bytes = self._check(frame, returns)
        with self._lock:
            if self._waiting_bytes + size_bytes > self.limits.waiting_bytes:
                return False
            rig = frame.camera_names, frame.image_size
            if self._rig is not None and rig != self._rig:
                now, before = (f"{', '.join(names)} at {size[0]}x{size[1]}" for names, size in (rig, self._rig))
                raise ValueError(
                    f"frame {frame.token} has cameras {now}, the replay began with {before}: another rig needs a run "
                    "of its own"
                )
            last = self._last
            if last is not None and last.scene == frame.scene and frame.stamp_ns <= last.stamp_ns:
                raise ValueError(
                    f"frame {frame.token} of {frame.scene} is {(last.stamp_ns - frame.stamp_ns) / 1e9:.3f} s earlier "
                    "than the one before it: time that jumps back begins another scene"
                )
            self._rig, self._last = rig, frame
            self._waiting.append((frame, returns))
            self._waiting_bytes += size_bytes
        return True

    def _check(self, frame: Frame, returns: LidarReturns | None) -> int:
        require_labels(frame)
        size_bytes, limits = frame_bytes(frame, returns), self.limits
        kinds = (False, True) if limits.hold_out_every else (False,)
        smallest = min(limits.waiting_bytes, *(limits.part_bytes(held_out) for held_out in kinds))
        if size_bytes > smallest:
            raise ValueError(
                f"one frame needs {size_bytes / 1e6:.3g} MB, the smallest part of the buffer has {smallest / 1e6:.3g} "
                "MB: give it more memory"
            )
        return size_bytes

    # -- what the reading thread does ---------------------------------------------------------------------------------

    def take_in(self) -> set[int]:
        """Take in the frames that wait; the numbers that were forgotten for them."""
        forgotten: set[int] = set()
        while True:
            with self._lock:
                if not self._waiting:
                    return forgotten
                frame, returns = self._waiting.popleft()
                self._waiting_bytes -= frame_bytes(frame, returns)
            forgotten |= self._add(frame, returns)

    def _add(self, frame: Frame, returns: LidarReturns | None) -> set[int]:
        stretch = self._stretch_for(frame)
        returns = returns if stretch.held_out else None
        size_bytes = frame_bytes(frame, returns)
        forgotten = self._make_room(stretch, size_bytes)
        held = self.limits.part_bytes(held_out=False) // size_bytes
        if self._count == 0 and held < max(FEW_FRAMES, 2 * self.limits.stretch):
            logger.warning("the buffer holds no more than %d frames to train on: give it more memory", held)
        number, self._count = self._count, self._count + 1
        stretch.numbers.append(number)
        stretch.open = len(stretch.numbers) < self.limits.stretch
        before = self._frames.get(number - 1)
        if before is not None and before.scene == frame.scene:
            self._steps_s.append((frame.stamp_ns - before.stamp_ns) / 1e9)
        self._frames[number], self._stretch_of[number] = frame, stretch
        if returns is not None:
            self._returns[number] = returns
        self._bytes[stretch.held_out] += size_bytes
        return forgotten

    def _stretch_for(self, frame: Frame) -> _Stretch:
        """The open stretch that a frame continues, or a new one."""
        newest = self._stretches[-1] if self._stretches else None
        if newest is not None and newest.open and newest.numbers:
            if self._frames[newest.numbers[-1]].scene == frame.scene:
                return newest
            newest.open = False
        every, number = self.limits.hold_out_every, self._stretch_count
        self._stretch_count += 1
        priority = float(np.random.default_rng((self.limits.seed, number)).random())
        stretch = _Stretch(number, every > 0 and number % every == every // 2, priority)
        self._stretches.append(stretch)
        return stretch

    def _make_room(self, growing: _Stretch, size_bytes: int) -> set[int]:
        """Forget stretches of the part that ``growing`` belongs to until ``size_bytes`` more fit."""
        forgotten: set[int] = set()
        while self._bytes[growing.held_out] + size_bytes > self.limits.part_bytes(growing.held_out):
            others = [s for s in self._stretches if s.held_out == growing.held_out and s is not growing]
            # Where a stretch does not fit by itself, it forgets its own beginning.
            gone = min(others, key=lambda s: s.priority) if others else None
            numbers = [growing.numbers.pop(0)] if gone is None else gone.numbers
            if gone is not None:
                self._stretches.remove(gone)
            for i in numbers:
                self._bytes[growing.held_out] -= frame_bytes(self._frames.pop(i), self._returns.pop(i, None))
                del self._stretch_of[i]
            forgotten.update(numbers)
        self.forgotten += len(forgotten)
        return forgotten

    def numbers(self, held_out: bool) -> list[int]:
        """Numbers of the frames that are trained on, or that are held out, in order."""
        return [i for stretch in self._stretches if stretch.held_out == held_out for i in stretch.numbers]

    @property
    def used_bytes(self) -> int:
        """Memory of all frames, waiting or taken in."""
        return sum(self._bytes.values()) + self._waiting_bytes

    @property
    def waiting(self) -> int:
        """Frames that wait to be taken in."""
        return len(self._waiting)

    @property
    def waiting_share(self) -> float:
        """How much of the memory for frames that wait is in use, 0 .. 1."""
        return self._waiting_bytes / self.limits.waiting_bytes

    @property
    def taken_in(self) -> int:
        """Frames that were taken in so far, forgotten ones included."""
        return self._count

    @property
    def newest(self) -> Frame | None:
        """The newest frame that was put, taken in or not."""
        return self._last

    # -- as a data set ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Scenes of the frames that are held, in order."""
        return tuple(dict.fromkeys(frame.scene for frame in self._frames.values()))

    def scene_of(self, i: int) -> str:
        """Name of the scene of frame ``i``."""
        return self.frame(i).scene

    def indices_of(self, scene: str) -> list[int]:
        """Frames of a scene that are held, in order."""
        return [i for i, frame in self._frames.items() if frame.scene == scene]

    def adjacent(self, i: int, k: int) -> int | None:
        """The frame ``k`` arrivals after ``i`` (before, where ``k`` < 0).

        None where it is of another scene, is forgotten, or where one is trained on and the other held out; and where
        they are farther apart than half more than ``k`` intervals, as in ``BagFrames``: frames are missing there.
        """
        j = i + k
        if j not in self._frames or self._frames[j].scene != self._frames[i].scene:
            return None
        if self.limits.interval_s > 0:
            apart_s = abs(self._frames[j].stamp_ns - self._frames[i].stamp_ns) / 1e9
            usual_s = float(np.median(self._steps_s)) if self._steps_s else 0.0  # cameras may be slower
            if apart_s > 1.5 * abs(k) * max(self.limits.interval_s, usual_s):
                return None
        return j if self._stretch_of[i].held_out == self._stretch_of[j].held_out else None

    def frame(self, i: int, labels: bool = True) -> Frame:
        """Frame ``i``.

        Raises:
            ValueError: it is forgotten, or was never there.
        """
        if i not in self._frames:
            raise ValueError(f"frame {i} is not in the buffer: {len(self)} of {self._count} frames are held")
        frame = self._frames[i]
        return frame if labels else dataclasses.replace(frame, labels=None)

    def frame_without_images(self, i: int) -> Frame:
        """As ``frame``, its images uint8 [C, 3, 0, 0]."""
        frame = self.frame(i)
        return dataclasses.replace(frame, images=frame.images[..., :0, :0])

    def lidar_returns(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Origins [N, 3], points [N, 3] (m, ego frame) and classes (uint8 [N] or None) of a held-out frame.

        Raises:
            ValueError: the frame is not held out, is forgotten, or came without.
        """
        if i not in self._returns:
            raise ValueError(f"frame {i}: only held-out frames keep their LiDAR returns")
        returns = self._returns[i]
        return returns.origins_ego, returns.points_ego, returns.classes

    def ground_truth(self, i: int) -> None:
        """None: recordings have no labelled voxels."""
