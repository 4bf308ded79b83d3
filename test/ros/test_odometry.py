import re

import pytest
from nav_msgs.msg import Odometry

from gsrender_ros.odometry import OdometryTransforms


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, text, throttle_duration_sec=None):
        self.lines.append(text)


@pytest.fixture
def transforms():
    transforms = OdometryTransforms("base_link", 50.0, Log())
    transforms.lines = transforms._logger.lines
    return transforms


def odometry(at_s: float, x_m: float = 0.0, child: str = "base_link", orientation=(0.0, 0.0, 0.6, 0.8)) -> Odometry:
    message = Odometry(child_frame_id=child)
    message.header.frame_id = "odom"
    message.header.stamp.sec, message.header.stamp.nanosec = int(at_s), round(at_s % 1 * 1e9)
    message.pose.pose.position.x = x_m
    q = message.pose.pose.orientation
    q.x, q.y, q.z, q.w = orientation
    return message


def test_a_pose_becomes_a_transform(transforms):
    found, jumped = transforms(odometry(12.25, 3.0))
    assert (found.header.frame_id, found.child_frame_id, jumped) == ("odom", "base_link", False)
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (12, 250_000_000)
    assert (found.transform.translation.x, found.transform.rotation.z) == (3.0, 0.6)
    assert transforms.lines == []


def test_frames_that_differ_are_explained_once(transforms):
    for at in (1, 2, 3):
        assert transforms(odometry(at, child=""))[0].child_frame_id == "base_link"
        assert transforms(odometry(at, child="/imu"))[0].child_frame_id == "imu"
    assert transforms.lines == [
        "Odometry without child_frame_id: taken as the pose of frames.ego 'base_link'",
        "Odometry is the pose of 'imu', frames.ego is 'base_link': the two must be connected on /tf or /tf_static; if "
        "they are the same, set frames.ego:=imu",
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (odometry(1, orientation=(0.0, 0.0, 0.0, 0.0)), r"no rotation: norm 0\.0000"),
        (odometry(1, orientation=(0.0, 0.0, 0.0, 2.0)), r"no rotation: norm 2\.0000"),
        (odometry(1, orientation=(NAN, 0.0, 0.0, 1.0)), "not finite"),
        (odometry(1, x_m=NAN), "not finite"),
        (odometry(0), "its stamp is 0"),
    ],
)
def test_what_is_no_pose_is_counted_and_named_and_never_used(transforms, message, text):
    assert transforms(message) == (None, False)
    assert transforms.refused == 1
    (line,) = transforms.lines
    assert re.search(text, line) and "repair its publisher" in line
    assert transforms(odometry(2, 1000.0))[1] is False  # it was no place to jump from either


def test_without_frame_id(transforms):
    message = odometry(1)
    message.header.frame_id = ""
    assert transforms(message)[0] is None and "frame_id is empty" in transforms.lines[0]


def test_jumps_are_told_from_driving(transforms):
    found = [transforms(odometry(at, x))[1] for at, x in [(1, 0), (1.1, 4.9), (1.2, 5.8), (1.2001, 6.7), (2.2, 57)]]
    assert found == [False, False, False, False, True]  # 50.3 m in a second are more than 50; 0.9 m at once are noise
    assert transforms.jumps == 1
    assert "jumped by 50.3 m within 1.000 s (limit tf.max_speed_mps=50)" in transforms.lines[0]
    assert transforms(odometry(2.3, 57.0))[1] is False
    transforms.clear()
    assert transforms(odometry(2.4, 500.0))[1] is False
