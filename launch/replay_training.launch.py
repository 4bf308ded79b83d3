"""Trains a network from a bag that is played: trainer node and player, on request RViz.

ros2 launch gsrender_ros replay_training.launch.py bag:=/path/to/bag out:=runs/mine config:=mine.yaml
"""

import importlib.util
import sys
from pathlib import Path

import yaml
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PACKAGE = "gsrender_ros"


def _occupancy_launch():
    """The other launch file of this folder as a module: bags are played and RViz is shown as there."""
    path = Path(__file__).resolve().with_name("occupancy.launch.py")
    spec = importlib.util.spec_from_file_location("gsrender_occupancy_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OCCUPANCY = _occupancy_launch()


def _arguments() -> list[DeclareLaunchArgument]:
    share = OCCUPANCY._share()
    return [
        DeclareLaunchArgument("bag", description="Bag to learn from."),
        DeclareLaunchArgument("out", description="Folder of the run: checkpoints, log, report."),
        DeclareLaunchArgument(
            "config", default_value="", description="Training configuration (YAML); empty: the defaults."
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share / "config" / "occupancy.yaml"),
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
            description="Further arguments of `ros2 bag play`; the delay lets the trainer subscribe first.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
        DeclareLaunchArgument("use_sim_time", default_value="true", description="Take the time from /clock."),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=["true", "false"], description="Start RViz as well."
        ),
        DeclareLaunchArgument(
            "rviz_config", default_value=str(share / "rviz" / "occupancy.rviz"), description="Configuration of RViz."
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severe messages that the node prints.",
        ),
    ]


def _start_node(context) -> list:
    """The trainer; all ends when it does."""
    given = context.launch_configurations
    for name in ("params_file", "config"):
        if given[name] and not Path(given[name]).is_file():
            raise FileNotFoundError(f"{name}:={given[name]} does not exist")
    parameters = {
        "use_sim_time": given["use_sim_time"].lower() in ("true", "1"),
        "device": given["device"],
        "training.config": given["config"],
        "training.out": given["out"],
        "training.init": given["init"],
        "training.resume": given["resume"] == "true",
    }
    prefix = OCCUPANCY._prefix(PACKAGE)
    # Not installed as a ROS package (pip only): run it as a module of the interpreter that launches.
    where = (
        {"package": PACKAGE, "executable": "trainer_node"}
        if prefix and (prefix / "lib" / PACKAGE / "trainer_node").exists()
        else {"executable": sys.executable, "arguments": ["-m", "gsrender_ros.trainer_node"]}
    )
    node = Node(
        **{k: v for k, v in where.items() if k != "arguments"},
        name="trainer_node",
        namespace=LaunchConfiguration("namespace"),
        parameters=[given["params_file"], parameters],
        arguments=[*where.get("arguments", []), "--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
        sigterm_timeout="120",  # a validation that is under way ends first, then the checkpoint is saved
    )
    ended = RegisterEventHandler(
        OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason="trainer_node ended"))])
    )
    return [node, ended]


def _show(context) -> list:
    """RViz on request, opened on what the trainer publishes where its configuration names occupancy_node's topics."""
    given = context.launch_configurations
    if given["rviz"] != "true":
        return []
    if not Path(given["rviz_config"]).is_file():
        raise FileNotFoundError(f"rviz_config:={given['rviz_config']} does not exist")
    namespace = OCCUPANCY._absolute(given["namespace"])
    document = yaml.safe_load(Path(given["rviz_config"]).read_text(encoding="utf-8"))
    topics = sorted(OCCUPANCY._rviz_topics(document) - OCCUPANCY.GLOBAL_TOPICS)
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            namespace=namespace,
            arguments=["-d", given["rviz_config"]],
            parameters=[{"use_sim_time": given["use_sim_time"].lower() in ("true", "1")}],
            remappings=[(t, namespace + t.replace("/occupancy_node/", "/trainer_node/")) for t in topics],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """All of it; `ros2 launch gsrender_ros replay_training.launch.py --show-args` lists the arguments."""
    return LaunchDescription(
        [
            *_arguments(),
            OpaqueFunction(function=_start_node),
            OpaqueFunction(function=OCCUPANCY._play_bag),
            OpaqueFunction(function=_show),
        ]
    )
