"""The node's parameters: one declaration each (name, default, unit, sentence, limits), read into one ``Settings``.

``python -m gsrender_ros.parameters`` prints the table of the README; ``--yaml`` prints config/occupancy.yaml.
Precedence: command line over parameter file over the defaults here.
"""

import dataclasses
import difflib
import sys
from dataclasses import dataclass, field

from gsrender_core.config import RUNTIMES

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


def parameter(name, default, unit, sentence, limits=Limits(), live=False):  # noqa: B008 (frozen)
    """A field of a dataclass of parameters; ``live``: may be set while the node runs."""
    metadata = {"name": name, "unit": unit, "sentence": sentence, "limits": limits, "live": live}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """Effective values of all parameters. Empty strings mean "as the layout says"."""

    checkpoint: str = parameter(
        "checkpoint",
        "",
        "",
        "Checkpoint file; empty: the one shipped with the package. May be set while the node runs.",
        live=True,
    )
    device: str = parameter("device", "auto", "", "Where the network runs: auto, cpu, cuda or cuda:N.")
    runtime: str = parameter(
        "runtime",
        "auto",
        "",
        "What computes the network: auto (openvino on a CPU, cuda_graph on CUDA), or eager torch, the reference.",
        Limits(choices=RUNTIMES),
    )
    layout: str = parameter(
        "layout",
        "gsrender",
        "",
        "How topics and frames are named: as in this project's own bags, or as a converter of nuScenes names them.",
        Limits(choices=("gsrender", "nuscenes2bag", "nuscenes2bag_ros2", "foxglove", "nuscenes_to_ros2bag")),
    )
    cameras: tuple[str, ...] = parameter(
        "cameras",
        DEFAULT_CAMERAS,
        "",
        "Cameras by name; {camera} in topics and frames stands for these, {CAMERA} for the same in capitals.",
    )
    reference_camera: str = parameter(
        "reference_camera", "cam_front", "", "Camera whose stamp is the stamp of the output."
    )
    image_transport: str = parameter(
        "image_transport",
        "auto",
        "",
        "Subscribe to Image (raw) or CompressedImage (compressed); auto: what the layout says, or what is published.",
        Limits(choices=("auto", "raw", "compressed")),
    )
    image_topic: str = parameter("topics.image", "", "", "Image topic with {camera}; empty: the layout's.")
    camera_info_topic: str = parameter(
        "topics.camera_info", "", "", "CameraInfo topic with {camera}; empty: the layout's."
    )
    odometry_topic: str = parameter(
        "topics.odometry", "", "", "Odometry topic, read where pose_source says so; empty: the layout's."
    )
    ego_frame: str = parameter("frames.ego", "base_link", "", "Vehicle frame; the output's frame_id.")
    fixed_frame: str = parameter("frames.fixed", "", "", "Frame in which the world stands still; empty: the layout's.")
    camera_frame: str = parameter(
        "frames.camera", "", "", "Camera frame with {camera}; empty: the frame_id of the images."
    )
    calibration_file: str = parameter(
        "calibration_file",
        "",
        "",
        "YAML with intrinsics, mounting or both of cameras; wins over what topics say of them.",
    )
    pose_source: str = parameter(
        "pose_source",
        "auto",
        "",
        "Ego motion from /tf or from Odometry; auto: the layout's, tf where tf2_msgs is installed.",
        Limits(choices=("auto", "tf", "odometry")),
    )
    stamp_source: str = parameter(
        "stamp_source",
        "layout",
        "",
        "Stamp of an image: its header, its arrival, or (auto) its arrival where the header is zero; layout: auto "
        "where the layout's images carry no stamp, else header.",
        Limits(choices=("layout", "header", "receive", "auto")),
    )
    distortion: str = parameter(
        "distortion",
        "undistort",
        "",
        "A CameraInfo with lens distortion: take it out of the images, refuse the camera, ignore the distortion, or "
        "(rectified) use P because the images are already rectified.",
        Limits(choices=("undistort", "refuse", "ignore", "rectified")),
    )
    sync_slop_s: float = parameter(
        "sync.slop_s",
        0.06,
        "s",
        "Largest distance of stamps in one set of images; above the cameras' trigger spread, below their period.",
        Limits(0.001, 1.0),
    )
    sync_queue_size: int = parameter(
        "sync.queue_size", 10, "images", "Images kept per camera while a set is incomplete.", Limits(2, 100)
    )
    sync_missing_cameras: str = parameter(
        "sync.missing_cameras",
        "wait",
        "",
        "While a camera other than the reference is silent: no output (wait), or output without what it would see "
        "(continue).",
        Limits(choices=("wait", "continue")),
    )
    sync_camera_timeout_s: float = parameter(
        "sync.camera_timeout_s",
        1.0,
        "s",
        "A camera whose images lag so far behind the others' is missing.",
        Limits(0.1, 60.0),
    )
    qos_reliability: str = parameter(
        "qos.reliability",
        "auto",
        "",
        "Reliability asked of image publishers; auto: reliable, best effort where a publisher offers no more.",
        Limits(choices=("auto", "reliable", "best_effort")),
    )
    qos_depth: int = parameter("qos.depth", 10, "messages", "Depth of the input queues.", Limits(1, 1000))
    tf_wait_s: float = parameter(
        "tf.wait_s",
        0.7,
        "s",
        "How long a set of images waits for transforms that can still come; above the period of the slowest.",
        Limits(0.0, 5.0),
    )
    tf_cache_s: float = parameter("tf.cache_s", 10.0, "s", "History of transforms that is kept.", Limits(1.0, 600.0))
    tf_max_speed_mps: float = parameter(
        "tf.max_speed_mps",
        100.0,
        "m/s",
        "A vehicle that seems faster was moved by its localisation: frames across such a jump are dropped.",
        Limits(1.0, 1000.0),
    )
    history_interval_s: float = parameter(
        "history.interval_s",
        0.5,
        "s",
        "For networks that look back: time between the frames they compare, as they were trained; half to twice "
        "of it will do.",
        Limits(0.05, 5.0),
    )
    markers_max_rate_hz: float = parameter(
        "markers.max_rate_hz", 2.0, "Hz", "Markers are published at most this often.", Limits(0.1, 100.0)
    )
    map_min_z_m: float = parameter(
        "map.min_z_m",
        0.2,
        "m",
        "Lower end of the height band of the map: voxels whose centres lie in it may be obstacles.",
        Limits(-10.0, 10.0),
    )
    map_max_z_m: float = parameter(
        "map.max_z_m", 2.2, "m", "Upper end of the height band: the vehicle's height.", Limits(-10.0, 10.0)
    )
    map_drivable_classes: tuple[str, ...] = parameter(
        "map.drivable_classes", ("driveable_surface",), "", "Classes of which the map's free cells are made."
    )
    debug_max_rate_hz: float = parameter(
        "debug.max_rate_hz", 2.0, "Hz", "Debug images are published at most this often.", Limits(0.1, 100.0)
    )
    debug_shrink: int = parameter(
        "debug.shrink", 2, "", "Debug images are so many times smaller than the network's images.", Limits(1, 16)
    )
    debug_overlay: float = parameter(
        "debug.overlay",
        0.0,
        "",
        "Share of the class colours in semantic debug images, the rest is the camera's image; 0: colours alone.",
        Limits(0.0, 1.0),
    )
    self_check_lidar_topic: str = parameter(
        "self_check.lidar_topic", "", "", "PointCloud2 that the grids are compared with; empty: no self-check."
    )
    self_check_max_offset_s: float = parameter(
        "self_check.max_offset_s", 0.1, "s", "Largest distance in time of a grid and its cloud.", Limits(0.0, 5.0)
    )
    self_check_window: int = parameter(
        "self_check.window", 20, "grids", "Figures of the self-check are over so many grids.", Limits(1, 1000)
    )
    diagnostics_period_s: float = parameter(
        "diagnostics.period_s", 1.0, "s", "Period of /diagnostics.", Limits(0.1, 60.0)
    )
    watchdog_s: float = parameter(
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
            check(spec.metadata["name"], getattr(self, spec.name), spec.metadata["limits"])
        if self.sync_camera_timeout_s <= self.sync_slop_s:
            raise ValueError(
                f"sync.camera_timeout_s is {self.sync_camera_timeout_s:g}, not above sync.slop_s, "
                f"{self.sync_slop_s:g}: cameras would be missing within a set; raise it above their period"
            )
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
            if template and "{camera}" not in template.lower() and len(self.cameras) > 1:
                raise ValueError(f"{name} '{template}' lacks {{camera}}: {len(self.cameras)} cameras would share it")


def check(name: str, value, limits: Limits) -> None:
    if limits.choices and value not in limits.choices:
        near = difflib.get_close_matches(str(value), limits.choices, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"{name} is '{value}', must be one of: {', '.join(limits.choices)}{hint}")
    if limits.low is not None and not limits.low <= value <= limits.high:
        raise ValueError(f"{name} is {value:g}, must lie in {limits.low:g} to {limits.high:g}")


def specifications(kind: type = Settings) -> tuple[dataclasses.Field, ...]:
    """The declared parameters in order; ``metadata`` holds name, unit, sentence and limits."""
    return dataclasses.fields(kind)


def read_settings(node, *kinds: type):
    """Declare all parameters on a node and read them.

    Args:
        node: it was started with values for some.
        kinds: dataclasses of ``parameter``s; default ``Settings``.

    Returns:
        One object of every kind, and one line for every parameter that was given but does not exist.

    Raises:
        ValueError: a value out of range, of a wrong type or in contradiction to another; one line.
    """
    kinds = kinds or (Settings,)
    return *(_read(node, kind) for kind in kinds), _unknown(node, kinds)


def _read(node, kind: type):
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    values = {}
    for spec in specifications(kind):
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
    return kind(**values)


def _overrides(node) -> dict:
    # rclpy offers no public list of the overrides that a node was started with
    return getattr(node, "_parameter_overrides", {})


def _unknown(node, kinds: tuple[type, ...]) -> list[str]:
    known = [spec.metadata["name"] for kind in kinds for spec in specifications(kind)]
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
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown_table(kind: type = Settings) -> str:
    """The parameter table of the README."""
    rows = ["| parameter | default | unit | what | values |", "|---|---|---|---|---|"]
    for spec in specifications(kind):
        meta = spec.metadata
        default = _yaml_value(spec.default)
        rows.append(f"| `{meta['name']}` | `{default}` | {meta['unit']} | {meta['sentence']} | {meta['limits']} |")
    return "\n".join(rows) + "\n"


def yaml_text(kind: type = Settings, node: str = "occupancy_node") -> str:
    """config/occupancy.yaml: every parameter with its default, its sentence and its limits."""
    lines = [f"# Parameters of {node} with their defaults; the command line wins over this file.", "/**:"]
    lines.append("  ros__parameters:")
    group = ""
    for spec in specifications(kind):
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
