"""A screenshot of RViz with a recording of the node's outputs, on a machine without a screen or a distribution.

    python -m gsrender_ros.trials.rviz_screenshot RECORDING PICTURE.jpg [--show NAME ...] [--seconds 20]

RViz is Debian's (ROS 1): the recording is converted (``ros1_recording``), and rviz/occupancy.rviz is read with its
displays under their ROS 1 names, so that what is tested is that file and our messages. Needs, with the system's own
Python: ``apt install rviz xvfb python3-roslaunch python3-rosbag python3-rosparam python3-visualization-msgs
python3-sensor-msgs imagemagick``.
"""

import argparse
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from gsrender_ros.environment import share_file
from gsrender_ros.trials.ros1_recording import write_ros1_bag

logger = logging.getLogger("rviz_screenshot")

PROGRAMS = ("roscore", "rosparam", "rosbag", "rviz", "Xvfb", "import")
DISPLAY, MASTER = ":97", "http://127.0.0.1:11397"
SIZE = (1500, 900)
# Where ROS 1 keeps the topic of a display, by its class.
TOPIC_KEYS = {"rviz/MarkerArray": "Marker Topic", "rviz/PointCloud2": "Topic", "rviz/Map": "Topic"}


def ros1_config(config: dict, show: tuple[str, ...]) -> dict:
    """An RViz configuration of ROS 2 as ROS 1 reads it, with exactly the displays named in ``show`` switched on.

    Raises:
        ValueError: a name is no display of the configuration.
    """
    text = yaml.safe_dump(config).replace("rviz_default_plugins/", "rviz/").replace("rviz_common/", "rviz/")
    config = yaml.safe_load(text)
    manager = config["Visualization Manager"]
    known = [display["Name"] for display in manager["Displays"]]
    for name in show:
        if name not in known:
            raise ValueError(f"no display {name!r}; there are: {', '.join(known)}")
    kept = []
    for display in manager["Displays"]:
        display["Enabled"] = display["Value"] = display["Name"] in show
        topic = display.pop("Topic", None)
        if topic is not None and display["Class"] not in TOPIC_KEYS:
            continue  # images: their transports are plug-ins of their own there
        if topic is not None:
            display[TOPIC_KEYS[display["Class"]]] = topic["Value"]
        kept.append(display)
    manager["Displays"] = kept
    manager.pop("Transformation", None)
    config["Panels"] = []  # nothing but the view
    config["Window Geometry"] |= {"Width": SIZE[0], "Height": SIZE[1]}
    return config


@contextmanager
def _running(command: list[str], environment: dict[str, str], log):
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()


def _environment(home: Path) -> dict[str, str]:
    """The system's own Python and libraries: nothing of this environment may reach them."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    return {
        **kept,
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "ROS_MASTER_URI": MASTER,
        "ROS_IP": "127.0.0.1",
        "DISPLAY": DISPLAY,
        "LIBGL_ALWAYS_SOFTWARE": "1",
    }


def take(recording: Path, picture: Path, show: tuple[str, ...], seconds: float) -> None:
    """Play a rosbag2 of the node's outputs into RViz and save what its window shows after ``seconds``.

    Raises:
        FileNotFoundError: a program is missing, or the recording.
        ValueError: a display does not exist.
        RuntimeError: a step failed; names the log.
    """
    missing = [program for program in PROGRAMS if not shutil.which(program, path="/usr/bin:/bin")]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing)} not in /usr/bin; the head of this file says what to install")
    config = ros1_config(yaml.safe_load(share_file("rviz/occupancy.rviz").read_text(encoding="utf-8")), show)
    with tempfile.TemporaryDirectory(prefix="rviz_") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "ros1.rviz").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        bag, log_path = folder / "recording.bag", picture.with_suffix(".log")
        log = stack.enter_context(log_path.open("w"))
        write_ros1_bag(recording, bag)
        environment = _environment(folder)
        stack.enter_context(_running(["roscore", "-p", MASTER.rsplit(":", 1)[1]], environment, log))
        screen = ["Xvfb", DISPLAY, "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-nolisten", "tcp"]
        stack.enter_context(_running(screen, environment, log))
        _until_success(["rosparam", "set", "use_sim_time", "true"], environment, log)
        rviz = stack.enter_context(_running(["rviz", "-d", str(folder / "ros1.rviz")], environment, log))
        time.sleep(seconds / 2)  # it subscribes before the first message
        play = ["rosbag", "play", "--clock", "--rate", "4", "--keep-alive", str(bag)]
        stack.enter_context(_running(play, environment, log))
        time.sleep(seconds)
        if rviz.poll() is not None:
            raise RuntimeError(f"RViz ended with code {rviz.returncode} (log: {log_path})")
        command = ["import", "-window", "root", "-quality", "85", str(picture.resolve())]
        if subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode:
            raise RuntimeError(f"no screenshot (log: {log_path})")


def _until_success(command: list[str], environment: dict[str, str], log, timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode:
        if time.monotonic() > end:
            raise RuntimeError(f"`{' '.join(command)}` failed for {timeout_s:g} s")
        time.sleep(0.5)


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 with one line where it fails."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(prog="rviz_screenshot", description="RViz's window with a recording of the node.")
    parser.add_argument("recording", type=Path, help="folder of a rosbag2")
    parser.add_argument("picture", type=Path, help="file to write")
    parser.add_argument("--show", nargs="+", default=["Grid", "TF", "Occupancy markers"], help="displays to switch on")
    parser.add_argument("--seconds", type=float, default=20.0, help="of playing before the picture, default 20")
    given = parser.parse_args(arguments)
    try:
        take(given.recording, given.picture, tuple(given.show), given.seconds)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
