"""Every bad input is named before a training starts, with what it stops."""

import numpy as np
import pytest
from recordings import START_NS, STEP_NS, TF, Recording, record, write

from gsrender_core.bag_config import BagConfig
from gsrender_core.cli import main
from gsrender_ros.bag_rig import settings_from_file
from gsrender_ros.inspection import inspect, parameters_yaml
from gsrender_ros.inspection_text import report_text

USES = ("inference", "training")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def problems(recording: Recording, tmp_path) -> list[tuple[str, str]]:
    report = inspect(write(recording, tmp_path / "bag"))
    assert report_text(report)
    return [(problem["stops"], problem["text"]) for problem in report["problems"]]


def named(found: list[tuple[str, str]], stops: str, text: str) -> bool:
    return any(kind == stops and text in said for kind, said in found)


def test_a_good_bag_has_no_problem_and_is_described(tmp_path):
    report = inspect(write(record(), tmp_path / "bag"))
    assert report["problems"] == []
    assert report["spread_s"]["median"] == pytest.approx(0.02)
    assert [camera["size"] for camera in report["cameras"]] == [[64, 40]] * 2
    lidar = report["lidars"][0]
    assert lidar["points"] == 200 and lidar["sweeps_with_classes"] == 12 and lidar["frame"] == "lidar_top"
    assert report["supervision"] == "field" and report["frames"]["usable"] == 3
    assert {(row["parent"], row["child"]) for row in report["tf"]} >= {("map", "base_link"), ("base_link", "cam_back")}
    text = report_text(report)
    assert "no problems" in text and "classes in 12 of 12 sweeps" in text


def test_the_parameter_file_is_one_that_the_node_takes(tmp_path):
    report = inspect(write(record(), tmp_path / "bag"))
    (tmp_path / "rig.yaml").write_text(parameters_yaml(report["parameters"]))
    settings = settings_from_file(tmp_path / "rig.yaml")
    assert settings.cameras == ("cam_front", "cam_back") and settings.reference_camera == "cam_front"
    with pytest.raises(ValueError, match="'camera' does not exist"):
        (tmp_path / "bad.yaml").write_text("/**:\n  ros__parameters:\n    camera: [a]\n")
        settings_from_file(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("missing", "stops", "text"),
    [
        ("lidar", "training", "no LiDAR"),
        ("tf", "both", "no TF"),
        ("camera_info", "both", "no CameraInfo"),
        ("image_raw", "both", "no image topic"),
    ],
)
def test_what_is_missing_is_named(tmp_path, missing, stops, text):
    assert named(problems(record().without(missing), tmp_path), stops, text)


def test_gaps_backward_time_unknown_frames_and_spread_are_named(tmp_path):
    recording = record(20)
    late = [r for r in recording.rows if not START_NS + 5 * STEP_NS < r[2] < START_NS + 15 * STEP_NS]
    assert named(problems(Recording(late), tmp_path / "gap"), "nothing", "1 gaps, the longest")
    twice = Recording(record(6).rows + record(6, log_offset_ns=10 * STEP_NS).rows)
    assert named(problems(twice, tmp_path / "back"), "nothing", "time runs backwards 1 times")
    strange = record(4)
    for row in strange.rows:
        if row[0] == "/lidar_top":
            row[3].header.frame_id = "velodyne"
    assert named(problems(strange, tmp_path / "frame"), "training", "'velodyne' is not on TF")
    (tmp_path / "rig.yaml").write_text(
        "/**:\n  ros__parameters:\n    cameras: [cam_front, cam_back]\n    sync: {slop_s: 0.015}\n"
    )
    report = inspect(write(record(6), tmp_path / "spread"), str(tmp_path / "rig.yaml"))
    assert named([(p["stops"], p["text"]) for p in report["problems"]], "both", "beyond sync.slop_s 0.015")


def test_another_vehicles_frames_and_topics_are_guessed(tmp_path):
    names = {"cam_front": "left", "cam_back": "right", "base_link": "vehicle", "map": "world", "lidar_top": "velodyne"}
    recording = record(6)
    rows = []
    for topic, kind, log_ns, message in recording.rows:
        for old, new in names.items():
            topic = topic.replace(f"/{old}", f"/rig/{new}")
        topic = topic.replace("image_raw/compressed", "image/jpeg")
        if kind == TF:
            for transform in message.transforms:
                transform.header.frame_id = names[transform.header.frame_id]
                transform.child_frame_id = names[transform.child_frame_id]
        else:
            message.header.frame_id = names[message.header.frame_id]
        rows.append((topic, kind, log_ns, message))
    report = inspect(write(Recording(rows), tmp_path / "bag"))
    assert report["problems"] == []
    assert report["parameters"]["frames.ego"] == "vehicle" and report["parameters"]["frames.fixed"] == "world"
    assert report["parameters"]["topics.image"] == "/rig/{camera}/image/jpeg"
    assert report["frames"]["usable"] == 2
    assert np.isfinite(report["spread_s"]["largest"])


def test_the_exit_code_says_what_is_stopped(tmp_path, capsys):
    whole = str(write(record(4), tmp_path / "whole"))
    blind = str(write(record(4).without("lidar"), tmp_path / "blind"))
    dark = str(write(record(4).without("image_raw"), tmp_path / "dark"))
    codes = {(bag, use): main(["inspect", bag, "--for", use]) for bag in (whole, blind, dark) for use in USES}
    assert [codes[whole, use] for use in USES] == [0, 0]
    assert [codes[blind, use] for use in USES] == [0, 1]
    assert [codes[dark, use] for use in USES] == [1, 1]
    assert main(["inspect", blind]) == 0 and main(["inspect", str(tmp_path / "none")]) == 1
    assert "STOPS training" in capsys.readouterr().out


def test_a_lidar_that_the_configuration_names_and_the_bag_lacks_is_named(tmp_path):
    path = write(record(4), tmp_path / "bag")
    for topics in (("/lidar_top", "/lidar_left"), ("/lidar_left",)):
        report = inspect(path, config=BagConfig(lidar_topics=topics))
        assert [problem["stops"] for problem in report["problems"]] == ["training"]
        assert "has no PointCloud2 on /lidar_left; its PointCloud2 topics: /lidar_top" in report["problems"][0]["text"]
        assert report["frames"] == {"usable": 0} and report_text(report)
