"""One bag as moments: complete sets of images with poses, intrinsics and sweeps, chosen as frames of a data set."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_ros.bag_access import BagMessages, OpenFiles
from gsrender_ros.bag_contents import BagIndex
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bag_intrinsics import BagIntrinsics
from gsrender_ros.bag_poses import bag_poses
from gsrender_ros.bag_rig import guess_settings, rig_facts
from gsrender_ros.bag_sets import BagSet, image_sets, image_topics, stamps_of
from gsrender_ros.bag_sweeps import BagSweeps
from gsrender_ros.calibration import read_calibration
from gsrender_ros.clouds import Cloud, read_cloud
from gsrender_ros.image_conversions import decode_label_image
from gsrender_ros.keyframes import KeyframeRule
from gsrender_ros.layouts import camera_names, effective
from gsrender_ros.parameters import Settings
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.sweeps import Reference, transform_between
from gsrender_ros.training_frame import Moment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keyframe:
    """A frame of the data set: its images, the number of the sweep in every LiDAR topic, and its stamp."""

    images: BagSet
    sweeps: tuple[int, ...]
    stamp_ns: int


class BagRecording:
    """Keyframes of one bag in the order in which they were recorded; ``files`` is shared with other bags.

    ``dropped`` counts what could not be used, by reason: images of the reference camera without a complete set
    (``zero_stamp``, ``spread``, ``reset``), sets without what a frame needs (``no_camera_info``, ``calibration``,
    ``no_tf``, ``no_lidar``). ``between`` counts usable sets that lie between keyframes.

    Raises:
        BagError, ValueError, FileNotFoundError: no bag, no such topics, no usable set; a parameter or calibration file
            that is none.
    """

    def __init__(
        self,
        path: str | Path,
        config: BagConfig,
        settings: Settings | None = None,
        files: OpenFiles | None = None,
    ):
        self.index: BagIndex = bag_index(path)
        self.config = config
        self.settings = effective(settings or guess_settings(self.index))
        file = self.settings.calibration_file
        calibration = read_calibration(file) if file else None
        self.names = camera_names(self.settings, calibration)
        self.topics = image_topics(self.index, self.names)
        self.messages = BagMessages(self.index, files)
        found = image_sets(self.topics, self.settings)
        self.dropped: Counter = Counter(found.dropped)
        self.why: dict[str, str] = {}  # first explanation of a reason
        self.between = 0
        self.set_count = len(found.sets)
        self.poses = bag_poses(self.index, self.settings, found.jumps_ns, calibration)
        self._sweeps = BagSweeps(self.index, config, self.settings.stamp_source, found.jumps_ns)
        self.lidars = self._sweeps.topics
        self._intrinsics = BagIntrinsics(self.index, self.names, self.settings.distortion, calibration)
        self.keyframes = self._choose(found.sets)
        self._report()

    def moment(self, keyframe: Keyframe, token: str = "", scene: str = "") -> Moment:
        """What a keyframe is made of.

        Raises:
            FrameDropped: no_camera_info or calibration.
        """
        return self._moment(keyframe.images, keyframe.stamp_ns, token, scene)

    def image_messages(self, keyframe: Keyframe) -> list:
        """The image message of every camera.

        Raises:
            BagError: one cannot be read.
        """
        return [self.messages.read(t, n) for t, n in zip(self.topics, keyframe.images.numbers, strict=True)]

    def clouds(self, keyframe: Keyframe) -> list[Cloud]:
        """The sweep of every LiDAR.

        Raises:
            BagError, CloudError: one cannot be read.
        """
        pairs = zip(self.lidars, keyframe.sweeps, strict=True)
        return [read_cloud(self.messages.read(topic, n), self.config.point_times) for topic, n in pairs]

    def cloud_fields(self) -> tuple[str, ...]:
        """Fields that the first readable cloud of every LiDAR has."""
        found = [{f.name for f in self.messages.read(topic, 0).fields} for topic in self.lidars]
        return tuple(sorted(set.intersection(*found)))

    def usual_interval_s(self) -> float:
        """Median time between keyframes: the cameras may be slower than the interval that is asked for."""
        steps = np.diff([keyframe.stamp_ns for keyframe in self.keyframes])
        return float(np.median(steps[steps > 0])) / 1e9 if (steps > 0).any() else 0.0

    def label_images(self, keyframe: Keyframe) -> list[np.ndarray]:
        """The label image of every camera, integers [H, W].

        Raises:
            FrameDropped: none within ``semantic_slop_s`` of an image, or one that cannot be decoded.
            BagError: one cannot be read.
        """
        images = []
        for camera, stamp_ns in zip(self.settings.cameras, keyframe.images.stamps_ns, strict=True):
            name = "/" + self.config.semantic_topic.replace("{camera}", camera).lstrip("/")
            topic = self.index.topics.get(name)
            if topic is None:
                raise FrameDropped("no_labels", f"{self.index.path} has no topic {name} (bag.semantic_topic)")
            apart_ns = np.abs(stamps_of(topic, self.settings.stamp_source) - stamp_ns)
            nearest = int(apart_ns.argmin())
            if apart_ns[nearest] > self.config.semantic_slop_s * 1e9:
                raise FrameDropped(
                    "no_labels",
                    f"no label image on {name} at {stamp_ns / 1e9:.3f}, the nearest is {apart_ns[nearest] / 1e9:.3f} s "
                    "away (bag.semantic_slop_s)",
                )
            images.append(decode_label_image(self.messages.read(topic, nearest)))
        return images

    def stretch(self, keyframe: Keyframe) -> tuple[int, int]:
        """Equal for keyframes between which neither time nor the odometry jumped."""
        return keyframe.images.run, self.poses.stretch(keyframe.images.run, keyframe.stamp_ns)

    def mounting(self, run: int, frame: str, stamp_ns: int) -> np.ndarray:
        """``T_ego_frame`` [4, 4] of a sensor on the vehicle.

        Raises:
            FrameDropped: reason no_tf.
        """
        return self._transform(run, stamp_ns, frame, stamp_ns)

    def _choose(self, sets: list[BagSet]) -> list[Keyframe]:
        rule, run, chosen = KeyframeRule(self.config), 0, []
        for images in sets:
            if images.run != run:
                rule.restart()
                run = images.run
            reference_ns = images.stamps_ns[self._reference]
            if not rule.due(reference_ns):
                self.between += 1
                continue
            try:
                sweeps, sweep_ns = self._sweeps.at(reference_ns, run)
                stamp_ns = reference_ns if self.config.reference == "camera" else sweep_ns
                T_global_ego = self._check(images, stamp_ns)
                for topic, number in zip(self.lidars, sweeps, strict=True):
                    self._transform(images.run, stamp_ns, *self._sweeps.frame_and_stamp(topic, number))
            except FrameDropped as error:
                self.dropped[error.reason] += 1
                self.why.setdefault(error.reason, str(error))
                continue
            if not rule.moved(T_global_ego):
                self.between += 1
                continue
            rule.use(reference_ns, T_global_ego)
            chosen.append(Keyframe(images, sweeps, stamp_ns))
        return chosen

    @property
    def _reference(self) -> int:
        return self.settings.cameras.index(self.settings.reference_camera)

    def _check(self, images: BagSet, stamp_ns: int) -> np.ndarray:
        """Look at all that a frame needs but its data; ``T_global_ego``."""
        moment = self._moment(images, stamp_ns, "", "")
        for frame, camera_ns in zip(moment.frames, moment.stamps_ns, strict=True):
            self._transform(images.run, stamp_ns, frame, camera_ns)
        fixed = Reference(self.poses.fixed_frame, self.poses.fixed_frame, stamp_ns)
        return transform_between(moment.transforms, fixed, self.settings.ego_frame.lstrip("/"), stamp_ns)

    def _transform(self, run: int, stamp_ns: int, frame: str, at_ns: int) -> np.ndarray:
        reference = Reference(self.settings.ego_frame.lstrip("/"), self.poses.fixed_frame, stamp_ns)
        return transform_between(self.poses.tree(run, stamp_ns), reference, frame, at_ns)

    def _moment(self, images: BagSet, stamp_ns: int, token: str, scene: str) -> Moment:
        frames = tuple(
            (name.frame or topic.frames[topic.frame[number]] or name.default_frame).lstrip("/")
            for name, topic, number in zip(self.names, self.topics, images.numbers, strict=True)
        )
        return Moment(
            stamps_ns=images.stamps_ns,
            frames=frames,
            channels=tuple(name.channel for name in self.names),
            intrinsics=[self._intrinsics.of(i, t, images.numbers[i]) for i, t in enumerate(self.topics)],
            reference=Reference(self.settings.ego_frame.lstrip("/"), self.poses.fixed_frame, stamp_ns),
            transforms=self.poses.tree(images.run, stamp_ns),
            token=token,
            scene=scene,
        )

    def _report(self) -> None:
        for text in self.index.problems:
            logger.warning("%s: %s", self.index.path, text)
        for reason, count in self.poses.refused.items():
            logger.warning("%s: %d transforms refused, %s", self.index.path, count, reason)
        if self.poses.jumps:
            logger.warning(
                "%s: %d jumps of the odometry, first: %s; scenes are divided there", self.index.path,
                len(self.poses.jumps), self.poses.jumps[0],
            )  # fmt: skip
        for reason, count in self.dropped.items():
            logger.warning(
                "%s: %d of %d sets of images not usable: %s%s", self.index.path, count,
                self.set_count + self.dropped["spread"], reason, f" ({self.why[reason]})" if reason in self.why else "",
            )  # fmt: skip
        logger.info(
            "%s: %d frames (%d sets of images, %d between keyframes); %s; LiDAR %s",
            self.index.path, len(self.keyframes), self.set_count, self.between, rig_facts(self.settings),
            ", ".join(topic.topic for topic in self.lidars),
        )  # fmt: skip
        if not self.keyframes:
            counts = ", ".join(f"{n} {reason} ({self.why.get(reason, '')})" for reason, n in self.dropped.items())
            raise ValueError(f"{self.index.path} has no usable frame: {counts or 'no complete set of images'}")
