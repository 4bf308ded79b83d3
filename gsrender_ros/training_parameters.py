"""What ``trainer_node`` takes beside the parameters of ``occupancy_node`` for its inputs and outputs.

``python -m gsrender_ros.training_parameters`` prints the table of docs/live_training.md; ``--yaml`` prints
config/training.yaml.
"""

import sys
from dataclasses import dataclass, fields

from gsrender_ros.parameters import (
    Limits,
    Settings,
    check,
    markdown_table,
    parameter,
    specifications,
    yaml_text,
)

# Of the parameters of occupancy_node: what means nothing to a trainer.
NOT_FOR_TRAINING = ("checkpoint", "runtime", "history.interval_s", "self_check.lidar_topic")


@dataclass(frozen=True)
class TrainingSettings:
    """Effective values of the parameters that only a trainer has."""

    config: str = parameter(
        "training.config",
        "",
        "",
        "Training configuration (YAML); its section bag says how messages become frames; empty: the defaults.",
    )
    out: str = parameter("training.out", "", "", "Folder of the run: checkpoints, log, report; must be given.")
    resume: bool = parameter("training.resume", False, "", "Go on with the run in training.out.")
    init: str = parameter(
        "training.init", "", "", "Checkpoint whose weights a fresh run begins with, or default; empty: fresh ones."
    )
    steps_per_frame: float = parameter(
        "training.steps_per_frame",
        1.0,
        "steps",
        "Steps that every frame is worth: the player is paused while the training is behind, or frames are dropped "
        "where it cannot be paused; 0: never wait.",
        Limits(0.0, 1000.0),
    )
    ahead: int = parameter(
        "training.ahead", 8, "frames", "So many frames may come before their steps are done.", Limits(1, 1000)
    )
    finish_steps: int = parameter(
        "training.finish_steps",
        500,
        "steps",
        "Steps after the replay's end, over which the learning rate falls.",
        Limits(1, 1_000_000),
    )
    at_end: str = parameter(
        "training.at_end",
        "stop",
        "",
        "After the last step: stop the node, or wait with the last grid on the topics.",
        Limits(choices=("stop", "wait")),
    )
    end_silence_s: float = parameter(
        "training.end_silence_s",
        10.0,
        "s",
        "The replay is at its end when no image has come for so long, pauses for the training left out.",
        Limits(1.0, 3600.0),
    )
    players: tuple[str, ...] = parameter(
        "training.players",
        ("/rosbag2_player", "/replay_player"),
        "",
        "Nodes that play the bag; the first that has a pause service is paused while the training is behind.",
    )
    publish_period_s: float = parameter(
        "training.publish_period_s",
        5.0,
        "s",
        "The newest frame's occupancy is predicted and published so often, where somebody listens.",
        Limits(0.1, 3600.0),
    )
    memory_gb: float = parameter(
        "buffer.memory_gb",
        2.0,
        "GB",
        "Memory for frames; the configuration's cache_gb for what is computed of them comes on top.",
        Limits(0.001, 10_000.0),
    )
    stretch: int = parameter(
        "buffer.stretch", 8, "frames", "Consecutive frames that are kept or forgotten together.", Limits(1, 1000)
    )
    hold_out_every: int = parameter(
        "buffer.hold_out_every",
        6,
        "stretches",
        "Each so many stretches one is validated on and never trained on; 0: none.",
        Limits(0, 1000),
    )

    def __post_init__(self):
        if not self.out:
            raise ValueError("training.out is empty: name the folder of the run, as -p training.out:=runs/live")
        if self.init and self.resume:
            raise ValueError("training.init is for a fresh run, training.resume goes on with one: leave one out")
        for spec in fields(self):
            check(spec.metadata["name"], getattr(self, spec.name), spec.metadata["limits"])


def ignored_parameters(settings: Settings) -> list[str]:
    """One line for every parameter of occupancy_node that is set and means nothing to a trainer."""
    given = {spec.metadata["name"]: (getattr(settings, spec.name), spec.default) for spec in specifications()}
    return [
        f"{name} means nothing to a trainer and is ignored"
        for name in NOT_FOR_TRAINING
        if given[name][0] != given[name][1]
    ]


if __name__ == "__main__":
    yaml = "--yaml" in sys.argv[1:]
    sys.stdout.write(yaml_text(TrainingSettings, "trainer_node") if yaml else markdown_table(TrainingSettings))
