"""Intrinsics of a bag's cameras: the calibration file's, else CameraInfo as it was when an image came. No rclpy."""

from gsrender_ros.bag_access import deserialize
from gsrender_ros.bag_contents import INFO_TYPE, BagIndex, TopicIndex
from gsrender_ros.calibration import RigCalibration
from gsrender_ros.image_conversions import Intrinsics, intrinsics_from_calibration, intrinsics_from_camera_info
from gsrender_ros.layouts import CameraNames
from gsrender_ros.statistics import FrameDropped


class BagIntrinsics:
    """Intrinsics of every image.

    Args:
        index: of the bag.
        names: of the cameras.
        distortion: the node's parameter of that name.
        calibration: its intrinsics win; None: no calibration file.
    """

    def __init__(
        self, index: BagIndex, names: tuple[CameraNames, ...], distortion: str, calibration: RigCalibration | None
    ):
        self._index, self._names, self._distortion, self._calibration = index, names, distortion, calibration
        self._known: dict[tuple[int, int], Intrinsics] = {}

    def of(self, camera: int, topic: TopicIndex, number: int) -> Intrinsics:
        """Of image ``number`` of a camera's topic: the CameraInfo that was the latest when it came, the first before.

        Raises:
            FrameDropped: no_camera_info or calibration.
        """
        name = self._names[camera]
        calibrated = self._calibration.cameras.get(name.camera) if self._calibration else None
        if calibrated is not None and calibrated.K is not None:
            return intrinsics_from_calibration(calibrated, self._distortion)
        info_topic = "/" + name.camera_info_topic.lstrip("/")
        infos = self._index.infos.get(info_topic, [])
        if not infos:
            where = info_topic if name.camera_info_topic else "this layout has no topic"
            raise FrameDropped(
                "no_camera_info",
                f"{self._index.path} has no CameraInfo of {name.camera} ({where}): give intrinsics in calibration_file",
            )
        log_ns = int(topic.log_ns[number])
        latest = max((i for i, (at, _) in enumerate(infos) if at <= log_ns), default=0)
        if (camera, latest) not in self._known:
            message = deserialize(infos[latest][1], INFO_TYPE)
            self._known[camera, latest] = intrinsics_from_camera_info(message, self._distortion, name.camera)
        return self._known[camera, latest]
