"""The ``gsrender`` command. Each subcommand imports what it needs, so that a training machine needs no ROS."""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from gsrender_core import __version__

logger = logging.getLogger("gsrender")


def _progress(what: str):
    """A callback (done, total) that rewrites one line on a terminal and prints every tenth otherwise."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))
            sys.stderr.flush()
        elif done == total or done % max(1, total // 10) == 0:
            logger.info("%s %d/%d", what, done, total)

    return show


def _image_size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as 704x256") from None
    return width, height


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def _check_json(path: str | None) -> None:
    """Refuse a target that cannot be written before the work is done, not after."""
    if path:
        target = Path(path)
        if target.is_dir():
            raise ValueError(f"--json {target} is a folder; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise ValueError(f"--json {target}: the folder cannot be written; choose another")


def _write_json(path: str | None, result: dict) -> None:
    from gsrender_core.metrics.miou import without_nan

    if path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(without_nan(result), indent=2, allow_nan=False) + "\n")


def _bag_paths(args) -> list[Path] | None:
    """The bags that --data names; None where it names a folder in the nuScenes schema."""
    paths = [Path(path) for path in (args.data if isinstance(args.data, list) else [args.data])]
    folders = [path for path in paths if any(path.glob("v1.0-*"))]
    if not folders:
        from gsrender_ros.bag_storage import is_bag

        no_bag = [path for path in paths if not is_bag(path)]
        if not no_bag:
            return paths
        if len(paths) > 1:
            raise ValueError(f"--data {no_bag[0]} is no bag: neither metadata.yaml nor .mcap, .db3 or .bag files there")
    if len(paths) > 1:
        raise ValueError(f"--data: {folders[0]} is in the nuScenes schema; several are taken of bags only")
    if args.params or args.held_out:
        raise ValueError("--params and --held-out are for bags")
    args.data = str(paths[0])
    return None


def _bag_frames(args, paths: list[Path], image_size: tuple[int, int], label_options=None, config=None):
    import dataclasses

    from gsrender_core.bag_config import BagConfig
    from gsrender_ros.bag_frames import BagFrames

    if args.split or args.data_version:
        raise ValueError("--split and --data-version are for data in the nuScenes schema")
    config = config or BagConfig()
    if args.params:
        config = dataclasses.replace(config, params_file=args.params)
    scenes = args.scenes
    data = BagFrames(paths, image_size, config, label_options, scenes)
    if args.held_out:
        if not data.held_out_scenes:
            raise ValueError(f"nothing of {paths[0]} is held out; set bag.held_out_share, or leave --held-out out")
        data = BagFrames(paths, image_size, config, label_options, data.held_out_scenes)
    return data


def _trained_with(info: dict):
    """The ``bag`` section that a checkpoint was trained with; the default where none was."""
    from gsrender_core.bag_config import BagConfig
    from gsrender_core.config import from_dict

    return from_dict(BagConfig, info.get("train", {}).get("bag", {}), "the checkpoint's bag")


def _dataset(args, image_size: tuple[int, int], label_options=None, bag=None):
    paths = _bag_paths(args)
    if paths is not None:
        return _bag_frames(args, paths, image_size, label_options, bag)
    from gsrender_core.data.nuscenes import NuScenes

    return NuScenes(
        Path(args.data),
        image_size=image_size,
        version=args.data_version,
        scenes=args.scenes,
        label_options=label_options,
        split=args.split,
    )


def _world(args) -> None:
    from gsrender_core.world import generate_world

    generate_world(
        Path(args.out),
        args.scenes,
        args.frames,
        args.seed,
        args.image_size,
        args.sweeps,
        args.workers,
        _progress("scene"),
    )


def _train(args) -> int:
    import dataclasses
    import signal

    from gsrender_core.data.lidar_labels import LabelOptions
    from gsrender_core.distributed import Group
    from gsrender_core.stop_signals import Stopped
    from gsrender_core.train import Trainer, starting_config

    if args.init and args.resume:
        raise ValueError("--init is for a fresh run; --resume goes on with the run's own weights: leave one out")
    init = _checkpoint(args.init) if args.init else None
    config = starting_config(args.config, init)
    if args.steps is not None:
        config = dataclasses.replace(config, steps=args.steps)
    options = LabelOptions(config.renderocc_labels, config.drop_occluded, config.hold_out_labels)
    data = _dataset(args, config.model.image_size, options, config.bag)
    held_out = getattr(data, "held_out_scenes", ())
    if held_out:
        config = dataclasses.replace(config, validation_scenes=len(held_out))
    if args.params:
        config = dataclasses.replace(config, bag=dataclasses.replace(config.bag, params_file=args.params))
    group = Group(args.device)
    try:
        trainer = Trainer(config, data, Path(args.out), args.device, group=group)
        if init:
            trainer.start_from(init)
        best = trainer.run(args.resume)
    except Stopped as stopped:
        if group.is_first:
            logger.warning("%s", stopped)
        return 130 if stopped.signal_number == signal.SIGINT else 0
    finally:
        group.close()
    if group.is_first:
        if hasattr(data, "summary"):
            logger.info("%s", data.summary())
        logger.info("done: %s", best)
    return 0


def _ablate(args) -> None:
    import dataclasses

    from gsrender_core.ablate import Laboratory, run_study
    from gsrender_core.config import load_train_config
    from gsrender_core.studies import STUDIES, laboratory

    names = list(STUDIES) if args.study == "all" else [args.study]
    if not set(names) <= set(STUDIES):
        raise ValueError(f"unknown study {args.study!r}; known: all, {', '.join(STUDIES)}")
    base = load_train_config(args.config) if args.config else laboratory()
    if args.steps is not None:
        base = dataclasses.replace(base, steps=args.steps)
    threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
    place = Laboratory(
        Path(args.data), Path(args.held_out or args.data), Path(args.out), args.device, threads, args.every
    )
    failed = 0
    for name in names:
        failed += run_study(name, base, place, args.seeds, args.workers, args.variants)
    if failed:
        raise ValueError(f"{failed} runs failed, see the worker logs in {args.out}; the tables lack them")


def _eval(args) -> None:
    from gsrender_core.data.nuscenes import NuScenes
    from gsrender_core.evaluate import evaluate, majority_grid
    from gsrender_core.predictor import Predictor

    _check_json(args.json)
    predictor = _predictor(Predictor, args)
    majority = None
    if args.train_data:
        # The same folder may hold both: with a split, only its training part.
        split = "train" if args.split else None
        # A version that is named is that of --data; the training data may have another, where it has but one.
        named = args.data_version and (Path(args.train_data) / args.data_version).is_dir()
        version = args.data_version if named else None
        training = NuScenes(Path(args.train_data), image_size=predictor.image_size, version=version, split=split)
        majority = majority_grid(training, range(len(training)), predictor.grid)
    data = _dataset(args, predictor.image_size, bag=_trained_with(predictor.info))
    if args.returns or hasattr(data, "held_out_scenes"):
        if majority is not None:
            raise ValueError("--train-data: the majority control needs Occ3D ground truth, which LiDAR returns are not")
        _eval_on_returns(args, predictor, data)
        return
    result = evaluate(predictor, data, majority, not args.no_controls, _progress("sample"))
    precision = str(predictor.precision).removeprefix("torch.")
    result |= {"checkpoint": str(args.checkpoint), "data": str(args.data), "precision": precision}
    _write_json(args.json, result)
    rows = {"prediction": result, **result["controls"]}
    print(f"read-out {result['readout']}, tau {result['tau']:g}, {result['samples']} samples; runs: means a camera ray")
    heads = ("mIoU", "RayIoU", "@1 m", "@2 m", "@4 m", "extra runs", "of objects", "of vehicles", "voxels")
    print(f"{'':16}{''.join(f'{head:>8}' for head in heads[:5])}{''.join(f'{head:>12}' for head in heads[5:])}")
    for name, row in rows.items():
        values = "".join(f"{100 * row[key]:8.2f}" for key in ("miou", "rayiou", "rayiou@1", "rayiou@2", "rayiou@4"))
        values += "".join(f"{row[f'extra_runs{group}']:12.3f}" for group in ("", "_object", "_vehicle"))
        print(f"{name:16}{values}{row['occupied']:12.0f}")


def _eval_on_returns(args, predictor, data) -> None:
    from gsrender_core.lidar_evaluation import evaluate_on_returns

    result = evaluate_on_returns(predictor, data, not args.no_controls, _progress("frame"))
    scenes = ", ".join(data.scene_names)
    result |= {"checkpoint": str(args.checkpoint), "data": str(args.data), "scenes": list(data.scene_names)}
    _write_json(args.json, result)
    print(
        f"read-out {result['readout']}, tau {result['tau']:g}, {result['rays']} LiDAR rays of {result['frames']} "
        f"frames ({scenes}); percent"
    )
    heads = {
        "RayIoU occ.": "occupied_rayiou",
        "RayIoU": "lidar_rayiou",
        "within 1 m": "within@1",
        "2 m": "within@2",
        "early": "early@1",
        "late": "late@1",
        "missed": "missed",
    }
    print(f"{'':16}{''.join(f'{head:>12}' for head in heads)}{'median error':>14}")
    for name, row in {"prediction": result, **result["controls"]}.items():
        values = "".join(f"{100 * row[key]:12.2f}" for key in heads.values())
        print(f"{name:16}{values}{row['depth_error_m']['q50']:12.2f} m")
    if hasattr(data, "summary"):
        logger.info("%s", data.summary())


def _predict(args) -> None:
    from gsrender_core.predict_folder import predict_folder
    from gsrender_core.predictor import Predictor

    predictor = _predictor(Predictor, args)
    data = _dataset(args, predictor.image_size, bag=_trained_with(predictor.info))
    predict_folder(predictor, data, Path(args.out), args.limit, _progress("sample"))


def _checkpoint(name: str):
    from gsrender_core.checkpoint import named_checkpoint

    return named_checkpoint(name)


def _predictor(cls, args):
    import dataclasses

    args.checkpoint = _checkpoint(args.checkpoint)
    predictor = cls.load(args.checkpoint, args.device, args.precision)
    changes = {name: getattr(args, name) for name in ("readout", "tau") if getattr(args, name) is not None}
    predictor.model.config = dataclasses.replace(predictor.model.config, **changes)
    return predictor


def _to_bag(args) -> None:
    from gsrender_ros.nuscenes_to_bag import BagOptions, write_bag

    options = BagOptions(
        scene=args.scene, layout=args.layout, storage=args.storage, images=args.images, sweeps=not args.no_sweeps
    )
    logger.info("%s", write_bag(args.data, args.bag, options))


def _inspect(args) -> int:
    from gsrender_core.config import load_train_config
    from gsrender_ros.inspection import inspect, parameters_yaml
    from gsrender_ros.inspection_text import report_text

    _check_json(args.json)
    config = load_train_config(args.config).bag if args.config else None
    report = inspect(args.bag, args.rig or "", config)
    _write_json(args.json, report)
    print(report_text(report), end="")
    if args.params and "parameters" in report:
        Path(args.params).write_text(parameters_yaml(report["parameters"]), encoding="utf-8")
        print(f"\nwritten: {args.params}, for occupancy_node --params-file and gsrender train --params")
        print("for the training configuration:\n" + _bag_section(args.params, report["training"]), end="")
    return int(any(problem["stops"] in ("both", args.purpose) for problem in report["problems"]))


def _bag_section(params: str, training: dict) -> str:
    import yaml

    return yaml.safe_dump({"bag": training | {"params_file": params}}, sort_keys=False)


def _statistics(args) -> None:
    import dataclasses

    from gsrender_core.predictor import Predictor
    from gsrender_core.statistics import write_statistics

    _check_json(args.json)
    args.checkpoint = _checkpoint(args.checkpoint)
    predictor = Predictor.load(args.checkpoint, args.device, "float32")
    if args.tau is not None:
        predictor.model.config = dataclasses.replace(predictor.model.config, tau=args.tau)
    data = _dataset(args, predictor.image_size, bag=_trained_with(predictor.info))
    result = write_statistics(predictor.model, data, Path(args.out), args.limit, _progress("frame"))
    _write_json(args.json, {**result, "checkpoint": str(args.checkpoint), "data": str(args.data)})
    print(f"{'offsets (voxels)':18}{'mean':>8}{'spread':>8}{'beyond half':>13}   {result['frames']} frames")
    for group, values in result["groups"].items():
        for axis in "xyz":
            row = values["offset_voxels"][axis]
            print(f"{group + ' ' + axis:18}{row['mean']:8.3f}{row['std']:8.3f}{100 * row['beyond_half']:11.2f} %")


def _curves(args) -> None:
    from gsrender_core.pictures.curves import curves_picture, read_log, run_names
    from gsrender_core.predict_folder import write_png

    target = Path(args.out)
    if target.suffix.lower() != ".png":
        raise ValueError(f"--out {target}: the picture is a PNG; let the name end in .png")
    runs = {name: read_log(path) for name, path in run_names([Path(run) for run in args.runs]).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(target, curves_picture(runs)[:, :, ::-1])
    logger.info("%s: %s", target, ", ".join(f"{name} ({len(rows)} rows)" for name, rows in runs.items()))


def _score(args) -> None:
    from gsrender_core.score import score

    _check_json(args.json)
    result = score(Path(args.pred), Path(args.gt))
    _write_json(args.json, result)
    print(json.dumps(result, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gsrender", description="Camera-only semantic 3D occupancy, learnt without 3D labels."
    )
    parser.add_argument("--version", action="version", version=f"gsrender {__version__}")
    parser.add_argument("--verbose", action="store_true", help="show debug messages and tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

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

    p = command("world", _world, "Write a synthetic driving world in the nuScenes schema, with Occ3D ground truth.")
    p.add_argument("out", metavar="OUT")
    p.add_argument("--scenes", type=int, default=2, help="number of scenes (default 2)")
    p.add_argument("--frames", type=int, default=10, help="keyframes a scene, 2 Hz (default 10)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--image-size", type=_image_size, default=(704, 256), metavar="WxH", help="default 704x256")
    p.add_argument("--sweeps", action="store_true", help="also cameras at 12 Hz and LiDAR at 20 Hz between keyframes")
    p.add_argument("--workers", type=int, default=2, help="processes (default 2)")

    p = command("train", _train, "Train a network from LiDAR points projected into the images.")
    p.add_argument("config", metavar="CONFIG", help="YAML with overrides, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="RUN", help="folder for checkpoints and logs")
    p.add_argument("--steps", type=int, help="instead of the configuration's")
    p.add_argument("--resume", action="store_true", help="continue the run in RUN")
    p.add_argument("--init", metavar="CHECKPOINT", help="begin with its weights; file, or 'default'")

    p = command("ablate", _ablate, "Train and score the variants of a study, several seeds each; resumable.")
    p.add_argument("study", metavar="STUDY", help="a name of studies.py, as rc or heads, or 'all'")
    p.add_argument("--data", required=True, metavar="DATA", help="training scenes, nuScenes schema")
    p.add_argument("--held-out", metavar="DATA", help="scored scenes; default the last eighth of DATA's")
    p.add_argument("--out", required=True, metavar="DIR", help="folder of runs and tables; studies share equal runs")
    p.add_argument("--seeds", type=_positive, default=3, help="runs a variant (default 3)")
    p.add_argument("--config", metavar="FILE", help="base configuration; default the laboratory of studies.py")
    p.add_argument("--steps", type=_positive, help="instead of the base configuration's")
    p.add_argument("--variants", nargs="+", metavar="NAME", help="only these of the study")
    p.add_argument("--every", type=_positive, default=4, help="score each such held-out frame (default 4)")
    p.add_argument("--workers", type=_positive, default=2, help="runs at a time (default 2)")
    p.add_argument("--threads", type=_positive, help="threads a run; default the processors shared among the workers")
    p.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")

    p = command("eval", _eval, "Score a checkpoint against Occ3D ground truth, with controls.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--json", metavar="FILE", help="write the result there")
    p.add_argument("--train-data", metavar="DATA", help="training data: adds its per-voxel majority as a control")
    p.add_argument("--no-controls", action="store_true", help="only the prediction")
    p.add_argument("--returns", action="store_true", help="score on LiDAR rays instead (bags: always)")

    p = command("predict", _predict, "Predict every sample: <token>.npz with 'semantics' and a picture.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--limit", type=int, help="only the first samples")

    p = command("statistics", _statistics, "Offsets, scales and opacities of a checkpoint's Gaussians, with pictures.")
    p.add_argument("checkpoint", metavar="CHECKPOINT", help="file, or 'default'")
    data_options(p)
    p.add_argument("--out", required=True, metavar="DIR", help="folder for statistics.json and the pictures")
    p.add_argument("--limit", type=int, metavar="N", help="so many frames, spread evenly (default all)")
    p.add_argument("--tau", type=float, help="opacity of an occupied Gaussian; default the checkpoint's")
    p.add_argument("--json", metavar="FILE", help="write the statistics there as well")

    p = command("curves", _curves, "Draw the curves of training runs, several over one another.")
    p.add_argument("runs", nargs="+", metavar="RUN", help="folder of `gsrender train`, or a log.jsonl")
    p.add_argument("--out", required=True, metavar="FILE", help="a .png")

    for p in (commands.choices["eval"], commands.choices["predict"]):
        p.add_argument("--precision", default="auto", help="auto (default), float32, bfloat16")
        p.add_argument("--readout", help="voxel, voxel_anchored or splat instead of the checkpoint's")
        p.add_argument("--tau", type=float, help="opacity threshold instead of the checkpoint's")

    p = command("to-bag", _to_bag, "Convert a scene of nuScenes-schema data to a rosbag2.")
    p.add_argument("data", metavar="DATA")
    p.add_argument("bag", metavar="BAG")
    p.add_argument("--scene", help="name; default the first")
    p.add_argument("--layout", choices=("gsrender", "nuscenes2bag"), default="gsrender")
    p.add_argument("--storage", choices=("mcap", "sqlite3"), default="mcap")
    p.add_argument("--images", choices=("jpeg", "raw"), default="jpeg")
    p.add_argument("--no-sweeps", action="store_true", help="key frames only, even where the tables list sweeps")

    p = command("inspect", _inspect, "Say what a bag holds, and what it lacks for training or inference.")
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

    p = command("score", _score, "Score anybody's predictions: <token>.npz with 'semantics' uint8 [200, 200, 16].")
    p.add_argument("--pred", required=True, metavar="DIR")
    p.add_argument(
        "--gt", required=True, metavar="DIR", help="<token>.npz: semantics, ray_origins, mask_camera (optional)"
    )
    p.add_argument("--json", metavar="FILE", help="write the result there")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command; bad input ends in one line and exit code 1, an interrupt in 130."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("numba").setLevel(logging.WARNING)  # its compiler says at DEBUG whatever it does
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if args.verbose:
            raise
        logger.error("gsrender %s: %s", args.command, error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
