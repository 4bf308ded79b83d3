"""Train from a replay in one command: ``trainer_node`` and the player as two processes, the rig taken from the bag.

    python -m gsrender_ros.replay_training BAG --out RUN [--config FILE] [--params-file FILE] [--rate R] [--resume]
        [--init CHECKPOINT] [--device D] [-p NAME:=VALUE ...]

What both say is shown and kept beside the run, in ``RUN_logs``.
"""

import argparse
import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from gsrender_core.bag_config import BagConfig
from gsrender_core.config import load_train_config
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_rig import guess_lidars, guess_settings, settings_from_file
from gsrender_ros.inspection import changed_parameters, parameters_yaml
from gsrender_ros.layouts import camera_names
from gsrender_ros.live_training import STOP_S
from gsrender_ros.programs import Program, ProgramError
from gsrender_ros.stop_signal import StopSignal

logger = logging.getLogger("replay_training")

POLL_S = 0.5


@dataclass(frozen=True)
class ReplayTraining:
    """What is trained from what.

    Attributes:
        bag: is played.
        out: folder of the run.
        config: training configuration; None: the defaults.
        params_file: parameters that describe the rig; None: guessed from the bag.
        rate: of the replay.
        parameters: further ``NAME:=VALUE`` of the node; they win.
    """

    bag: Path
    out: Path
    config: Path | None = None
    params_file: Path | None = None
    rate: float = 1.0
    parameters: tuple[str, ...] = ()

    @property
    def logs(self) -> Path:
        """Folder of what the programs say: the run's own must be empty at its start."""
        return self.out.with_name(f"{self.out.name}_logs")


def commands(options: ReplayTraining) -> tuple[list[str], list[str]]:
    """Module and arguments of node and player; writes the rig's parameters beside the logs.

    Raises:
        BagError, ValueError, FileNotFoundError: the bag, its rig or the configuration are not usable; one line.
    """
    index = bag_index(options.bag)
    settings = settings_from_file(options.params_file) if options.params_file else guess_settings(index)
    config = load_train_config(options.config).bag if options.config else BagConfig()
    lidars = config.lidar_topics or guess_lidars(index)
    if not lidars:
        raise ValueError(f"{options.bag} has no topic that is surely a LiDAR's; name it in bag.lidar_topics")
    options.logs.mkdir(parents=True, exist_ok=True)
    rig = options.logs / "rig.yaml"
    rig.write_text(parameters_yaml(changed_parameters(settings)), encoding="utf-8")
    given = {"use_sim_time": "true", "training.out": options.out.resolve()}
    if options.config:
        given["training.config"] = options.config.resolve()
    node = ["gsrender_ros.trainer_node", "--ros-args", "--params-file", str(rig)]
    node += [text for name, value in given.items() for text in ("-p", f"{name}:={value}")]
    node += [text for parameter in options.parameters for text in ("-p", parameter)]
    images = ["/" + camera.image_topic.lstrip("/") for camera in camera_names(settings)]
    waits = [text for topic in (*images, *lidars) for text in ("--wait-for", topic)]
    player = ["gsrender_ros.replay_player", str(options.bag), "--rate", f"{options.rate:g}", "--delay", "2", *waits]
    return node, player


class _Tail:
    """Shows what a program has said since the last look."""

    def __init__(self, program: Program):
        self._file = program.log.open(encoding="utf-8", errors="replace")

    def show(self) -> None:
        sys.stderr.write(self._file.read())
        sys.stderr.flush()


def train(options: ReplayTraining, stop) -> int:
    """Run both programs until the training is over or ``stop`` is true; the node's exit code.

    Raises:
        ProgramError: the player failed, or was not needed; and as ``commands``.
    """
    node_command, player_command = commands(options)
    programs = [Program("trainer_node", node_command, options.logs, {})]
    tails = [_Tail(programs[0])]
    try:
        programs.append(Program("replay_player", player_command, options.logs, {}))
        tails.append(_Tail(programs[1]))
        while not programs[0].ended and not stop:
            programs[1].check_success()
            for tail in tails:
                tail.show()
            time.sleep(POLL_S)
    finally:
        for program in reversed(programs):  # the player first: the trainer then saves what it has
            code = program.stop(STOP_S + 30.0)
        for tail in tails:
            tail.show()
    return code


def _options(arguments: list[str] | None) -> ReplayTraining:
    parser = argparse.ArgumentParser(prog="replay_training", description="Train from a replay: node and player.")
    parser.add_argument("bag", type=Path, help="folder of the bag")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--config", type=Path, metavar="FILE", help="training configuration; default its defaults")
    parser.add_argument("--params-file", type=Path, metavar="FILE", help="the rig; default guessed from the bag")
    parser.add_argument("--rate", type=float, default=1.0, help="of the replay, 1 = as recorded")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    parser.add_argument("--init", metavar="CHECKPOINT", help="begin with its weights; file, or 'default'")
    parser.add_argument("--resume", action="store_true", help="go on with the run in RUN")
    parser.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME:=VALUE", help="a parameter of trainer_node"
    )
    given = parser.parse_args(arguments)
    parameters = [f"device:={given.device}"]
    parameters += [f"training.init:={given.init}"] if given.init else []
    parameters += ["training.resume:=true"] if given.resume else []
    parameters += given.parameters
    return ReplayTraining(given.bag, given.out, given.config, given.params_file, given.rate, tuple(parameters))


def main(arguments: list[str] | None = None) -> int:
    """Train; 1 with one line that says why where it fails, 130 when interrupted (a checkpoint is saved then)."""
    logging.basicConfig(level=logging.INFO, format="[%(levelname)s] %(name)s: %(message)s")
    options = _options(arguments)
    stop = StopSignal()
    try:
        code = train(options, stop)
    except (BagError, FileNotFoundError, ValueError, ProgramError) as error:
        logger.error("%s", error)
        return 1
    if not stop and code == 0:
        logger.info("done: %s", options.out / "report.json")
    return 128 + signal.SIGINT if stop else code


if __name__ == "__main__":
    sys.exit(main())
