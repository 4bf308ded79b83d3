import numpy as np
import pytest

from gsrender_core.geometry import transform
from gsrender_ros.calibration import CameraCalibration, RigCalibration, read_calibration, write_calibration

K = np.array([[1000.5, 0, 800], [0, 1001.25, 450], [0, 0, 1]])


def test_a_rig_survives_its_file(tmp_path):
    T = transform((0.5, -0.5, 0.5, -0.5), (1.7, 0.25, 1.5))
    rig = RigCalibration(
        "ego",
        {
            "cam_front": CameraCalibration("cam_front", "front_optical", 1600, 900, K, T),
            "cam_back": CameraCalibration("cam_back", "cam_back", 800, 600, K),
        },
    )
    write_calibration(tmp_path / "rig.yaml", rig)
    back = read_calibration(tmp_path / "rig.yaml")
    assert back.ego_frame == "ego" and set(back.cameras) == {"cam_front", "cam_back"}
    front = back.cameras["cam_front"]
    assert (front.frame_id, front.width, front.height) == ("front_optical", 1600, 900)
    np.testing.assert_array_equal(front.K, K)
    np.testing.assert_allclose(front.T_ego_cam, T, atol=1e-12)
    assert back.cameras["cam_back"].T_ego_cam is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not YAML"),
        ("a: 1", "no mapping 'cameras'"),
        ("cameras: {c: {width: 1, height: 1}}", "camera 'c': key 'K' is missing"),
        ("cameras: {c: {width: 1, height: 1, K: [0, 0, 0, 0, 0, 0, 0, 0, 0]}}", "camera 'c': K must be 9 finite"),
        ("cameras: {c: {width: 1, height: 1, K: [1,0,0,0,1,0,0,0,1], translation_m: [0, 0, 0]}}", "rotation_xyzw"),
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
