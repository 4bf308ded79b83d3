import re
from pathlib import Path

import numpy as np
import pytest
import rclpy
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter

from gsrender_ros.calibration import CameraCalibration, RigCalibration
from gsrender_ros.layouts import LAYOUTS, camera_names, effective, fixed_frame, mounting_frame
from gsrender_ros.parameters import Settings, markdown_table, read_settings, specifications, yaml_text
from gsrender_ros.statistics import DROP_REASONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def context():
    context = rclpy.context.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def read(context, **values):
    # None stands for what the command line makes of []
    overrides = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
    node = Node("parameters", context=context, parameter_overrides=overrides, enable_rosout=False)
    try:
        return read_settings(node)
    finally:
        node.destroy_node()


def test_yaml_file_holds_exactly_the_defaults():
    text = (ROOT / "config" / "occupancy.yaml").read_text(encoding="utf-8")
    assert text == yaml_text(), "run: python -m gsrender_ros.parameters --yaml > config/occupancy.yaml"
    flat = {}
    for key, value in yaml.safe_load(text)["/**"]["ros__parameters"].items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    expected = {
        spec.metadata["name"]: list(spec.default) if isinstance(spec.default, tuple) else spec.default
        for spec in specifications()
    }
    assert flat == expected
    assert {name: type(value) for name, value in flat.items()} == {n: type(v) for n, v in expected.items()}


def test_readme_shows_the_same_table():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert markdown_table() in readme, "run: python -m gsrender_ros.parameters"


def test_readme_names_every_drop_reason():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = [text for text in readme.split("\n\n") if text.startswith("Reasons, `dropped.<reason>`")]
    assert tuple(re.findall(r"`([a-z_]+)`", line)) == DROP_REASONS


def test_every_parameter_says_what_it_is():
    for spec in specifications():
        assert spec.metadata["sentence"].endswith(".")
        assert f"`{spec.metadata['name']}`" in markdown_table()


def test_defaults_and_overrides(context):
    settings, unknown = read(context)
    assert settings == Settings() and unknown == []
    settings, unknown = read(context, sync__slop_s=0.1, cameras=["a", "b"], reference_camera="b", watchdog_s=7)
    assert (settings.sync_slop_s, settings.cameras, settings.watchdog_s) == (0.1, ("a", "b"), 7.0)
    assert unknown == []


def test_an_unknown_name_is_reported_with_the_nearest_known(context):
    _, unknown = read(context, sync__slop=0.1)
    assert unknown == ["parameter 'sync.slop' does not exist and is ignored; did you mean 'sync.slop_s'?"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"layout": "gsrendr"}, "layout is 'gsrendr', must be one of: .*did you mean 'gsrender'"),
        ({"sync__slop_s": 5.0}, "sync.slop_s is 5.*0.001 to 1"),
        ({"sync__queue_size": 1}, "sync.queue_size is 1.*2 to 100"),
        ({"sync__slop_s": "wide"}, "sync.slop_s is 'wide', must be a float"),
        ({"cameras": ["cam_front", "cam_front"]}, "cameras must name each camera once"),
        ({"cameras": None}, "cameras must name each camera once, and at least one, got \\[\\]"),
        ({"tf__wait_s": 3.0, "tf__cache_s": 2.0}, "tf.wait_s is 3, longer than tf.cache_s, 2: .*raise tf.cache_s"),
        (
            {"sync__slop_s": 0.5, "sync__camera_timeout_s": 0.5},
            "sync.camera_timeout_s is 0.5, not above sync.slop_s, 0.5: .*raise it",
        ),
        ({"reference_camera": "cam_top"}, "reference_camera 'cam_top' is not among cameras"),
        ({"topics__image": "camera/image"}, "topics.image 'camera/image' lacks {camera}: 6 cameras would share it"),
    ],
)
def test_wrong_and_contradictory_values_give_one_line(context, values, text):
    with pytest.raises(ValueError, match=text) as error:
        read(context, **values)
    assert "\n" not in str(error.value)


def test_layouts_name_topics_and_frames():
    own = camera_names(Settings())[0]
    assert own.image_topic == "cam_front/image_raw/compressed"
    assert (own.camera_info_topic, own.channel, own.frame) == ("cam_front/camera_info", "CAM_FRONT", "")
    assert (own.transport, own.other_image_topic) == ("compressed", "cam_front/image_raw")
    raw = camera_names(Settings(image_transport="raw"))[0]
    assert (raw.image_topic, raw.transport, raw.other_image_topic) == ("cam_front/image_raw", "raw", "")
    free = camera_names(Settings(image_topic="/rig/{camera}/rect", camera_frame="{camera}_optical"))[1]
    assert (free.image_topic, free.frame) == ("/rig/cam_front_right/rect", "cam_front_right_optical")
    assert (fixed_frame(Settings()), fixed_frame(Settings(fixed_frame="odom"))) == ("map", "odom")


@pytest.mark.parametrize(
    ("layout", "names", "odometry", "pose_source", "stamp_source"),
    [
        ("nuscenes2bag", ("cam_back/raw", "raw", "", "cam_back"), "odom", "auto", "header"),
        ("nuscenes2bag_ros2", ("cam_back/raw", "raw", "", "cam_back"), "odom", "auto", "auto"),
        (
            "foxglove",
            ("CAM_BACK/image_rect_compressed", "compressed", "CAM_BACK/camera_info", "CAM_BACK"),
            "odom",
            "auto",
            "header",
        ),
        (
            "nuscenes_to_ros2bag",
            ("nuscenes/cam_back/image_raw", "raw", "nuscenes/cam_back/camera_info", "cam_back_link"),
            "nuscenes/odom",
            "odometry",
            "header",
        ),
    ],
)
def test_layouts_of_published_converters(layout, names, odometry, pose_source, stamp_source):
    back = camera_names(Settings(layout=layout))[3]
    assert (back.image_topic, back.transport, back.camera_info_topic, back.default_frame) == names
    settings = effective(Settings(layout=layout))
    assert (settings.odometry_topic, settings.pose_source, settings.stamp_source) == (
        odometry,
        pose_source,
        stamp_source,
    )
    told = effective(Settings(layout=layout, odometry_topic="o", pose_source="tf", stamp_source="receive"))
    assert (told.odometry_topic, told.pose_source, told.stamp_source) == ("o", "tf", "receive")
    assert fixed_frame(settings) == "map"


def test_every_layout_can_be_chosen():
    (spec,) = [spec for spec in specifications() if spec.metadata["name"] == "layout"]
    assert spec.metadata["limits"].choices == tuple(LAYOUTS)


def test_a_topic_of_ones_own_may_be_of_either_type():
    own = camera_names(Settings(image_topic="/rig/{CAMERA}/rect"))[0]
    assert (own.image_topic, own.transport, own.other_image_topic) == (
        "/rig/CAM_FRONT/rect",
        "raw",
        "/rig/CAM_FRONT/rect",
    )
    jpeg = camera_names(Settings(image_topic="/rig/{camera}/rect/compressed"))[0]
    assert (jpeg.transport, jpeg.other_image_topic) == ("compressed", "/rig/cam_front/rect/compressed")


def test_a_camera_that_a_file_mounts_stands_where_the_file_says_whatever_its_images_say():
    mounted = CameraCalibration("cam_front", "front", 0, 0, None, np.eye(4))
    rig = RigCalibration(
        "base_link", {"cam_front": mounted, "cam_back": CameraCalibration("cam_back", "b", 8, 8, np.eye(3))}
    )
    names = {names.camera: names for names in camera_names(Settings(camera_frame="{camera}_optical"), rig)}
    assert names["cam_front"].frame == mounting_frame("cam_front")
    assert names["cam_back"].frame == "cam_back_optical"  # intrinsics alone mount nothing


@pytest.mark.parametrize("frames", [{"ego_frame": "odom", "fixed_frame": "/odom"}, {"ego_frame": "map"}])
def test_the_vehicle_cannot_be_its_own_fixed_frame(frames):
    with pytest.raises(ValueError, match="frames.ego and frames.fixed are both") as error:
        fixed_frame(Settings(**frames))
    assert "\n" not in str(error.value)
