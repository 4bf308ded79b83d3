"""``BagFrames``: recordings as a data set, what ``data.nuscenes.NuScenes`` is for folders. No rclpy."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_ros.bag_access import OpenFiles
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_recording import BagRecording, Keyframe
from gsrender_ros.bag_rig import settings_from_file
from gsrender_ros.point_labels import PointLabels, supervision_of
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.training_frame import Moment, TrainingFrameMaker

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Keyframe ``number`` of recording ``recording``."""

    recording: int
    number: int
    scene: str
    token: str


class BagFrames:
    """Frames of one or several bags, in order of scene and time; random access, one message read at a time.

    A scene is a stretch of a bag without a pause, a backward jump of time or a jump of the odometry;
    ``held_out_share`` of every bag's frames, at its end, are scenes of their own, which come last and are named in
    ``held_out_scenes``. Labels and ego frame of frame ``i`` are of its reference stamp. There are no 3D labels:
    ``ground_truth`` is None.

    Can be pickled: the copy opens the bags anew.

    Args:
        paths: the bags.
        image_size: width and height of the frames' images, px.
        config: how they are read.
        label_options: what becomes a label.
        scenes: names of the scenes to read; default all.

    Raises:
        BagError, ValueError, FileNotFoundError: a bag that cannot be used or has other cameras than the first.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        image_size: tuple[int, int] = (704, 256),
        config: BagConfig | None = None,
        label_options: LabelOptions | None = None,
        scenes: Sequence[str] | None = None,
    ):
        self.config = config or BagConfig()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.label_options = label_options or LabelOptions()
        self.root = Path(paths[0])
        self.roots = tuple(Path(path) for path in paths)
        settings = settings_from_file(self.config.params_file) if self.config.params_file else None
        files = OpenFiles()
        self.recordings = [BagRecording(path, self.config, settings, files) for path in self.roots]
        self.cameras = tuple(name.channel for name in self.recordings[0].names)
        self._makers = [self._maker(recording) for recording in self.recordings]
        self._intervals_s = [max(self.config.keyframe_interval_s, r.usual_interval_s()) for r in self.recordings]
        self._require_same_rig()
        self.left_out: Counter = Counter()
        self.samples = self._selected(self._divide(), scenes)
        self.tokens = tuple(sample.token for sample in self.samples)
        self._by_scene: dict[str, list[int]] = {}
        for i, sample in enumerate(self.samples):
            self._by_scene.setdefault(sample.scene, []).append(i)
        held = tuple(s for s in self._by_scene if s.endswith("-held-out"))
        self.held_out_scenes: tuple[str, ...] = held

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Scenes in order, those that are held out at the end."""
        return tuple(self._by_scene)

    def scene_of(self, i: int) -> str:
        """Name of the scene of frame ``i``."""
        return self.samples[i].scene

    def indices_of(self, scene: str) -> list[int]:
        """Frames of a scene, in time order."""
        return list(self._by_scene.get(scene, ()))

    def adjacent(self, i: int, k: int) -> int | None:
        """The frame ``k`` keyframes after ``i`` (before, where ``k`` < 0), in the same scene; None beyond its ends.

        None also where keyframes are missing in between, so that the distance in time is what the count says: where
        they are chosen by time, it is at most half more than ``k`` intervals.
        """
        j = i + k
        if not 0 <= j < len(self.samples) or self.samples[j].scene != self.samples[i].scene:
            return None
        if self.config.keyframe_distance_m == 0:
            apart_s = abs(self._keyframe(j).stamp_ns - self._keyframe(i).stamp_ns) / 1e9
            if apart_s > 1.5 * abs(k) * self._intervals_s[self.samples[i].recording]:
                return None
        return j

    def frame(self, i: int, labels: bool = True) -> Frame:
        """Read frame ``i``.

        Raises:
            ValueError: an image, a sweep or its poses cannot be read (any more).
        """
        return self._read(i, images=True, labels=labels)

    def frame_without_images(self, i: int) -> Frame:
        """As ``frame`` with labels, but its images have no pixels (uint8 [C, 3, 0, 0]): none is read or decoded."""
        return self._read(i, images=False, labels=True)

    def held_out_labels(self, i: int) -> PixelLabels:
        """Labels of the points of frame ``i`` that ``LabelOptions.hold_out`` keeps from its frame's labels.

        Raises:
            ValueError: as ``frame``; nothing is held out.
        """
        if self.label_options.hold_out == 0:
            raise ValueError("no LiDAR points are held out; read the data with LabelOptions(hold_out=...) above 0")
        maker = self._makers[self.samples[i].recording]
        return self._guarded(i, lambda moment, _: self._labels(i, moment, maker.frame(moment, None), held_out=True))

    def lidar_returns(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What the LiDARs measured: origins [N, 3] and points [N, 3] float64, m, ego frame, and classes or None.

        The own vehicle's points are left out. Classes uint8 [N], 255 where unknown; None where no source gives points
        a class.
        """
        maker = self._makers[self.samples[i].recording]

        def read(moment: Moment, keyframe: Keyframe):
            points, classes, _ = maker.points(moment, self._recording(i).clouds(keyframe))
            known = maker.point_labels.supervision in ("field", "function")
            return points.origins_ego, points.points_ego, classes if known else None

        return self._guarded(i, read)

    def ground_truth(self, i: int) -> None:
        """No recording has 3D labels."""
        return None

    def summary(self) -> str:
        """How many frames there are and what was not usable, for the end of a run."""
        dropped = sum((recording.dropped for recording in self.recordings), Counter())
        counts = ", ".join(f"{reason} {count}" for reason, count in (dropped + self.left_out).items())
        return f"{len(self)} frames of {len(self.recordings)} bags; not usable: {counts or 'nothing'}"

    def close(self) -> None:
        """Close the bags' files."""
        for recording in self.recordings:
            recording.messages.close()

    def _recording(self, i: int) -> BagRecording:
        return self.recordings[self.samples[i].recording]

    def _keyframe(self, i: int) -> Keyframe:
        return self._recording(i).keyframes[self.samples[i].number]

    def _guarded(self, i: int, read):
        """Call ``read`` with the moment and keyframe of frame i; whatever a bag can be wrong in is a ValueError."""
        sample, keyframe = self.samples[i], self._keyframe(i)
        try:
            return read(self._recording(i).moment(keyframe, sample.token, sample.scene), keyframe)
        except (BagError, FrameDropped) as error:
            raise ValueError(f"frame {sample.token}: {error}") from error

    def _read(self, i: int, images: bool, labels: bool) -> Frame:
        def read(moment: Moment, keyframe: Keyframe) -> Frame:
            maker = self._makers[self.samples[i].recording]
            frame = maker.frame(moment, self._recording(i).image_messages(keyframe) if images else None)
            return dataclasses.replace(frame, labels=self._labels(i, moment, frame)) if labels else frame

        return self._guarded(i, read)

    def _labels(self, i: int, moment: Moment, frame: Frame, held_out: bool = False) -> PixelLabels:
        maker, recording, keyframe = self._makers[self.samples[i].recording], self._recording(i), self._keyframe(i)
        pictures = None
        if maker.point_labels.supervision == "images":
            pictures = recording.label_images(keyframe)
        return maker.labels(moment, frame, recording.clouds(keyframe), pictures, held_out)

    def _maker(self, recording: BagRecording) -> TrainingFrameMaker:
        supervision = supervision_of(self.config, recording.cloud_fields())
        logger.info("%s: classes from %s", recording.index.path, supervision)
        labels = PointLabels(self.config, supervision)
        return TrainingFrameMaker(self.image_size, self.config, labels, self.label_options)

    def _require_same_rig(self) -> None:
        """Refuse other cameras; name other sizes, lenses and mountings, which are handled bag by bag."""
        first = self.recordings[0]
        for recording in self.recordings[1:]:
            cameras = tuple(name.channel for name in recording.names)
            if cameras != self.cameras:
                raise ValueError(
                    f"{recording.index.path} has cameras {', '.join(cameras)}, {first.index.path} has "
                    f"{', '.join(self.cameras)}: one network takes one set of cameras; name those that both have "
                    "(cameras in bag.params_file) or train apart"
                )
            for text in _rig_differences(first, recording):
                logger.warning("%s and %s: %s; each is read with its own", first.index.path, recording.index.path, text)

    def _selected(self, samples: list[_Sample], scenes: Sequence[str] | None) -> list[_Sample]:
        known = list(dict.fromkeys(sample.scene for sample in samples))
        unknown = [scene for scene in scenes or () if scene not in known]
        if unknown:
            raise ValueError(f"scene {unknown[0]!r} is not in {self.root}; scenes there: {', '.join(known)}")
        return samples if scenes is None else [sample for sample in samples if sample.scene in scenes]

    def _divide(self) -> list[_Sample]:
        """Scenes and held-out scenes of all bags."""
        training, held_out, names = [], [], Counter()
        for number, recording in enumerate(self.recordings):
            name = recording.index.name
            names[name] += 1
            name = f"{name}-{names[name]}" if names[name] > 1 else name
            stretches = self._stretches(recording)
            count = len(recording.keyframes)
            first_held = count - round(self.config.held_out_share * count)
            margin_ns = self.config.held_out_margin_s * 1e9
            for place, stretch in enumerate(stretches):
                scene = f"{name}-{place + 1}" if len(stretches) > 1 else name
                held = [k for k in stretch if k >= first_held]
                kept = [k for k in stretch if k < first_held]
                if held and kept:
                    begin_ns = recording.keyframes[held[0]].stamp_ns
                    near = [k for k in kept if begin_ns - recording.keyframes[k].stamp_ns < margin_ns]
                    if len(near) < len(kept):  # a bag of few frames has none to spare
                        self.left_out["held_out_margin"] += len(near)
                        kept = kept[: len(kept) - len(near)]
                training += [_Sample(number, k, scene, self._token(recording, scene, k)) for k in kept]
                scene = f"{scene}-held-out"
                held_out += [_Sample(number, k, scene, self._token(recording, scene, k)) for k in held]
        return training + held_out

    @staticmethod
    def _token(recording: BagRecording, scene: str, number: int) -> str:
        return f"{scene}_{recording.keyframes[number].stamp_ns}"

    def _stretches(self, recording: BagRecording) -> list[list[int]]:
        stretches: list[list[int]] = []
        before: Keyframe | None = None
        for number, keyframe in enumerate(recording.keyframes):
            gap_s = (keyframe.stamp_ns - before.stamp_ns) / 1e9 if before else 0.0
            if before is None or recording.stretch(keyframe) != recording.stretch(before) or gap_s > self.config.gap_s:
                stretches.append([])
            stretches[-1].append(number)
            before = keyframe
        return stretches


def _rig_differences(first: BagRecording, other: BagRecording) -> list[str]:
    """What differs between the cameras of two bags, in words."""
    texts = []
    moments = [recording.moment(recording.keyframes[0]) for recording in (first, other)]
    mounts = []
    for recording, moment in zip((first, other), moments, strict=True):
        keyframe, run = recording.keyframes[0], recording.keyframes[0].images.run
        mounts.append([recording.mounting(run, frame, keyframe.stamp_ns) for frame in moment.frames])
    for camera, (a, b) in enumerate(zip(moments[0].intrinsics, moments[1].intrinsics, strict=True)):
        name = first.names[camera].camera
        if a.size != b.size:
            texts.append(f"{name} has images of {a.size[0]}x{a.size[1]} and {b.size[0]}x{b.size[1]}")
        elif not a.same_as(b):
            texts.append(f"{name} has other intrinsics (focal length {a.K[0, 0]:.1f} and {b.K[0, 0]:.1f} px)")
        moved_m = float(np.linalg.norm(mounts[0][camera][:3, 3] - mounts[1][camera][:3, 3]))
        turned = np.clip((np.trace(mounts[0][camera][:3, :3].T @ mounts[1][camera][:3, :3]) - 1) / 2, -1, 1)
        if moved_m > 0.02 or np.degrees(np.arccos(turned)) > 0.5:
            texts.append(f"{name} is mounted {moved_m:.2f} m and {np.degrees(np.arccos(turned)):.1f} degrees apart")
    return texts
