from pathlib import Path

import pytest

from gsrender_ros.parameters import Settings, markdown_table, specifications, yaml_text
from gsrender_ros.training_parameters import NOT_FOR_TRAINING, TrainingSettings, ignored_parameters

ROOT = Path(__file__).resolve().parents[2]


def test_yaml_file_and_document_hold_exactly_the_defaults():
    text = (ROOT / "config" / "training.yaml").read_text(encoding="utf-8")
    command = "python -m gsrender_ros.training_parameters"
    assert text == yaml_text(TrainingSettings, "trainer_node"), f"run: {command} --yaml > config/training.yaml"
    document = (ROOT / "docs" / "live_training.md").read_text(encoding="utf-8")
    assert markdown_table(TrainingSettings) in document, f"run: {command}"


def test_names_are_those_of_no_other_parameter():
    mine = {spec.metadata["name"] for spec in specifications(TrainingSettings)}
    theirs = {spec.metadata["name"] for spec in specifications(Settings)}
    assert not mine & theirs and set(NOT_FOR_TRAINING) <= theirs
    assert all(spec.metadata["sentence"].endswith(".") for spec in specifications(TrainingSettings))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "training.out is empty: name the folder"),
        ({"out": "run", "init": "a", "resume": True}, "training.init is for a fresh run"),
        ({"out": "run", "steps_per_frame": -1.0}, "training.steps_per_frame is -1, must lie in 0 to 1000"),
        ({"out": "run", "at_end": "stopp"}, "training.at_end is 'stopp', .* did you mean 'stop'|at_end is 'stopp'"),
    ],
)
def test_wrong_values_are_explained(values, text):
    with pytest.raises(ValueError, match=text):
        TrainingSettings(**values)


def test_what_means_nothing_to_a_trainer_is_named_where_it_is_set():
    assert ignored_parameters(Settings()) == []
    given = Settings(checkpoint="mine.safetensors", history_interval_s=0.4)
    assert [line.split()[0] for line in ignored_parameters(given)] == ["checkpoint", "history.interval_s"]
