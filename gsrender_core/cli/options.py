"""What several subcommands share: data, checkpoints and results as their arguments name them."""

import json
import logging
import os
import sys
from pathlib import Path

logger = logging.getLogger("gsrender")


def progress(what: str):
    """A callback (done, total) that rewrites one line on a terminal and prints every tenth otherwise."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{what} {done}/{total}" + ("\n" if done == total else ""))
            sys.stderr.flush()
        elif done == total or done % max(1, total // 10) == 0:
            logger.info("%s %d/%d", what, done, total)

    return show


def check_json(path: str | None) -> None:
    """Refuse a target that cannot be written before the work is done, not after."""
    if path:
        target = Path(path)
        if target.is_dir():
            raise ValueError(f"--json {target} is a folder; name a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(target.parent, os.W_OK):
            raise ValueError(f"--json {target}: the folder cannot be written; choose another")


def write_json(path: str | None, result: dict) -> None:
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


def trained_with(info: dict):
    """The ``bag`` section that a checkpoint was trained with; the default where none was."""
    from gsrender_core.bag_config import BagConfig
    from gsrender_core.config import from_dict

    return from_dict(BagConfig, info.get("train", {}).get("bag", {}), "the checkpoint's bag")


def dataset(args, image_size: tuple[int, int], label_options=None, bag=None):
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


def checkpoint(name: str):
    from gsrender_core.checkpoint import named_checkpoint

    return named_checkpoint(name)


def predictor_of(cls, args):
    import dataclasses

    args.checkpoint = checkpoint(args.checkpoint)
    predictor = cls.load(args.checkpoint, args.device, args.precision, args.runtime)
    changes = {name: getattr(args, name) for name in ("readout", "tau") if getattr(args, name) is not None}
    predictor.model.config = dataclasses.replace(predictor.model.config, **changes)
    return predictor
