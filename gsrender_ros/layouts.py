"""How the topics and frames of a recording are named: one entry a layout, in which ``{camera}`` stands for a camera's
name as in ``cameras``, ``{CAMERA}`` for the same in capitals.
"""

import dataclasses
from dataclasses import dataclass

from gsrender_ros.calibration import RigCalibration
from gsrender_ros.parameters import Settings


@dataclass(frozen=True)
class Layout:
    """Names and habits of one family of recordings. Topics are relative, so that a namespace and remaps apply."""

    raw_topic: str
    compressed_topic: str
    camera_info_topic: str  # empty: the recordings carry no CameraInfo
    camera_frame: str
    fixed_frame: str = "map"
    transport: str = "compressed"  # what the recordings carry; the other one is tried where nobody publishes it
    odometry_topic: str = "odom"
    pose_source: str = "auto"
    stamp_source: str = "header"


_NUSCENES2BAG = Layout(
    raw_topic="{camera}/raw",
    compressed_topic="{camera}/raw/compressed",
    camera_info_topic="",
    camera_frame="{camera}",
    transport="raw",
)

LAYOUTS: dict[str, Layout] = {
    "gsrender": Layout(
        raw_topic="{camera}/image_raw",
        compressed_topic="{camera}/image_raw/compressed",
        camera_info_topic="{camera}/camera_info",
        camera_frame="{camera}",
    ),
    # clynamen/nuscenes2bag: bgr8 images, no CameraInfo, /tf map -> odom -> base_link -> sensors.
    "nuscenes2bag": _NUSCENES2BAG,
    # Wj-costumer/NuScenes2Bag_ROS2: the same, but nobody fills the images' headers.
    "nuscenes2bag_ros2": dataclasses.replace(_NUSCENES2BAG, stamp_source="auto"),
    # foxglove/nuscenes2bag, scepter914/nuscenes_rosbag, tatsuyai713 and mbed92: TF at keyframes only.
    "foxglove": Layout(
        raw_topic="{CAMERA}/image_rect",
        compressed_topic="{CAMERA}/image_rect_compressed",
        camera_info_topic="{CAMERA}/camera_info",
        camera_frame="{CAMERA}",
    ),
    # Chris7462/nuscenes_to_ros2bag: best effort, no TF; mountings must come from a calibration file.
    "nuscenes_to_ros2bag": Layout(
        raw_topic="nuscenes/{camera}/image_raw",
        compressed_topic="nuscenes/{camera}/image_raw/compressed",
        camera_info_topic="nuscenes/{camera}/camera_info",
        camera_frame="{camera}_link",
        transport="raw",
        odometry_topic="nuscenes/odom",
        pose_source="odometry",
    ),
}


@dataclass(frozen=True)
class CameraNames:
    """Names that belong to one camera. ``frame`` is empty where the image's own frame_id decides.

    ``other_image_topic`` is where the images may be in the other transport; empty: nowhere.
    """

    camera: str
    image_topic: str
    camera_info_topic: str
    frame: str
    default_frame: str
    transport: str = "compressed"
    other_image_topic: str = ""

    @property
    def channel(self) -> str:
        """nuScenes' name of the camera, as a ``Frame`` carries it."""
        return self.camera.upper()


def effective(settings: Settings) -> Settings:
    """The settings with what was left to the layout, but for names: those are ``camera_names``, ``fixed_frame``."""
    layout = LAYOUTS[settings.layout]
    return dataclasses.replace(
        settings,
        odometry_topic=settings.odometry_topic or layout.odometry_topic,
        pose_source=layout.pose_source if settings.pose_source == "auto" else settings.pose_source,
        stamp_source=layout.stamp_source if settings.stamp_source == "layout" else settings.stamp_source,
    )


def fixed_frame(settings: Settings) -> str:
    """Frame in which the world stands still.

    Raises:
        ValueError: it is the vehicle's own frame, in which the vehicle would never move.
    """
    frame = settings.fixed_frame or LAYOUTS[settings.layout].fixed_frame
    if frame.lstrip("/") == settings.ego_frame.lstrip("/"):
        raise ValueError(
            f"frames.ego and frames.fixed are both '{frame}': name the vehicle's frame (base_link) and the one it "
            "moves in (map, odom)"
        )
    return frame


def mounting_frame(camera: str) -> str:
    """Frame of a camera that a calibration file mounts: one that no topic can claim to know otherwise."""
    return f"calibration_file/{camera}"


def camera_names(settings: Settings, calibration: RigCalibration | None = None) -> tuple[CameraNames, ...]:
    """Topics and frames of every camera: the layout's, where settings and calibration do not say otherwise."""
    layout = LAYOUTS[settings.layout]
    transport = layout.transport if settings.image_transport == "auto" else settings.image_transport
    topics = {"compressed": layout.compressed_topic, "raw": layout.raw_topic}
    topic, other = topics[transport], topics["raw" if transport == "compressed" else "compressed"]
    if settings.image_topic:
        topic = other = settings.image_topic  # auto: of whichever type it turns out to be
        if settings.image_transport == "auto" and not topic.endswith(("compressed", "jpeg", "jpg")):
            transport = "raw"
    if settings.image_transport != "auto":
        other = ""
    calibrated = calibration.cameras if calibration else {}
    return tuple(
        CameraNames(
            camera=camera,
            image_topic=_named(topic, camera),
            camera_info_topic=_named(settings.camera_info_topic or layout.camera_info_topic, camera),
            frame=_frame(settings, calibrated.get(camera), camera),
            default_frame=_named(layout.camera_frame, camera),
            transport=transport,
            other_image_topic=_named(other, camera),
        )
        for camera in settings.cameras
    )


def _named(template: str, camera: str) -> str:
    return template.replace("{camera}", camera).replace("{CAMERA}", camera.upper())


def _frame(settings: Settings, calibrated, camera: str) -> str:
    if calibrated is not None and calibrated.T_ego_cam is not None:
        return mounting_frame(camera)
    return _named(settings.camera_frame, camera)
