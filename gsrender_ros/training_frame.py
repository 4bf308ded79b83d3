"""From the messages of one moment to a frame with labels: the one way for bags that are read and for replays."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.lidar_labels import CameraView, LabelOptions, held_out_points, on_own_vehicle, pixel_labels
from gsrender_ros.clouds import Cloud
from gsrender_ros.frame_assembly import FrameAssembler, ImageSet, RigPose
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit
from gsrender_ros.point_labels import PointLabels
from gsrender_ros.sweeps import Reference, SweepPoints, sweep_points, transform_between
from gsrender_ros.transform_tree import TransformTree


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a frame is made of: where the rig and the LiDARs were is in ``transforms``.

    Attributes:
        stamps_ns: of every camera's image.
        frames: of every camera.
        channels: names of the cameras, as ``Frame.camera_names``.
        intrinsics: of every camera's images as they arrive.
        reference: the frame's stamp, the ego frame and the frame that stands still.
        transforms: reaching from the earliest to the latest stamp of image and point.
        token, scene: of the frame.
    """

    stamps_ns: tuple[int, ...]
    frames: tuple[str, ...]
    channels: tuple[str, ...]
    intrinsics: list[Intrinsics]
    reference: Reference
    transforms: TransformTree
    token: str = ""
    scene: str = ""


class TrainingFrameMaker:
    """Makes frames of moments.

    Args:
        image_size: (width, height) of the network's images.
        config: of the recording.
        point_labels: where classes come from.
        options: what becomes a label.

    Can be pickled.
    """

    def __init__(
        self, image_size: tuple[int, int], config: BagConfig, point_labels: PointLabels, options: LabelOptions
    ):
        self.image_size, self.config, self.point_labels, self.options = image_size, config, point_labels, options
        self._assemble = FrameAssembler(image_size, AreaFit)

    def __getstate__(self):
        return self.image_size, self.config, self.point_labels, self.options

    def __setstate__(self, state):
        self.__init__(*state)

    def rig_pose(self, moment: Moment) -> RigPose:
        """Where every camera stood when it fired.

        Raises:
            FrameDropped: reason no_tf.
        """
        cameras = zip(moment.frames, moment.stamps_ns, strict=True)
        T_ego_cam = [transform_between(moment.transforms, moment.reference, *camera) for camera in cameras]
        reference = moment.reference
        fixed = Reference(reference.fixed_frame, reference.fixed_frame, reference.stamp_ns)
        T_global_ego = transform_between(moment.transforms, fixed, reference.ego_frame, reference.stamp_ns)
        return RigPose(np.stack(T_ego_cam), T_global_ego)

    def frame(self, moment: Moment, messages: Sequence | None) -> Frame:
        """The frame without labels; with ``messages`` None its images have no pixels (uint8 [C, 3, 0, 0]).

        Raises:
            FrameDropped: reason no_tf, decode or calibration.
        """
        rig_pose = self.rig_pose(moment)
        if messages is None:
            count = len(moment.frames)
            frame = Frame(
                images=np.zeros((count, 3, 0, 0), np.uint8),
                Ks=np.stack([self._assemble.fit(camera).K for camera in moment.intrinsics]),
                T_ego_cam=rig_pose.T_ego_cam,
                T_global_ego=rig_pose.T_global_ego,
                stamp_ns=moment.reference.stamp_ns,
                camera_names=moment.channels,
            )
        else:
            image_set = ImageSet(
                tuple(messages), moment.stamps_ns, moment.frames, moment.channels, moment.reference.stamp_ns
            )
            frame = self._assemble(image_set, moment.intrinsics, rig_pose)
        return dataclasses.replace(frame, token=moment.token, scene=moment.scene)

    def points(self, moment: Moment, clouds: Sequence[Cloud]) -> tuple[SweepPoints, np.ndarray, np.ndarray]:
        """Points of the clouds in the frame's ego frame, their classes uint8 [N] and which are held out, bool [N].

        The own vehicle's points are left out (``LabelOptions.renderocc_parity`` keeps them), and those too far away.

        Raises:
            FrameDropped: reason no_tf.
            ValueError: classes that are none.
        """
        offset_ns = round(self.config.lidar_time_offset_s * 1e9)
        origins_m = self.config.lidar_origins_m
        points = sweep_points(clouds, moment.transforms, moment.reference, offset_ns, origins_m)
        classes, own = self.point_labels.classes(points, moment.reference.stamp_ns)
        held = held_out_points(moment.token, len(points), self.options.hold_out)
        keep = np.linalg.norm(points.points_ego - points.origins_ego, axis=1) <= self.config.max_range_m
        if not self.options.renderocc_parity:
            box = self.config.own_vehicle_min_m, self.config.own_vehicle_max_m
            keep &= ~(own | on_own_vehicle(points.points_ego, *box))
        return points.select(keep), classes[keep], held[keep]

    def labels(
        self,
        moment: Moment,
        frame: Frame,
        clouds: Sequence[Cloud],
        label_images: list[np.ndarray] | None = None,
        held_out: bool = False,
    ) -> PixelLabels:
        """LiDAR labels of a frame; of the points that are held out with ``held_out``.

        Args:
            moment: of the frame.
            frame: with its poses and intrinsics.
            clouds: of every LiDAR.
            label_images: [H, W] a camera, where classes come from images.
            held_out: as ``pixel_labels``.

        Raises:
            FrameDropped: reason no_tf.
            ValueError: classes that are none.
        """
        points, classes, held = self.points(moment, clouds)
        view = CameraView(frame.T_ego_cam, frame.Ks, self.image_size)
        labels = pixel_labels(points.points_ego, classes, held, view, self.options, held_out)
        if label_images is None:
            return labels
        fits = [self._assemble.fit(camera) for camera in moment.intrinsics]
        return self.point_labels.from_images(labels, label_images, fits)
