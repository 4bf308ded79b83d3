"""`gsrender train` and `gsrender eval` on bags, and the processes that read ahead."""

import json
import logging

import numpy as np
import pytest
import yaml
from recordings import START_NS, STEP_NS, record, write
from small_drives import SIZE, write_drive, write_small_training

from gsrender_core.bag_config import BagConfig
from gsrender_core.cli import main
from gsrender_core.data.read_ahead import ReadAhead
from gsrender_ros.bag_frames import BagFrames

BAG = BagConfig(keyframe_interval_s=0.4, held_out_share=0.3, held_out_margin_s=0.0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """Two bags of six keyframes each, of which two are held out."""
    folder = tmp_path_factory.mktemp("drives")
    for name in ("one", "two"):
        write_drive(folder / name)
    return folder


def rows(run) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_network_is_trained_on_bags_and_scored_on_what_was_held_out(drives, tmp_path, capsys, caplog):
    caplog.set_level(logging.INFO)
    config = write_small_training(tmp_path / "small.yaml", bag=BAG, steps=3, validate_every=3)
    rig = tmp_path / "rig.yaml"
    rig.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"cameras": ["cam_back", "cam_front"]}}}))
    bags, run = [str(drives / "one"), str(drives / "two")], tmp_path / "run"
    given = ["--params", str(rig), "--device", "cpu"]
    assert main(["train", str(config), "--data", *bags, "--out", str(run), *given]) == 0
    assert "training on 8 frames, validating on 4 (one-held-out, two-held-out), 3 steps" in caplog.text
    assert "12 frames of 2 bags; not usable: nothing" in caplog.text
    (validation,) = [row["returns"] for row in rows(run) if "returns" in row]
    assert validation["rays"] > 100 and validation["labelled_rays"] > 100
    effective = yaml.safe_load((run / "config.yaml").read_text())
    assert effective["bag"]["params_file"] == str(rig) and effective["validation_scenes"] == 2

    # What the checkpoint was trained with (intervals, cameras) is what it is scored with.
    caplog.clear()
    result = tmp_path / "result.json"
    best = str(run / "best.safetensors")
    assert main(["eval", best, "--data", *bags, "--held-out", "--json", str(result), "--device", "cpu"]) == 0
    found = json.loads(result.read_text())
    assert found["scenes"] == ["one-held-out", "two-held-out"] and (found["frames"], found["skipped"]) == (4, 0)
    assert set(found["controls"]) == {"constant_image", "grey_image", "all_occupied", "all_free", "returns"}
    assert found["controls"]["all_free"]["missed"] == 1
    assert found["tau"] == pytest.approx(rows(run)[-1]["tau"])
    # The same frames, rays and weights as in the run's own validation.
    assert found["rays"] == validation["rays"] and found["within@1"] == pytest.approx(validation["within@1"], abs=0.02)
    said = capsys.readouterr().out
    assert "LiDAR rays of 4 frames (one-held-out, two-held-out); percent" in said
    assert {line.split()[0] for line in said.splitlines()} >= {"prediction", "returns", "all_free"}
    assert main(["eval", best, "--data", bags[0], "--no-controls", "--scenes", "one", "--device", "cpu"]) == 0
    assert "LiDAR rays of 4 frames (one); percent" in capsys.readouterr().out


def test_what_cannot_be_trained_or_scored_on_is_explained_in_one_line(drives, tmp_path, caplog):
    config = str(write_small_training(tmp_path / "small.yaml", bag=BAG))
    one, run = str(drives / "one"), str(tmp_path / "run")
    blind = str(write(record(6).without("lidar"), tmp_path / "blind"))
    other = str(write(record(6).without("cam_back"), tmp_path / "other"))

    def said(*arguments: str) -> str:
        caplog.clear()
        assert main(list(arguments)) == 1
        text = caplog.messages[-1]
        assert "\n" not in text
        return text

    train = ("train", config, "--out", run, "--device", "cpu", "--data")
    assert "blind has no topic that is surely a LiDAR's" in said(*train, blind)
    assert "one network takes one set of cameras" in said(*train, one, other)
    assert f"--data {tmp_path} is no bag" in said(*train, one, str(tmp_path))
    assert "are for data in the nuScenes schema" in said(*train, one, "--split", "train")
    assert "scene 'nowhere' is not in" in said(*train, one, "--scenes", "nowhere")
    assert "rig.yaml does not exist; `gsrender inspect" in said(*train, one, "--params", str(tmp_path / "rig.yaml"))
    evaluate = ("eval", "default", "--device", "cpu", "--data")
    short = str(write(record(1), tmp_path / "short"))
    assert f"nothing of {short} is held out; set bag.held_out_share" in said(*evaluate, short, "--held-out")


def test_workers_read_the_frames_that_the_data_set_reads(tmp_path):
    recording = record(5)
    for row in recording.rows:
        if row[0] == "/cam_front/image_raw/compressed" and row[2] == START_NS + 2 * STEP_NS:
            row[3].data = row[3].data[:30]
    config = BagConfig(keyframe_interval_s=0.1, held_out_share=0.0)
    bag = BagFrames([write(recording, tmp_path / "bag")], SIZE, config)
    ahead = ReadAhead(bag, workers=1, limit=8)
    try:
        ahead.want([(4, True), (0, True), (1, False), (2, True), (2, False)])
        for i, images in ((0, True), (4, True), (1, False), (2, False)):
            ours, theirs = ahead.take(i, images), bag.frame(i) if images else bag.frame_without_images(i)
            for name in ("images", "Ks", "T_ego_cam", "T_global_ego"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
            for name in ("camera", "uv", "depth_m", "class_id"):
                np.testing.assert_array_equal(getattr(ours.labels, name), getattr(theirs.labels, name))
            assert (ours.stamp_ns, ours.token, ours.scene) == (theirs.stamp_ns, theirs.token, theirs.scene)
        with pytest.raises(ValueError, match=f"frame bag_{START_NS + 2 * STEP_NS}: .*not readable"):
            ahead.take(2, True)
        assert ahead.deaths == 0
    finally:
        ahead.close()
