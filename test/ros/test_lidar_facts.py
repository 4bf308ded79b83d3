"""How high a LiDAR stands above the ground, and what is said where it seems to stand on it."""

import numpy as np
import pytest
from recordings import Recording, points, record, write

from gsrender_core.bag_config import BagConfig
from gsrender_core.geometry import transform
from gsrender_ros import bag_messages as messages
from gsrender_ros.bag_frames import BagFrames
from gsrender_ros.inspection import inspect
from gsrender_ros.inspection_text import report_text
from gsrender_ros.lidar_facts import FEWEST_RETURNS, height_above_ground_m, height_problem
from gsrender_ros.sweeps import SweepPoints

SMALL = (64, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def seen(places: list[tuple[float, float, float, int]], origin=(1.0, 0.0, 1.5)) -> SweepPoints:
    """So many returns at each (x, y, z, count), ego frame."""
    rows = np.repeat(np.array([place[:3] for place in places]), [place[3] for place in places], axis=0)
    return SweepPoints(rows, np.broadcast_to(np.array(origin), rows.shape), {})


def test_the_height_is_that_above_the_lowest_tenth_of_what_is_near():
    ground, wall = (11.0, 0.0, -0.3, 60), (0.0, 9.0, 1.0, 300)
    # Right below the LiDAR, and far down a hill: neither says how high it stands.
    elsewhere = [(1.5, 0.0, -4.0, 200), (60.0, 0.0, -9.0, 200)]
    assert height_above_ground_m(seen([ground, wall, *elsewhere])) == pytest.approx(1.8)
    assert height_above_ground_m(seen([ground, wall], origin=(1.0, 0.0, -0.3))) == pytest.approx(0.0)
    assert height_above_ground_m(seen([(9.0, 0.0, 0.0, FEWEST_RETURNS - 1), *elsewhere])) is None


def test_only_what_stands_too_low_is_a_problem():
    lidar = {"topic": "/lidar_top", "frame": "lidar_top", "origin_m": [0.04, 0.0, 0.0]}
    assert height_problem(lidar) == height_problem(lidar | {"height_m": None}) == ""
    assert height_problem(lidar | {"height_m": 0.3}) == ""
    text = height_problem(lidar | {"height_m": 0.02})
    assert "'lidar_top' lies 0.02 m above the ground around it (at 0.04, 0.00, 0.00 m in the ego frame)" in text
    assert "evaluation by LiDAR rays" in text and "bag.lidar_origins_m" in text


def in_the_vehicles_frame(recording: Recording) -> Recording:
    """The same clouds given in the vehicle's axes: the LiDAR's transform says nothing any more."""
    for number, (topic, kind, log_ns, message) in enumerate(recording.rows):
        if topic == "/tf_static":
            for mount in message.transforms:
                if mount.child_frame_id == "lidar_top":
                    place = messages.transform_stamped(transform(np.eye(3), (0, 0, 0)), 0, "base_link", "lidar_top")
                    mount.transform.translation = place.transform.translation
        if topic == "/lidar_top":
            xyz = points(number)
            xyz[:, :3] += (1.0, 0.0, 1.8)
            cloud = messages.point_cloud(xyz, np.full(200, 4, np.uint8), log_ns, "lidar_top")
            recording.rows[number] = (topic, kind, log_ns, cloud)
    return recording


def test_clouds_in_the_vehicles_frame_are_named_and_their_rays_begin_where_it_is_said(tmp_path):
    good = inspect(write(record(6), tmp_path / "good"))
    (lidar,) = good["lidars"]
    np.testing.assert_allclose(lidar["origin_m"], (0.95, 0.0, 1.8), atol=1e-9)  # its sweep came 10 ms earlier
    assert lidar["height_m"] == pytest.approx(-np.percentile(points(0)[:, 2], 10), abs=1e-6)
    assert good["problems"] == [] and f"{lidar['height_m']:.2f} m above the ground" in report_text(good)

    path = write(in_the_vehicles_frame(record(6)), tmp_path / "low")
    (problem,) = inspect(path)["problems"]
    assert problem["stops"] == "nothing" and problem["text"].startswith("/lidar_top: the origin of its frame")
    config = BagConfig(lidar_topics=("/lidar_top",), lidar_origins_m=((1.0, 0.0, 1.8),))
    told = inspect(path, config=config)
    assert told["problems"] == [] and told["lidars"][0]["height_m"] > 0.3
    origins, returns, _ = BagFrames([path], SMALL, config).lidar_returns(0)
    np.testing.assert_allclose(origins, np.broadcast_to((0.95, 0.0, 1.8), (200, 3)), atol=1e-9)
    np.testing.assert_allclose(returns, BagFrames([path], SMALL).lidar_returns(0)[1])  # points are as they were
