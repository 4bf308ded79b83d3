"""Trains a network from a bag that is played: trainer node and player, on request RViz.

ros2 launch gsrender_ros replay_training.launch.py bag:=/path/to/bag out:=runs/mine config:=mine.yaml
"""

import importlib.util
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction


def _occupancy_launch():
    """The other launch file of this folder as a module: nodes are started, bags played and RViz shown as there."""
    path = Path(__file__).resolve().with_name("occupancy.launch.py")
    spec = importlib.util.spec_from_file_location("gsrender_occupancy_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OCCUPANCY = _occupancy_launch()


def _arguments() -> list[DeclareLaunchArgument]:
    return [
        DeclareLaunchArgument("bag", description="Bag to learn from."),
        DeclareLaunchArgument("out", description="Folder of the run: checkpoints, log, report."),
        DeclareLaunchArgument(
            "config", default_value="", description="Training configuration (YAML); empty: the defaults."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(OCCUPANCY.share() / "config" / "occupancy.yaml"),
            description="Parameters that describe the rig; `gsrender inspect BAG --params FILE` writes them.",
        ),
        DeclareLaunchArgument(
            "init", default_value="", description="Checkpoint whose weights to begin with, or default; empty: none."
        ),
        DeclareLaunchArgument(
            "resume", default_value="false", choices=["true", "false"], description="Go on with the run in out."
        ),
        DeclareLaunchArgument("device", default_value="auto", description="Where to train: auto, cpu, cuda or cuda:N."),
        DeclareLaunchArgument(
            "bag_args",
            default_value="--clock 100 --delay 5",
            description="Further arguments of `ros2 bag play`; the delay, once the trainer is ready, is for discovery.",
        ),
        DeclareLaunchArgument("use_sim_time", default_value="true", description="Take the time from /clock."),
        *OCCUPANCY.common_arguments(),
    ]


def _start_node(context) -> list:
    given = context.launch_configurations
    if given["config"] and not Path(given["config"]).is_file():
        raise FileNotFoundError(f"config:={given['config']} does not exist")
    parameters = {
        "device": given["device"],
        "training.config": given["config"],
        "training.out": given["out"],
        "training.init": given["init"],
        "training.resume": given["resume"] == "true",
    }
    # A validation that is under way ends first, then the checkpoint is saved.
    return OCCUPANCY.start_node(context, "trainer_node", parameters, sigterm_timeout="120")


def generate_launch_description() -> LaunchDescription:
    """All of it; `ros2 launch gsrender_ros replay_training.launch.py --show-args` lists the arguments."""
    return LaunchDescription(
        [
            *_arguments(),
            *OCCUPANCY.larger_shared_memory(),
            OpaqueFunction(function=_start_node),
            OpaqueFunction(function=OCCUPANCY.show, args=["trainer_node"]),
        ]
    )
