"""The arguments of every subcommand."""

import argparse

from gsrender_core import __version__
from gsrender_core.cli.scoring import run_evaluate, run_predict, run_score, run_statistics
from gsrender_core.cli.tools import run_export, run_inspect, run_to_bag
from gsrender_core.cli.training import run_ablate, run_curves, run_train, run_world
from gsrender_core.config import RUNTIMES


def image_size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as 704x256") from None
    return width, height


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="gsrender", description="Camera-only semantic 3D occupancy, learnt without 3D labels."
    )
    whole.add_argument("--version", action="version", version=f"gsrender {__version__}")
    whole.add_argument("--verbose", action="store_true", help="show debug messages and tracebacks")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def data_options(sub) -> None:
        several = {"nargs": "+"} if sub.prog.split()[-1] in ("train", "eval") else {}
        sub.add_argument(
            "--data", required=True, metavar="DATA", help="folder in the nuScenes schema, or bags", **several
        )
        sub.add_argument("--params", metavar="FILE", help="bags: the node's parameters; default guessed, see inspect")
        sub.add_argument("--held-out", action="store_true", help="bags: only what training holds out")
        sub.add_argument("--scenes", nargs="+", metavar="NAME", help="only these scenes")
        sub.add_argument("--split", choices=("train", "val"), help="only this split of Occ3D's annotations.json")
        sub.add_argument("--data-version", metavar="NAME", help="as v1.0-trainval, where DATA holds several versions")
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")

    p = command("world", run_world, "Write a synthetic driving world in the nuScenes schema, with Occ3D ground truth.")
    p.add_argument("out", metavar="OUT")
    p.add_argument("--scenes", type=int, default=2, help="number of scenes (default 2)")
    p.add_argument("--frames", type=int, default=10, help="keyframes a scene, 2 Hz (default 10)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--image-size", type=image_size, default=(704, 256), metavar="WxH", help="default 704x256")
    p.add_argument("--sweeps", action="store_true", help="also cameras at 12 Hz and LiDAR at 20 Hz between keyframes")
    p.add_argument("--workers", type=int, default=2, help="processes (default 2)")

    p = command("train", run_train, "Train a network from LiDAR points projected into the images.")
    p.add_argument("config", metavar="CONFIG", help="YAML with overrides, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="RUN", help="folder for checkpoints and logs")
    p.add_argument("--steps", type=int, help="instead of the configuration's")
    p.add_argument("--resume", action="store_true", help="continue the run in RUN")
    p.add_argument("--init", metavar="CHECKPOINT", help="begin with its weights; file, or 'default'")

    p = command("ablate", run_ablate, "Train and score the variants of a study, several seeds each; resumable.")
    p.add_argument("study", metavar="STUDY", help="a name of studies.py, as rc or heads, or 'all'")
    p.add_argument("--data", required=True, metavar="DATA", help="training scenes, nuScenes schema")
    p.add_argument("--held-out", metavar="DATA", help="scored scenes; default the last eighth of DATA's")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of runs and tables; studies share equal runs")
    p.add_argument("--seeds", type=positive, default=3, help="runs a variant (default 3)")
    p.add_argument("--config", metavar="FILE", help="base configuration; default the laboratory of studies.py")
    p.add_argument("--steps", type=positive, help="instead of the base configuration's")
    p.add_argument("--variants", nargs="+", metavar="NAME", help="only these of the study")
    p.add_argument("--every", type=positive, default=4, help="score each such held-out frame (default 4)")
    p.add_argument("--workers", type=positive, default=2, help="runs at a time (default 2)")
    p.add_argument("--threads", type=positive, help="threads a run; default the processors shared among the workers")
    p.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")

    p = command("eval", run_evaluate, "Score a checkpoint against Occ3D ground truth, with controls.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--json", metavar="FILE", help="write the result there")
    p.add_argument("--train-data", metavar="DATA", help="training data: adds its per-voxel majority as a control")
    p.add_argument("--no-controls", action="store_true", help="only the prediction")
    p.add_argument("--returns", action="store_true", help="score on LiDAR rays instead (bags: always)")

    p = command("predict", run_predict, "Predict every sample: <token>.npz with 'semantics' and a picture.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--limit", type=int, help="only the first samples")

    p = command("statistics", run_statistics, "Offsets, scales and opacities of a network's Gaussians, with pictures.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="DIR", help="folder for statistics.json and the pictures")
    p.add_argument("--limit", type=int, metavar="N", help="so many frames, spread evenly (default all)")
    p.add_argument("--tau", type=float, help="opacity of an occupied Gaussian; default the checkpoint's")
    p.add_argument("--json", metavar="FILE", help="write the statistics there as well")

    p = command("curves", run_curves, "Draw the curves of training runs, several over one another.")
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of `gsrender train`, or a log.jsonl")
    p.add_argument("--out", required=True, metavar="FILE", help="a .png")

    for p in (commands.choices["eval"], commands.choices["predict"]):
        p.add_argument("--precision", default="auto", help="auto (default), float32, bfloat16")
        p.add_argument(
            "--runtime", choices=RUNTIMES, default="eager", help="what computes; default eager torch, the reference"
        )
        p.add_argument("--readout", help="voxel, voxel_anchored or splat instead of the checkpoint's")
        p.add_argument("--tau", type=float, help="opacity threshold instead of the checkpoint's")

    p = command("to-bag", run_to_bag, "Convert a scene of nuScenes-schema data to a rosbag2.")
    p.add_argument("data", metavar="DATA")
    p.add_argument("bag", metavar="BAG")
    p.add_argument("--scene", help="name; default the first")
    p.add_argument("--layout", choices=("gsrender", "nuscenes2bag"), default="gsrender")
    p.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")
    p.add_argument("--images", choices=("jpeg", "raw"), default="jpeg")
    p.add_argument("--no-sweeps", action="store_true", help="key frames only, even where the tables list sweeps")

    p = command("inspect", run_inspect, "Say what a bag holds, and what it lacks for training or inference.")
    p.add_argument("bag", metavar="BAG", help="rosbag2 folder, .mcap, .db3 or ROS 1 .bag")
    p.add_argument("--params", metavar="FILE", help="write the rig there, as parameters of occupancy_node")
    p.add_argument("--rig", metavar="FILE", help="parameters that describe the rig, instead of guessing")
    p.add_argument("--config", metavar="FILE", help="training configuration whose bag section is tried")
    p.add_argument("--json", metavar="FILE", help="write the report there")
    p.add_argument(
        "--for",
        dest="purpose",
        choices=("inference", "training"),
        default="inference",
        help="exit code 1 where a problem stops that (default inference)",
    )

    p = command("export", run_export, "Write a network as ONNX, for TensorRT and others, and compare the file with it.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    p.add_argument("--out", required=True, metavar="DIR", help="folder for network.onnx and network.json")
    p.add_argument("--cameras", type=positive, default=6, help="of the exported network (default 6)")

    p = command("score", run_score, "Score anybody's predictions: <token>.npz with 'semantics' uint8 [200, 200, 16].")
    p.add_argument("--pred", required=True, metavar="DIR")
    p.add_argument(
        "--gt", required=True, metavar="DIR", help="<token>.npz: semantics, ray_origins, mask_camera (optional)"
    )
    p.add_argument("--json", metavar="FILE", help="write the result there")
    return whole
