"""What a run that goes on says about its configuration."""

import logging

import torch

from gsrender_core.config import TrainConfig, to_dict
from gsrender_core.run_folder import read_state
from gsrender_core.supply import DataSupply


def saved(path, values: dict):
    import json

    torch.save({"config": json.dumps(values), "step": 1, "best": 0.0, "tau": 0.1, "seconds": 1.0}, path)
    return path


def test_a_key_that_came_later_is_no_change_and_another_value_is(tmp_path, caplog):
    config, old = TrainConfig(), to_dict(TrainConfig())
    del old["bag"], old["loss"]["voxel"]
    with caplog.at_level(logging.WARNING):
        read_state(saved(tmp_path / "a.pt", old), config)
        assert caplog.text == ""
        old["learning_rate"] = 1.0
        old["bag"] = {"gap_s": 7.0}
        read_state(saved(tmp_path / "b.pt", old), config)
    assert "resumed with another learning_rate: 1.0" in caplog.text and "'gap_s': 7.0" in caplog.text


def test_the_hint_names_every_bag_and_the_rig(tmp_path):
    class Recorded:
        roots = ("a", "b")
        root = "a"
        config = type("Config", (), {"params_file": "rig.yaml"})

    supply = object.__new__(DataSupply)
    supply.dataset = Recorded()
    assert "--data a b --params rig.yaml --out run --resume" in supply.resume_hint("run")
    supply.dataset = type("Folder", (), {"root": "data"})()
    assert "--data data --out run" in supply.resume_hint("run")
