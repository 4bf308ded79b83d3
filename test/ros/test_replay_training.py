"""The one command: what it starts, and what it refuses. That node and player work together: test_trainer_node."""

import pytest
import yaml
from ros_processes import own_domain
from small_drives import write_drive, write_small_training

from gsrender_ros import replay_training
from gsrender_ros.bag_rig import settings_from_file
from gsrender_ros.replay_training import ReplayTraining, commands


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp("drives") / "drive"
    write_drive(path, sets=3)
    return path


def test_the_rig_is_that_of_the_bag(drive, tmp_path):
    config = write_small_training(tmp_path / "small.yaml")
    options = ReplayTraining(drive, tmp_path / "run", config, rate=2.0, parameters=("training.ahead:=4",))
    node, player = commands(options)
    assert node[0] == "gsrender_ros.trainer_node" and node[-2:] == ["-p", "training.ahead:=4"]
    assert f"training.out:={tmp_path / 'run'}" in node and f"training.config:={config}" in node
    rig = settings_from_file(node[node.index("--params-file") + 1])
    assert set(rig.cameras) == {"cam_front", "cam_back"} and rig.reference_camera == "cam_front"
    waits = {player[i + 1] for i, text in enumerate(player) if text == "--wait-for"}
    assert waits == {f"/{c}/image_raw/compressed" for c in ("cam_front", "cam_back")} | {"/lidar_top"}
    assert player[:4] == ["gsrender_ros.replay_player", str(drive), "--rate", "2"]
    assert not (tmp_path / "run").exists()  # the trainer wants an empty folder


def test_a_parameter_file_wins_over_a_guess(drive, tmp_path):
    rig = tmp_path / "rig.yaml"
    parameters = {"cameras": ["cam_back"], "reference_camera": "cam_back"}
    rig.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    node, player = commands(ReplayTraining(drive, tmp_path / "run", params_file=rig))
    assert settings_from_file(node[node.index("--params-file") + 1]).cameras == ("cam_back",)
    assert "/cam_front/image_raw/compressed" not in player


def test_what_cannot_be_trained_from_is_explained_in_one_line(drive, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(replay_training, "StopSignal", lambda: False)  # handlers of this process stay as they are
    assert replay_training.main([str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 1
    assert "is no bag: not there" in caplog.messages[-1] and "\n" not in caplog.messages[-1]
    monkeypatch.setattr(replay_training, "guess_lidars", lambda index: ())
    assert replay_training.main([str(drive), "--out", str(tmp_path / "run")]) == 1
    assert "has no topic that is surely a LiDAR's; name it in bag.lidar_topics" in caplog.messages[-1]


def test_a_node_that_cannot_start_ends_the_command_with_its_words(drive, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(replay_training, "StopSignal", lambda: False)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(own_domain(24)))
    config = write_small_training(tmp_path / "small.yaml")
    arguments = [str(drive), "--out", str(tmp_path / "run"), "--config", str(config), "-p", "training.at_end:=never"]
    assert replay_training.main(arguments) == 1
    assert "cannot start: training.at_end is 'never'" in capfd.readouterr().err
    assert "training.at_end is 'never'" in (tmp_path / "run_logs" / "trainer_node.log").read_text()
