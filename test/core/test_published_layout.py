"""A miniature of nuScenes v1.0-trainval + lidarseg + Occ3D as published: folders, annotations.json, splits, sweeps."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_nuscenes_reader import FRAMES, LIDARSEG, reader, template  # noqa: F401 (a fixture)

from gsrender_core.classes import IGNORE
from gsrender_core.cli import main
from gsrender_core.data import json_rows, nuscenes_tables
from gsrender_core.data.json_rows import iterate_members
from gsrender_core.data.nuscenes_tables import NuScenesTables
from gsrender_core.data.occ3d_annotations import Occ3DAnnotations

VERSION = "v1.0-trainval"
TOKENS = [f"{scene}-{f}" for scene, frames in FRAMES.items() for f in range(frames)]


def labels_file(path: Path, class_id: int) -> None:
    """Occ3D's file: three uint8 arrays, one voxel of ``class_id`` that the camera sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    semantics = np.full((200, 200, 16), 17, np.uint8)
    semantics[1, 2, 3] = class_id
    mask = (semantics != 17).astype(np.uint8)
    np.savez_compressed(path, semantics=semantics, mask_lidar=mask, mask_camera=mask)


@pytest.fixture
def published(template, tmp_path) -> Path:  # noqa: F811
    """trainval's folders; ground truth of scene-a at the usual place, of scene-b where gt_path says, one missing."""
    root = Path(shutil.copytree(template, tmp_path / "nuscenes"))
    (root / "v1.0-mini").rename(root / VERSION)
    (root / "lidarseg" / "v1.0-mini").rename(root / "lidarseg" / VERSION)
    for table in ("lidarseg", "sample_data"):
        path = root / VERSION / f"{table}.json"
        path.write_text(path.read_text().replace("v1.0-mini", VERSION))
    # A gigabyte in the real one, with boxes that occupancy does not use: whoever parsed this would fail.
    (root / VERSION / "sample_annotation.json").write_text("not read")
    rows = json.loads((root / VERSION / "sample_data.json").read_text())
    radar = {
        **rows[0],
        "token": "radar",
        "calibrated_sensor_token": "cs-radar",
        "filename": "samples/RADAR_FRONT/x.pcd",
    }
    (root / VERSION / "sample_data.json").write_text(json.dumps([*rows, radar], indent=0))
    infos: dict = {scene: {} for scene in FRAMES}
    for token in TOKENS:
        scene = token[:7]
        path = f"gts/{scene}/{token}/labels.npz" if scene == "scene-a" else f"elsewhere/{token}.npz"
        infos[scene][token] = {"timestamp": 1, "camera_sensor": {}, "ego_pose": {}, "gt_path": path}
    labels_file(root / infos["scene-a"]["scene-a-0"]["gt_path"], 4)
    labels_file(root / infos["scene-b"]["scene-b-0"]["gt_path"], 15)
    del infos["scene-a"]["scene-a-5"]["gt_path"]
    splits = {"train_split": ["scene-a", "scene-unpublished"], "val_split": ["scene-b"]}
    (root / "annotations.json").write_text(json.dumps({**splits, "scene_infos": infos}))
    return root


def test_images_sweeps_lidarseg_and_ground_truth_are_found(published):
    data = reader(published)
    assert data.tables.version == VERSION and data.tokens == tuple(TOKENS)
    points, ids, _ = data.lidar(3)
    assert len(points) == len(LIDARSEG) and ids.tolist() == LIDARSEG.tolist()
    labels = data.frame(0).labels
    assert set(labels.class_id.tolist()) == {11, IGNORE}
    at_usual_place, by_gt_path = data.ground_truth(0), data.ground_truth(TOKENS.index("scene-b-0"))
    assert np.argwhere(at_usual_place.semantics == 4).tolist() == [[1, 2, 3]]
    assert np.argwhere(by_gt_path.semantics == 15).tolist() == [[1, 2, 3]]
    assert by_gt_path.mask_camera.sum() == by_gt_path.mask_lidar.sum() == 1


def test_listed_labels_that_are_missing_count_as_no_ground_truth(published, caplog):
    data = reader(published)
    assert data.ground_truth(TOKENS.index("scene-a-5")) is None  # listed without gt_path
    assert "does not exist" not in caplog.text
    assert [data.ground_truth(i) for i in (1, 2, 13)] == [None] * 3  # listed, but the file is not there
    assert caplog.text.count("does not exist") == 1 and "scene-a-1" in caplog.text and "unpack gts" in caplog.text
    (published / "annotations.json").unlink()
    assert reader(published).ground_truth(0) is not None


def test_splits_come_from_annotations(published, caplog):
    caplog.set_level(logging.INFO)
    assert reader(published, split="train").scene_names == ("scene-a",)
    assert reader(published, split="val").tokens == ("scene-b-0", "scene-b-1")
    assert "1 of 2 scenes are in the val split" in caplog.text
    assert reader(published, split="train", scenes=["scene-a"]).scene_names == ("scene-a",)
    with pytest.raises(ValueError, match=r"scenes \['scene-b'\] are not in the train split"):
        reader(published, split="train", scenes=["scene-b"])
    with pytest.raises(ValueError, match="split 'test' is not one of train, val"):
        reader(published, split="test")
    path = published / "annotations.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "val_split": ["scene-unpublished"]}))
    with pytest.raises(ValueError, match="none of the 2 scenes of the tables is in the val split"):
        reader(published, split="val")
    path.write_text(json.dumps({"scene_infos": values["scene_infos"]}))
    with pytest.raises(ValueError, match="has no val_split.*--scenes"):
        reader(published, split="val")
    path.write_text(json.dumps({"val_split": "scene-b"}))
    with pytest.raises(ValueError, match="val_split is not a list"):
        reader(published, split="val")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="annotations.json, which does not exist.*--scenes"):
        reader(published, split="val")


def test_the_command_takes_a_split(published, caplog):
    (published / "annotations.json").unlink()
    out = str(published / "run")
    assert main(["train", "default", "--data", str(published), "--split", "train", "--out", out]) == 1
    assert "annotations.json" in caplog.text and not Path(out).exists()


def test_members_are_the_same_however_the_file_is_cut(published, monkeypatch):
    path = published / "annotations.json"
    values = json.loads(path.read_text()) | {"version": 12.5, "empty": {}, "after": [1, 2], "done": True}
    for indent in (None, 1):
        path.write_text(json.dumps(values, indent=indent))
        for chunk in (150, 151, 397, 1024, 1 << 22):
            monkeypatch.setattr(json_rows, "_CHUNK", chunk)
            found: dict = {"scene_infos": {}}
            for keys, value in iterate_members(path, "scene_infos"):
                (found if len(keys) == 1 else found[keys[0]])[keys[-1]] = value
            assert found == values
    # No descent: the member comes whole, and one of that name further in is left alone.
    path.write_text('{"a": {"scene_infos": {"b": 1}}, "scene_infos": [3]}')
    assert list(iterate_members(path, "scene_infos")) == [
        (("a",), {"scene_infos": {"b": 1}}),
        (("scene_infos",), [3]),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1', '{"a" 1}', '{"scene_infos": {"x": {}', '{"a": tru', "{1: 2}"])
def test_broken_annotations_are_named(published, text):
    (published / "annotations.json").write_text(text)
    with pytest.raises(ValueError, match=r"annotations\.json.*Download it again"):
        Occ3DAnnotations(published).gt_path("scene-a-1")


def test_malformed_scene_infos_are_named(published):
    (published / "annotations.json").write_text('{"scene_infos": {"scene-a": {"t": "gone"}}}')
    with pytest.raises(ValueError, match="scene_infos of scene-a"):
        Occ3DAnnotations(published).gt_path("t")


def test_sweeps_of_many_scenes_are_read_in_one_pass(published, monkeypatch):
    def opened(tables: NuScenesTables, scenes) -> int:
        passes = []
        read = NuScenesTables._sample_data
        monkeypatch.setattr(NuScenesTables, "_sample_data", lambda *a, **k: passes.append(1) or read(*a, **k))
        found = {scene: [r.token for r in tables.sensor_records(scene, include_sweeps=True)] for scene in scenes}
        monkeypatch.setattr(NuScenesTables, "_sample_data", read)
        assert all(len(found[scene]) == 14 * FRAMES[scene] for scene in found)
        assert all(token.startswith(scene) for scene, tokens in found.items() for token in tokens)
        return len(passes)

    tables = NuScenesTables(published)
    assert opened(tables, ["scene-a", "scene-b", "scene-a"]) == 1
    monkeypatch.setattr(nuscenes_tables, "SWEEP_SCENES", 1)  # more scenes than are kept: a pass for each
    tables = NuScenesTables(published)
    assert opened(tables, ["scene-a", "scene-b", "scene-b"]) == 2
