import json

import pytest

from gsrender_core.config import ModelConfig, TrainConfig, from_dict, load_train_config, to_dict
from gsrender_core.voxel_grid import VoxelGrid


def test_defaults_survive_the_trip_through_json():
    config = TrainConfig()
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_nested_overrides_keep_every_other_default():
    config = from_dict(TrainConfig, {"model": {"grid": {"shape": [10, 20, 4]}}, "steps": 7, "learning_rate": 1})
    assert config.model.grid == VoxelGrid(shape=(10, 20, 4))
    assert config.steps == 7 and config.learning_rate == 1.0 and config.batch == TrainConfig().batch


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps_": 1}, "unknown key 'steps_'"),
        ({"model": {"backbone": {"nme": "x"}}}, "model.backbone: unknown key 'nme'"),
        ({"steps": "many"}, "steps: expected int"),
        ({"steps": True}, "steps: expected int"),
        ({"model": {"image_size": [704]}}, "expected 2 values"),
        ({"compensation": "off"}, "compensation: 'off' is none of features, logits, none"),
        ({"schedule": "step"}, "schedule: 'step' is none of"),
        ({"model": {"tau": 5.0}}, "model.tau: 5.0 must lie between"),
        ({"learning_rate": "2e-3"}, "write 2.0e-3"),
        ({"validation_scenes": -1}, "must be 0 or more"),
        ({"render_every": 0}, "render_every: 0 must be 1 or more"),
        ({"adjacent": [0, 1]}, "k = 0 is the frame itself"),
        ({"model": 3}, "model: expected keys and values"),
        ({"loss": {"semantic": -1.0}}, "loss.semantic: -1.0 must be a number of 0 or more"),
        ({"loss": {"voxel": float("nan")}}, "loss.voxel: nan must be a number"),
        ({"loss": {"alpha": 1.5}}, "alpha 1.5 must lie in 0 .. 1"),
        ({"prune_opacity": 1.0}, "prune_opacity 1.0.* must lie in 0 .. 1"),
        ({"prune_keep": -0.1}, "prune_keep -0.1: must lie in 0 .. 1"),
        ({"adjacent_per_step": -1}, "adjacent_per_step -1.* must be 0 or more"),
        ({"voxels": -1}, "voxels -1: must be 0 or more"),
        ({"model": {"head": {"hidden": -1}}}, "head.hidden: -1 must be positive"),
        ({"model": {"head": {"kind": "nerf", "hidden": 0}}}, "head.hidden: 0 must be positive"),
        ({"model": {"encoder": {"cell_features": -8}}}, "cell_features: -8 must be 0"),
        ({"model": {"encoder": {"kind": "resnet3d", "cell_features": 8}}}, "positive with kind bev"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_dict(TrainConfig, values)


def test_yaml_files(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("steps: 5\nmodel: {tau: 0.3}\n")
    assert load_train_config(path).model.tau == 0.3
    path.write_text("steps: [")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_train_config(path)
    with pytest.raises(FileNotFoundError):
        load_train_config(tmp_path / "none.yaml")


def test_shipped_training_configurations_load():
    from pathlib import Path

    files = sorted(Path(__file__).parents[2].glob("config/train_*.yaml"))
    assert files
    for file in files:
        assert isinstance(load_train_config(file).model, ModelConfig)
