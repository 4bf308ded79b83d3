"""Starts the occupancy node, and on request a bag and RViz.

ros2 launch gsrender_ros occupancy.launch.py bag:=/path/to/bag rviz:=true
"""

import sys
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PythonExpression
from launch_ros.actions import Node

PACKAGE = "gsrender_ros"
RESPAWN_DELAY_S = 2.0
# Topics that have one name on a whole vehicle, whatever namespace its nodes live in.
GLOBAL_TOPICS = {"/tf", "/tf_static", "/clock", "/diagnostics", "/rosout", "/parameter_events"}


def _prefix(package: str) -> Path | None:
    """Where a ROS package is installed, or None."""
    try:
        return Path(get_package_prefix(package))
    except (PackageNotFoundError, OSError):  # OSError: no ROS environment is sourced
        return None


def share() -> Path:
    """The package's share folder; the source tree where the package is not installed."""
    prefix = _prefix(PACKAGE)
    return prefix / "share" / PACKAGE if prefix else Path(__file__).resolve().parents[1]


def _arguments() -> list[DeclareLaunchArgument]:
    bag = LaunchConfiguration("bag")
    return [
        DeclareLaunchArgument("bag", default_value="", description="Bag to play along; empty: none."),
        DeclareLaunchArgument(
            "bag_args",
            default_value="--clock 100",
            description="Further arguments of `ros2 bag play`, as '--clock 100 --loop --rate 0.5'.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value=PythonExpression(["'true' if '''", bag, "''' else 'false'"]),
            description="Take the time from /clock; true where a bag is given.",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(share() / "config" / "occupancy.yaml"),
            description="Parameters of the node; arguments given here win over it.",
        ),
        DeclareLaunchArgument("checkpoint", default_value="", description="Checkpoint; empty: as params_file says."),
        DeclareLaunchArgument(
            "image_transport",
            default_value="",
            choices=["", "auto", "raw", "compressed"],
            description="Image or CompressedImage topics; empty: as params_file says.",
        ),
        DeclareLaunchArgument(
            "layout",
            default_value="",
            choices=["", "gsrender", "nuscenes2bag", "nuscenes2bag_ros2", "foxglove", "nuscenes_to_ros2bag"],
            description="Names of topics and frames; empty: as params_file says.",
        ),
        DeclareLaunchArgument(
            "respawn",
            default_value="false",
            choices=["true", "false"],
            description="Start the node again whenever it ends, after 2 s; else everything ends with it.",
        ),
        *common_arguments(),
    ]


def common_arguments() -> list[DeclareLaunchArgument]:
    """What every launch file of this folder takes."""
    return [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics."),
        DeclareLaunchArgument(
            "rviz", default_value="false", choices=["true", "false"], description="Start RViz as well."
        ),
        DeclareLaunchArgument(
            "rviz_config",
            default_value=str(share() / "rviz" / "occupancy.rviz"),
            description="Configuration of RViz.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error", "fatal"],
            description="Least severe messages that the node prints.",
        ),
    ]


def _start_node(context) -> list:
    """The node. What is empty on the command line is left to the parameter file."""
    given = {
        name: context.launch_configurations[name]
        for name in ("checkpoint", "image_transport", "layout")
        if context.launch_configurations[name]
    }
    # What the network is working on ends first; launch itself gives 5 s.
    options = {"respawn": True, "respawn_delay": RESPAWN_DELAY_S} if _is_true(context, "respawn") else {}
    return start_node(context, "occupancy_node", given, sigterm_timeout="20", **options)


def _is_true(context, name: str) -> bool:
    return context.launch_configurations[name].lower() in ("true", "1")


def start_node(context, program: str, parameters: dict, **options) -> list:
    """One of the package's nodes, named as its program, and the bag once it is ready.

    All ends when the node does, unless it is to respawn.

    Args:
        parameters: win over those of params_file.
        options: of ``launch_ros.actions.Node``.
    """
    params_file = context.launch_configurations["params_file"]
    if not Path(params_file).is_file():
        raise FileNotFoundError(f"params_file:={params_file} does not exist")
    prefix = _prefix(PACKAGE)
    # Not installed as a ROS package (pip only): run it as a module of the interpreter that launches.
    where = (
        {"package": PACKAGE, "executable": program}
        if prefix and (prefix / "lib" / PACKAGE / program).exists()
        else {"executable": sys.executable, "arguments": ["-m", f"{PACKAGE}.{program}"]}
    )
    arguments = [*where.pop("arguments", []), "--ros-args", "--log-level", LaunchConfiguration("log_level")]
    node = Node(
        **where,
        name=program,
        namespace=LaunchConfiguration("namespace"),
        parameters=[params_file, {"use_sim_time": _is_true(context, "use_sim_time"), **parameters}],
        arguments=arguments,
        output="screen",
        emulate_tty=True,
        **options,
    )
    ended = RegisterEventHandler(
        OnProcessExit(target_action=node, on_exit=[EmitEvent(event=Shutdown(reason=f"{program} ended"))])
    )
    return [node, *([] if options.get("respawn") else [ended]), *_when_ready(context, node, play_bag(context))]


def _when_ready(context, node: Node, actions: list) -> list:
    """Actions that begin when the node says that it is ready: what is played before, it would not hear."""
    if not actions or context.launch_configurations["log_level"] not in ("debug", "info"):
        return actions  # a node that says little does not say that either
    heard, waiting = [b""], list(actions)

    def look(event):
        heard[0] = (heard[0] + event.text)[-10_000:]
        begun = [waiting.pop(0) for _ in range(len(waiting))] if b"ready: " in heard[0] else []
        return begun or None

    return [RegisterEventHandler(OnProcessIO(target_action=node, on_stdout=look, on_stderr=look))]


def _absolute(namespace: str) -> str:
    """A namespace with one leading and no trailing slash; empty for the root."""
    namespace = namespace.strip("/")
    return f"/{namespace}" if namespace else ""


def _moved_topics(bag: str, namespace: str) -> list[str]:
    """Remaps that move a bag's topics into a namespace; those that are in it already and global ones stay.

    Raises:
        FileNotFoundError, ValueError: the topics of the bag are not known.
    """
    path = Path(bag) / "metadata.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: its topics cannot be moved into {namespace}; run `ros2 bag reindex`, leave the "
            "namespace empty, or give --remap in bag_args"
        )
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        entries = document["rosbag2_bagfile_information"]["topics_with_message_count"]
        names = ["/" + entry["topic_metadata"]["name"].lstrip("/") for entry in entries]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} lists no topics; run `ros2 bag reindex`") from error
    return [f"{n}:={namespace}{n}" for n in names if n not in GLOBAL_TOPICS and not n.startswith(f"{namespace}/")]


def play_bag(context) -> list:
    """`ros2 bag play` where it is installed, else the package's own player; /clock either way.

    A bag's topics are absolute and the node's are not: with a namespace they are moved into it.
    """
    bag = context.launch_configurations["bag"]
    if not bag:
        return []
    arguments = context.launch_configurations["bag_args"].split()
    namespace = _absolute(context.launch_configurations["namespace"])
    given = {"--remap", "-m", "-r", "--ros-args"} & {argument.split("=")[0] for argument in arguments}
    remaps = _moved_topics(bag, namespace) if namespace and not given else []
    if _prefix("rosbag2_transport") is None:
        player = [sys.executable, "-m", "gsrender_ros.replay_player", bag, *arguments]
        player += ["--ros-args", *(part for remap in remaps for part in ("-r", remap))] if remaps else []
        return [
            LogInfo(msg="rosbag2 is not installed: playing with gsrender_ros.replay_player"),
            ExecuteProcess(cmd=player, output="screen"),
        ]
    if not any(argument == "--clock" or argument.startswith("--clock=") for argument in arguments):
        arguments += ["--clock", "100"]
    arguments += ["--remap", *remaps] if remaps else []
    return [ExecuteProcess(cmd=["ros2", "bag", "play", bag, *arguments], output="screen")]


def show(context, program: str = "occupancy_node") -> list:
    """RViz on request, opened on what ``program`` publishes.

    The topics of its configuration are absolute and occupancy_node's: they move into the namespace, and to the program.
    """
    if not _is_true(context, "rviz"):
        return []
    config = context.launch_configurations["rviz_config"]
    if not Path(config).is_file():
        raise FileNotFoundError(f"rviz_config:={config} does not exist")
    namespace = _absolute(context.launch_configurations["namespace"])
    topics = _rviz_topics(yaml.safe_load(Path(config).read_text(encoding="utf-8"))) - GLOBAL_TOPICS
    moved = {topic: namespace + topic.replace("/occupancy_node/", f"/{program}/") for topic in sorted(topics)}
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            namespace=namespace,
            arguments=["-d", config],
            parameters=[{"use_sim_time": _is_true(context, "use_sim_time")}],
            remappings=[(topic, there) for topic, there in moved.items() if there != topic],
        )
    ]


def _rviz_topics(tree) -> set[str]:
    """Absolute topics of the displays in an RViz configuration."""
    if isinstance(tree, list):
        return set().union(*map(_rviz_topics, tree))
    if not isinstance(tree, dict):
        return set()
    topic = tree.get("Topic")
    name = topic.get("Value", "") if isinstance(topic, dict) else ""
    return set().union({name} if str(name).startswith("/") else set(), *map(_rviz_topics, tree.values()))


def larger_shared_memory() -> list[SetEnvironmentVariable]:
    """Surround images do not fit the middleware's default; what the user has set stays."""
    profile = str(share() / "config" / "fastdds.xml")
    variable = "FASTDDS_DEFAULT_PROFILES_FILE"
    older = "FASTRTPS_DEFAULT_PROFILES_FILE"  # what Humble reads
    unset = PythonExpression(
        ["not '", EnvironmentVariable(variable, default_value=""), EnvironmentVariable(older, default_value=""), "'"]
    )
    humble = PythonExpression(["'", EnvironmentVariable("ROS_DISTRO", default_value=""), "' == 'humble'"])
    return [
        SetEnvironmentVariable(
            variable, profile, condition=IfCondition(PythonExpression([unset, " and not ", humble]))
        ),
        SetEnvironmentVariable(older, profile, condition=IfCondition(PythonExpression([unset, " and ", humble]))),
    ]


def generate_launch_description() -> LaunchDescription:
    """All of it; `ros2 launch gsrender_ros occupancy.launch.py --show-args` lists the arguments."""
    return LaunchDescription(
        [
            *_arguments(),
            *larger_shared_memory(),
            OpaqueFunction(function=_start_node),
            OpaqueFunction(function=show),
        ]
    )
