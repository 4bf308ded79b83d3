"""How the topics and frames of a recording are named: one entry a layout, ``{camera}`` stands for a camera's name."""

from dataclasses import dataclass

from gsrender_ros.parameters import Settings


@dataclass(frozen=True)
class Layout:
    """Names of one family of recordings. Topics are relative, so that a namespace and remaps apply."""

    raw_topic: str
    compressed_topic: str
    camera_info_topic: str  # empty: the recordings carry no CameraInfo
    camera_frame: str
    fixed_frame: str


LAYOUTS: dict[str, Layout] = {
    "gsrender": Layout(
        raw_topic="{camera}/image_raw",
        compressed_topic="{camera}/image_raw/compressed",
        camera_info_topic="{camera}/camera_info",
        camera_frame="{camera}",
        fixed_frame="map",
    ),
    # clynamen/nuscenes2bag: bgr8 images, no CameraInfo, /tf map -> odom -> base_link -> sensors.
    "nuscenes2bag": Layout(
        raw_topic="{camera}/raw",
        compressed_topic="{camera}/raw/compressed",
        camera_info_topic="",
        camera_frame="{camera}",
        fixed_frame="map",
    ),
}


@dataclass(frozen=True)
class CameraNames:
    """Names that belong to one camera. ``frame`` is empty where the image's own frame_id decides."""

    camera: str
    image_topic: str
    camera_info_topic: str
    frame: str
    default_frame: str

    @property
    def channel(self) -> str:
        """nuScenes' name of the camera, as a ``Frame`` carries it."""
        return self.camera.upper()


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


def camera_names(settings: Settings) -> tuple[CameraNames, ...]:
    """Topics and frames of every camera: the layout's, where the settings do not say otherwise."""
    layout = LAYOUTS[settings.layout]
    transport_topic = layout.compressed_topic if settings.image_transport == "compressed" else layout.raw_topic
    return tuple(
        CameraNames(
            camera=camera,
            image_topic=(settings.image_topic or transport_topic).replace("{camera}", camera),
            camera_info_topic=(settings.camera_info_topic or layout.camera_info_topic).replace("{camera}", camera),
            frame=settings.camera_frame.replace("{camera}", camera),
            default_frame=layout.camera_frame.replace("{camera}", camera),
        )
        for camera in settings.cameras
    )
