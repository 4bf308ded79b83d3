"""The node's parameters: one declaration each (name, default, unit, sentence, limits), read into one ``Settings``.

``python -m gsrender_ros.parameters`` prints the table of the README; ``--yaml`` prints config/occupancy.yaml.
Precedence: command line over parameter file over the defaults here.
"""

import dataclasses
import difflib
import sys
from dataclasses import dataclass, field

DEFAULT_CAMERAS = ("cam_front", "cam_front_right", "cam_back_right", "cam_back", "cam_back_left", "cam_front_left")


@dataclass(frozen=True)
class Limits:
    """What a value may be: a closed range of a number, or a choice of words."""

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(self.choices)
        return "" if self.low is None else f"{self.low:g} to {self.high:g}"


def _parameter(name, default, unit, sentence, limits=Limits(), live=False):  # noqa: B008 (frozen)
    metadata = {"name": name, "unit": unit, "sentence": sentence, "limits": limits, "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Effective values of all parameters. Empty strings mean "as the layout says"."""

    checkpoint: str = _parameter(
        "checkpoint",
        "",
        "",
        "Checkpoint file; empty: the one shipped with the package. May be set while the node runs.",
        live=True,
    )
    device: str = _parameter("device", "auto", "", "Where the network runs: auto, cpu, cuda or cuda:N.")
    layout: str = _parameter(
        "layout",
        "gsrender",
        "",
        "How topics and frames are named: this project's own bags or those of clynamen/nuscenes2bag.",
        Limits(choices=("gsrender", "nuscenes2bag")),
    )
    cameras: tuple[str, ...] = _parameter(
        "cameras", DEFAULT_CAMERAS, "", "Cameras by name; {camera} in topics and frames stands for these."
    )
    reference_camera: str = _parameter(
        "reference_camera", "cam_front", "", "Camera whose stamp is the stamp of the output."
    )
    image_transport: str = _parameter(
        "image_transport",
        "compressed",
        "",
        "Subscribe to Image (raw) or CompressedImage (compressed).",
        Limits(choices=("raw", "compressed")),
    )
    image_topic: str = _parameter("topics.image", "", "", "Image topic with {camera}; empty: the layout's.")
    camera_info_topic: str = _parameter(
        "topics.camera_info", "", "", "CameraInfo topic with {camera}; empty: the layout's."
    )
    odometry_topic: str = _parameter("topics.odometry", "odom", "", "Odometry topic, read where pose_source says so.")
    ego_frame: str = _parameter("frames.ego", "base_link", "", "Vehicle frame; the output's frame_id.")
    fixed_frame: str = _parameter("frames.fixed", "", "", "Frame in which the world stands still; empty: the layout's.")
    camera_frame: str = _parameter(
        "frames.camera", "", "", "Camera frame with {camera}; empty: the frame_id of the images."
    )
    calibration_file: str = _parameter(
        "calibration_file", "", "", "YAML with intrinsics and mounting of the cameras where topics carry none."
    )
    pose_source: str = _parameter(
        "pose_source",
        "auto",
        "",
        "Ego motion from /tf or from Odometry; auto: tf where tf2_msgs is installed.",
        Limits(choices=("auto", "tf", "odometry")),
    )
    stamp_source: str = _parameter(
        "stamp_source",
        "header",
        "",
        "Stamp of an image: its header, its arrival, or (auto) its arrival where the header is zero.",
        Limits(choices=("header", "receive", "auto")),
    )
    distortion: str = _parameter(
        "distortion",
        "refuse",
        "",
        "A CameraInfo with lens distortion: refuse the camera, ignore the distortion, or (rectified) use P "
        "because the images are already rectified.",
        Limits(choices=("refuse", "ignore", "rectified")),
    )
    sync_slop_s: float = _parameter(
        "sync.slop_s",
        0.06,
        "s",
        "Largest distance of stamps in one set of images; above the cameras' trigger spread, below their period.",
        Limits(0.001, 1.0),
    )
    sync_queue_size: int = _parameter(
        "sync.queue_size", 10, "images", "Images kept per camera while a set is incomplete.", Limits(2, 100)
    )
    qos_reliability: str = _parameter(
        "qos.reliability",
        "auto",
        "",
        "Reliability asked of image publishers; auto: reliable, best effort where a publisher offers no more.",
        Limits(choices=("auto", "reliable", "best_effort")),
    )
    qos_depth: int = _parameter("qos.depth", 10, "messages", "Depth of the input queues.", Limits(1, 1000))
    tf_wait_s: float = _parameter(
        "tf.wait_s", 0.2, "s", "How long a set of images waits for its transforms.", Limits(0.0, 5.0)
    )
    tf_cache_s: float = _parameter("tf.cache_s", 10.0, "s", "History of transforms that is kept.", Limits(1.0, 600.0))
    history_interval_s: float = _parameter(
        "history.interval_s",
        0.5,
        "s",
        "For networks that look back: time between the frames they compare, as they were trained; half to twice "
        "of it will do.",
        Limits(0.05, 5.0),
    )
    markers_max_rate_hz: float = _parameter(
        "markers.max_rate_hz", 2.0, "Hz", "Markers are published at most this often.", Limits(0.1, 100.0)
    )
    map_min_z_m: float = _parameter(
        "map.min_z_m",
        0.2,
        "m",
        "Lower end of the height band of the map: voxels whose centres lie in it may be obstacles.",
        Limits(-10.0, 10.0),
    )
    map_max_z_m: float = _parameter(
        "map.max_z_m", 2.2, "m", "Upper end of the height band: the vehicle's height.", Limits(-10.0, 10.0)
    )
    map_drivable_classes: tuple[str, ...] = _parameter(
        "map.drivable_classes", ("driveable_surface",), "", "Classes of which the map's free cells are made."
    )
    debug_max_rate_hz: float = _parameter(
        "debug.max_rate_hz", 2.0, "Hz", "Debug images are published at most this often.", Limits(0.1, 100.0)
    )
    debug_shrink: int = _parameter(
        "debug.shrink", 2, "", "Debug images are so many times smaller than the network's images.", Limits(1, 16)
    )
    debug_overlay: float = _parameter(
        "debug.overlay",
        0.0,
        "",
        "Share of the class colours in semantic debug images, the rest is the camera's image; 0: colours alone.",
        Limits(0.0, 1.0),
    )
    self_check_lidar_topic: str = _parameter(
        "self_check.lidar_topic", "", "", "PointCloud2 that the grids are compared with; empty: no self-check."
    )
    self_check_max_offset_s: float = _parameter(
        "self_check.max_offset_s", 0.1, "s", "Largest distance in time of a grid and its cloud.", Limits(0.0, 5.0)
    )
    self_check_window: int = _parameter(
        "self_check.window", 20, "grids", "Figures of the self-check are over so many grids.", Limits(1, 1000)
    )
    diagnostics_period_s: float = _parameter(
        "diagnostics.period_s", 1.0, "s", "Period of /diagnostics.", Limits(0.1, 60.0)
    )
    watchdog_s: float = _parameter(
        "watchdog_s", 5.0, "s", "Without output for so long, the node says what is missing.", Limits(1.0, 600.0)
    )

    def __post_init__(self):
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras must name each camera once, and at least one, got {list(self.cameras)}")
        if self.reference_camera not in self.cameras:
            raise ValueError(
                f"reference_camera '{self.reference_camera}' is not among cameras {list(self.cameras)}: name one"
            )
        for spec in dataclasses.fields(self):
            _check(spec.metadata["name"], getattr(self, spec.name), spec.metadata["limits"])
        if self.tf_wait_s > self.tf_cache_s:
            raise ValueError(
                f"tf.wait_s is {self.tf_wait_s:g}, longer than tf.cache_s, {self.tf_cache_s:g}: transforms would be "
                "forgotten while images wait for them; raise tf.cache_s"
            )
        for name, template in (
            ("topics.image", self.image_topic),
            ("topics.camera_info", self.camera_info_topic),
            ("frames.camera", self.camera_frame),
        ):
            if template and "{camera}" not in template and len(self.cameras) > 1:
                raise ValueError(f"{name} '{template}' lacks {{camera}}: {len(self.cameras)} cameras would share it")


def _check(name: str, value, limits: Limits) -> None:
    if limits.choices and value not in limits.choices:
        near = difflib.get_close_matches(str(value), limits.choices, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"{name} is '{value}', must be one of: {', '.join(limits.choices)}{hint}")
    if limits.low is not None and not limits.low <= value <= limits.high:
        raise ValueError(f"{name} is {value:g}, must lie in {limits.low:g} to {limits.high:g}")


def specifications() -> tuple[dataclasses.Field, ...]:
    """The declared parameters in order; ``metadata`` holds name, unit, sentence and limits."""
    return dataclasses.fields(Settings)


def read_settings(node) -> tuple[Settings, list[str]]:
    """Declare all parameters on a node and read them.

    Returns:
        The settings, and one line for every parameter that was given but does not exist.

    Raises:
        ValueError: a value out of range, of a wrong type or in contradiction to another; one line.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    values = {}
    for spec in specifications():
        meta = spec.metadata
        descriptor = ParameterDescriptor(description=_describe(meta), additional_constraints=str(meta["limits"]))
        descriptor.read_only = not meta["live"]  # a live change of the others would be ignored silently
        descriptor.dynamic_typing = isinstance(spec.default, float)  # so that 5 may be written for 5.0
        limits = meta["limits"]
        if limits.low is not None and isinstance(spec.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=limits.low, to_value=limits.high)]
        elif limits.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(limits.low), to_value=int(limits.high), step=1)]
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        given = _overrides(node).get(meta["name"])
        try:
            value = node.declare_parameter(meta["name"], default, descriptor).value
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                value = float(value)
            if not isinstance(value, type(default)) and not isinstance(default, list):
                raise TypeError(f"{meta['name']} is a {type(value).__name__}")
        except (InvalidParameterTypeException, InvalidParameterValueException, TypeError) as error:
            raise ValueError(
                f"{meta['name']} is {given.value if given else '?'!r}, must be a {type(default).__name__}"
                f"{' in ' + str(limits) if str(limits) else ''}"
            ) from error
        values[spec.name] = tuple(value or ()) if isinstance(spec.default, tuple) else value
    return Settings(**values), _unknown(node)


def _overrides(node) -> dict:
    # rclpy offers no public list of the overrides that a node was started with
    return getattr(node, "_parameter_overrides", {})


def _unknown(node) -> list[str]:
    known = [spec.metadata["name"] for spec in specifications()]
    lines = []
    for name in _overrides(node):
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            lines.append(f"parameter '{name}' does not exist and is ignored; {hint}")
    return lines


def _describe(meta) -> str:
    return meta["sentence"] + (f" [{meta['unit']}]" if meta["unit"] else "")


def _yaml_value(value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown_table() -> str:
    """The parameter table of the README."""
    rows = ["| parameter | default | unit | what | values |", "|---|---|---|---|---|"]
    for spec in specifications():
        meta = spec.metadata
        default = _yaml_value(spec.default)
        rows.append(f"| `{meta['name']}` | `{default}` | {meta['unit']} | {meta['sentence']} | {meta['limits']} |")
    return "\n".join(rows) + "\n"


def yaml_text() -> str:
    """config/occupancy.yaml: every parameter with its default, its sentence and its limits."""
    lines = ["# Parameters of occupancy_node with their defaults; the command line wins over this file.", "/**:"]
    lines.append("  ros__parameters:")
    group = ""
    for spec in specifications():
        meta = spec.metadata
        head, _, leaf = meta["name"].rpartition(".")
        if head != group:
            group = head
            if head:
                lines.append(f"    {head}:")
        indent = " " * (6 if head else 4)
        limits = f" ({meta['limits']})" if str(meta["limits"]) else ""
        lines.append(f"{indent}# {_describe(meta)}{limits}")
        lines.append(f"{indent}{leaf}: {_yaml_value(spec.default)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(yaml_text() if "--yaml" in sys.argv[1:] else markdown_table())
