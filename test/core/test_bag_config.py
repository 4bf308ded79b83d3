"""The section of a configuration that says how recordings are read."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from gsrender_core.bag_config import BagConfig

DOCUMENT = Path(__file__).parents[2] / "docs" / "training_from_bags.md"


def test_the_table_of_keys_is_the_configuration():
    section = DOCUMENT.read_text(encoding="utf-8").split("## The section `bag`")[1].split("\n## ")[0]
    found = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \| .+ \|$", section, re.MULTILINE))
    assert found == {field.name: json.dumps(field.default) for field in dataclasses.fields(BagConfig)}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"supervision": "labels"}, "none of auto, field"),
        ({"reference": "imu"}, "none of camera, lidar"),
        ({"lidar_slop_s": 0.0}, "must be a positive number"),
        ({"gap_s": float("inf")}, "must be a positive number"),
        ({"held_out_share": 1.0}, "0 .. below 1"),
        ({"held_out_margin_s": -1.0}, "0 or more"),
        ({"own_vehicle_min_m": (9.0, 0.0, 0.0)}, "is not below"),
        ({"semantic_topic": "semantic"}, "lacks {camera}"),
        ({"semantic_ids": ((3, 11), (7, 17))}, "[7, 17] must be [their id 0..65535, class id 0..16 or 255"),
        ({"semantic_ids": ((70000, 4),)}, "[70000, 4] must be"),
        ({"lidar_origins_m": ((0.0, 0.0, 1.8),)}, "has 1 places for 0 lidar_topics"),
        ({"lidar_topics": ("a",), "lidar_origins_m": ((0.0, 0.0, float("nan")),)}, "must be finite"),
        ({"supervision": "images"}, "name their topics in bag.semantic_topic"),
        ({"supervision": "function"}, "name it in bag.label_function"),
        ({"label_function": "module"}, "is not module:function"),
    ],
)
def test_senseless_values_are_named(values, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        BagConfig(**values)
