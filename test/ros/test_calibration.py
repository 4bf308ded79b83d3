import numpy as np
import pytest

from gsrender_core.geometry import transform
from gsrender_ros.calibration import (
    CameraCalibration,
    RigCalibration,
    read_calibration,
    unused_cameras,
    write_calibration,
)
from gsrender_ros.lens import Distortion

FISHEYE = Distortion("equidistant", (0.1, 0.01, 0.0, 0.0))
K = np.array([[1000.5, 0, 800], [0, 1001.25, 450], [0, 0, 1]])


def test_a_rig_survives_its_file(tmp_path):
    T = transform((0.5, -0.5, 0.5, -0.5), (1.7, 0.25, 1.5))
    rig = RigCalibration(
        "ego",
        {
            "cam_front": CameraCalibration("cam_front", "front_optical", 1600, 900, K, T),
            "cam_back": CameraCalibration("cam_back", "cam_back", 800, 600, K, distortion=FISHEYE),
            "cam_left": CameraCalibration("cam_left", "left", 0, 0, None, T),
        },
    )
    write_calibration(tmp_path / "rig.yaml", rig)
    back = read_calibration(tmp_path / "rig.yaml")
    assert back.ego_frame == "ego" and set(back.cameras) == {"cam_front", "cam_back", "cam_left"}
    front = back.cameras["cam_front"]
    assert (front.frame_id, front.width, front.height) == ("front_optical", 1600, 900)
    np.testing.assert_array_equal(front.K, K)
    np.testing.assert_allclose(front.T_ego_cam, T, atol=1e-12)
    assert (front.distortion, back.cameras["cam_back"].distortion) == (None, FISHEYE)
    assert back.cameras["cam_back"].T_ego_cam is None
    left = back.cameras["cam_left"]
    assert (left.K, left.frame_id) == (None, "left")
    np.testing.assert_allclose(left.T_ego_cam, T, atol=1e-12)


GOOD = "width: 10, height: 10, K: [1,0,0,0,1,0,0,0,1]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not YAML"),
        ("cameras:\n  c:\n    width: 10\n    K: [1, 0,", "is not YAML"),  # cut off while it was copied
        ("cameras:\n  c:", "camera 'c': expected a mapping .*is the file complete"),
        ("a: 1", "no mapping 'cameras'"),
        ("{cameras: {}, camera: {}}", "key 'camera' is unknown; known: ego_frame, cameras"),
        ("cameras: {c: {}}", "camera 'c': neither intrinsics"),
        ("cameras: {c: {width: 1, height: 1}}", "camera 'c': key 'K' is missing"),
        ("cameras: {c: {width: 1, height: 1, K: [0, 0, 0, 0, 0, 0, 0, 0, 0]}}", "camera 'c': K must be 9 numbers"),
        ("cameras: {c: {width: 1, height: 1, K: [1, 0, 0, 0, .nan, 0, 0, 0, 1]}}", "camera 'c': K must be 9 finite"),
        ("cameras: {c: {width: 0, height: 1, K: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}", "width must be a positive"),
        ("cameras: {c: {width: 1, height: 1.5, K: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}", "height must be a positive"),
        (f"cameras: {{c: {{{GOOD}, translation_m: [0, 0, 0]}}}}", "key 'rotation_xyzw' is missing"),
        (f"cameras: {{c: {{{GOOD}, rotation: [0, 0, 0, 1]}}}}", "key 'rotation' is unknown; known: frame_id, width"),
        (
            "cameras: {c: {translation_m: [0, 0, 0], rotation_xyzw: [0.5, 0.5, 0.5, 0.9]}}",
            "is no rotation: its norm is 1.2490",
        ),
        ("cameras: {c: {translation_m: [0, 0], rotation_xyzw: [0, 0, 0, 1]}}", "translation_m must be 3 finite"),
        (f"cameras: {{c: {{{GOOD}, D: [0.1, 0, 0, 0, 0]}}}}", "key 'distortion_model' is missing"),
        (f"cameras: {{c: {{{GOOD}, distortion_model: plumb_bob, D: [0.1]}}}}", "takes 4 or 5 coefficients, got 1"),
        (f"cameras: {{c: {{{GOOD}, distortion_model: magic, D: [0.1]}}}}", "'magic' is unknown"),
    ],
)
def test_wrong_files_are_named_with_camera_and_key(tmp_path, text, message):
    path = tmp_path / "rig.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_calibration(path)
    assert str(path) in str(error.value)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_calibration(tmp_path / "none.yaml")


def test_cameras_that_nobody_asks_for_are_told():
    cameras = {name: CameraCalibration(name, name, 8, 8, K) for name in ("cam_front", "CAM_BACK", "thermal")}
    assert unused_cameras(RigCalibration("base_link", cameras), ("cam_front", "cam_back")) == [
        "calibration_file holds a camera 'CAM_BACK' that is not used; did you mean 'cam_back'?",
        "calibration_file holds a camera 'thermal' that is not used; cameras: cam_front, cam_back",
    ]
