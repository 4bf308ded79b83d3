"""From the messages of a replay to frames with labels in a ``ReplayBuffer``: as ``BagFrames`` makes them of the bag."""

import dataclasses
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.lidar_returns import LidarReturns
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_ros.buffer_transforms import BufferTransforms
from gsrender_ros.clouds import Cloud, CloudError, read_cloud
from gsrender_ros.frame_assembly import ImageSet
from gsrender_ros.image_conversions import decode_label_image
from gsrender_ros.keyframes import KeyframeRule
from gsrender_ros.point_labels import PointLabels, supervision_of
from gsrender_ros.statistics import FrameDropped, FrameStatistics
from gsrender_ros.sweeps import Reference
from gsrender_ros.training_frame import Moment, TrainingFrameMaker

POLL_S = 0.005
WITH_CLASSES, WITHOUT_CLASSES = 1, 0  # as ``is_labelled`` says
BACKLOG = 30  # sets of images that wait for their transforms and sweeps; beyond, the oldest goes
REMEMBERED = 64  # frames whose cameras' stamps are known


@dataclasses.dataclass(frozen=True)
class LiveInputs:
    """Where the parts of a frame come from.

    Attributes:
        topics: ``CameraTopics``, for intrinsics.
        poses: ``PoseSource``.
        streams: ``TrainingTopics``, or what has its ``sweeps`` and ``label_images``.
        wait_s: longest wait for transforms and sweeps, in wall time.
    """

    topics: object
    poses: object
    streams: object
    wait_s: float


class LiveFrames:
    """A thread that makes a frame of each set of images that the keyframe rule wants, and puts it into the buffer.

    Sets are worked on in the order of their arrival, none is overtaken. Every set that is submitted ends in
    ``statistics``: published (put into the buffer), or dropped with a reason.

    Args:
        config: how messages become frames; image size and options as for ``BagFrames``.
        image_size: width and height of the network's images.
        options: what becomes a label.
        inputs: the other streams.
        buffer: takes the frames.
        statistics: counts.

    ``may_put`` says whether a frame is wanted; ``on_drop`` is called with what was dropped, for the log.
    """

    def __init__(
        self,
        config: BagConfig,
        image_size: tuple[int, int],
        options: LabelOptions,
        inputs: LiveInputs,
        buffer: ReplayBuffer,
        statistics: FrameStatistics,
    ):
        self.config, self.image_size, self.options, self.inputs = config, image_size, options, inputs
        self.buffer, self.statistics = buffer, statistics
        self.may_put: Callable[[], bool] = lambda: True
        self.on_drop: Callable[[FrameDropped], None] = lambda dropped: None
        self.made = 0
        self.moments: OrderedDict[str, Moment] = OrderedDict()  # of the newest frames, by token
        self._maker: TrainingFrameMaker | None = None
        self._rule = KeyframeRule(config)
        self._scene, self._last_ns = 1, None
        self._generation = 0  # of time; grows when it jumps back
        self._seen_generation = 0
        self._sets: deque[tuple[ImageSet, int, float]] = deque()
        self._condition = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="live_frames", daemon=True)
        self._thread.start()

    def submit(self, image_set: ImageSet) -> None:
        """Take a set; never blocks."""
        with self._condition:
            self._sets.append((image_set, self._generation, time.monotonic()))
            overflow = len(self._sets) > BACKLOG
            if overflow:
                self._sets.popleft()
            self._condition.notify()
        if overflow:
            self._drop(FrameDropped("superseded", f"{BACKLOG} sets of images wait for their transforms or sweeps"))

    @property
    def backlog(self) -> int:
        """Sets that wait."""
        return len(self._sets)

    def restart(self) -> None:
        """Time jumped back: what waits is dropped, and another scene begins."""
        with self._condition:
            self._generation += 1
            waiting = len(self._sets)
            self._sets.clear()
        self.statistics.dropped("reset", "time jumped back", count=waiting)
        for stream in (*self.inputs.streams.sweeps, *self.inputs.streams.label_images):
            stream.clear()

    def stop(self) -> None:
        """End the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join(10.0)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._sets and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                image_set, generation, arrived_at = self._sets.popleft()
            try:
                started = time.monotonic()
                self._process(image_set, generation)
            except FrameDropped as dropped:
                self._drop(dropped)
            except Exception as error:  # the node must outlive whatever one message does
                self._drop(FrameDropped("error", f"frame lost: {type(error).__name__}: {error}"))
            else:
                self.made += 1
                now = time.monotonic()
                self.statistics.published(now - arrived_at, now - started)

    def _drop(self, dropped: FrameDropped) -> None:
        self.statistics.dropped(dropped.reason, str(dropped))
        if not self._stopping:
            self.on_drop(dropped)

    def _process(self, image_set: ImageSet, generation: int) -> None:
        """As ``BagRecording`` chooses keyframes and ``BagFrames`` reads them."""
        if generation != self._seen_generation:
            self._seen_generation = generation
            self._rule.restart()
            self._begin_scene()
        stamp_ns = image_set.stamp_ns
        if not self._rule.due(stamp_ns):
            raise FrameDropped("between", "a frame was taken less than bag.keyframe_interval_s ago")
        if not self.may_put():
            raise FrameDropped("behind", "the training is behind the replay, or has taken its last frame")
        intrinsics = self._when_known(lambda: self.inputs.topics.intrinsics(image_set.channels))
        messages, sweep_ns = self._sweeps_near(stamp_ns)
        clouds = [self._cloud(message) for message in messages]
        ego, fixed = (f.lstrip("/") for f in (self.inputs.poses.lookup.ego_frame, self.inputs.poses.lookup.fixed_frame))
        at_ns = stamp_ns if self.config.reference == "camera" else sweep_ns
        gap = self._last_ns is not None and stamp_ns - self._last_ns > self.config.gap_s * 1e9
        scene = f"replay-{self._scene + gap}"
        moment = Moment(
            image_set.stamps_ns, image_set.frames, image_set.channels, intrinsics, Reference(ego, fixed, at_ns),
            BufferTransforms(self.inputs.poses.buffer), f"{scene}_{at_ns}", scene,
        )  # fmt: skip
        maker = self._maker_for(clouds)
        rig_pose, returns = self._when_known(lambda: (maker.rig_pose(moment), self._returns(maker, moment, clouds)))
        if not self._rule.moved(rig_pose.T_global_ego):
            raise FrameDropped("between", "the vehicle moved less than bag.keyframe_distance_m")
        label_images = None
        if maker.point_labels.supervision == "images":
            label_images = self._label_images(image_set)
        frame = maker.frame(moment, image_set.messages)
        frame = dataclasses.replace(frame, labels=maker.labels(moment, frame, clouds, label_images))
        if generation != self._generation:
            raise FrameDropped("reset", "time jumped back while the frame was made")
        try:
            taken = self.buffer.put(frame, returns)
        except ValueError as error:
            raise FrameDropped("unusable", str(error)) from error
        if not taken:
            raise FrameDropped("behind", "too many frames wait for the training to take them in")
        if gap:
            self._begin_scene()
        self._rule.use(stamp_ns, rig_pose.T_global_ego)
        self._last_ns = stamp_ns
        self.moments[moment.token] = moment
        while len(self.moments) > REMEMBERED:
            self.moments.popitem(last=False)

    def _begin_scene(self) -> None:
        self._scene, self._last_ns = self._scene + 1, None

    def _cloud(self, message) -> Cloud:
        try:
            return read_cloud(message, self.config.point_times)
        except CloudError as error:
            raise FrameDropped("no_lidar", f"the sweep cannot be used: {error}") from error

    def _maker_for(self, clouds: list[Cloud]) -> TrainingFrameMaker:
        if self._maker is None:
            fields = tuple(sorted(set.intersection(*(set(cloud.fields) for cloud in clouds))))
            try:
                labels = PointLabels(self.config, supervision_of(self.config, fields))
            except ValueError as error:
                raise FrameDropped("no_labels", str(error)) from error
            self._maker = TrainingFrameMaker(self.image_size, self.config, labels, self.options)
        return self._maker

    @property
    def supervision(self) -> str:
        """Where classes come from; empty before the first sweep."""
        return "" if self._maker is None else self._maker.point_labels.supervision

    def _returns(self, maker: TrainingFrameMaker, moment: Moment, clouds: list[Cloud]) -> LidarReturns:
        try:
            points, classes, _ = maker.points(moment, clouds)
        except ValueError as error:
            raise FrameDropped("no_labels", str(error)) from error
        known = maker.point_labels.supervision in ("field", "function")
        origins, ends = (a.astype(np.float32) for a in (points.origins_ego, points.points_ego))
        return LidarReturns(origins, ends, classes if known else None)

    def _label_images(self, image_set: ImageSet) -> list[np.ndarray]:
        images = []
        for stream, stamp_ns in zip(self.inputs.streams.label_images, image_set.stamps_ns, strict=True):
            self._await([stream], stamp_ns)
            (message,), _ = self._nearest([stream], stamp_ns, self.config.semantic_slop_s, "no_labels", [None])
            images.append(decode_label_image(message))
        return images

    def _sweeps_near(self, stamp_ns: int) -> tuple[list, int]:
        """The nearest sweep of every LiDAR and the first one's stamp.

        Where only some sweeps carry classes, the nearest of those, as in ``BagRecording``.
        """
        streams, slop_s = self.inputs.streams.sweeps, self.config.lidar_slop_s
        if not streams:
            raise FrameDropped("no_lidar", "no LiDAR topic is known yet: name them in bag.lidar_topics")
        wanted = self.config.supervision in ("auto", "field") and self.config.label_field == "label"
        self._await(streams, stamp_ns)
        if wanted and any(WITHOUT_CLASSES in stream.marks for stream in streams):
            self._await(streams, stamp_ns + round(slop_s * 1e9))  # the one with classes may be a later one
        mixed = [wanted and {WITH_CLASSES, WITHOUT_CLASSES} <= stream.marks for stream in streams]
        if any(mixed):
            near = [s.nearest(stamp_ns, WITH_CLASSES) for s, is_mixed in zip(streams, mixed, strict=True) if is_mixed]
            if any(n is None or abs(n[0] - stamp_ns) > slop_s * 1e9 for n in near):
                raise FrameDropped("no_labels", f"no sweep with classes near {stamp_ns / 1e9:.3f}, as others have")
        marks = [WITH_CLASSES if is_mixed else None for is_mixed in mixed]
        return self._nearest(streams, stamp_ns, slop_s, "no_lidar", marks)

    def _await(self, streams, stamp_ns: int) -> None:
        """Wait until what the streams have at a stamp is known."""
        deadline = time.monotonic() + self.inputs.wait_s
        while not all(stream.reaches(stamp_ns) for stream in streams) and time.monotonic() < deadline:
            if self._stopping:
                break
            time.sleep(POLL_S)

    def _nearest(self, streams, stamp_ns: int, slop_s: float, reason: str, marks) -> tuple[list, int]:
        """The nearest message of every stream, of those with its mark, and the first one's stamp."""
        found = []
        for stream, mark in zip(streams, marks, strict=True):
            near = stream.nearest(stamp_ns, mark)
            apart_s = abs(near[0] - stamp_ns) / 1e9 if near else float("inf")
            if apart_s > slop_s:
                raise FrameDropped(
                    reason,
                    f"no message on {stream.topic} within {slop_s:g} s of {stamp_ns / 1e9:.3f} (waited "
                    f"{self.inputs.wait_s:g} s, {stream.received} received, the nearest is {apart_s:.3f} s away)",
                )
            found.append(near)
        return [message for _, message in found], found[0][0]

    def _when_known(self, look_up):
        """What ``look_up`` returns, as soon as all transforms and intrinsics that it needs have come."""
        deadline = time.monotonic() + self.inputs.wait_s
        while True:
            try:
                return look_up()
            except FrameDropped as dropped:
                may_come = dropped.reason in ("no_tf", "no_camera_info")
                if not may_come or self._stopping or time.monotonic() >= deadline:
                    raise
            time.sleep(POLL_S)
