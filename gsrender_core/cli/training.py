"""Subcommands that make data and networks: world, train, ablate, curves."""

import logging
import os
from pathlib import Path

from gsrender_core.cli.options import checkpoint, dataset, progress

logger = logging.getLogger("gsrender")


def run_world(args) -> None:
    from gsrender_core.world import generate_world

    generate_world(
        Path(args.out),
        args.scenes,
        args.frames,
        args.seed,
        args.image_size,
        args.sweeps,
        args.workers,
        progress("scene"),
    )


def run_train(args) -> int:
    import dataclasses
    import signal

    from gsrender_core.data.lidar_labels import LabelOptions
    from gsrender_core.distributed import Group
    from gsrender_core.stop_signals import Stopped
    from gsrender_core.train import Trainer, starting_config

    if args.init and args.resume:
        raise ValueError("--init is for a fresh run; --resume goes on with the run's own weights: leave one out")
    init = checkpoint(args.init) if args.init else None
    config = starting_config(args.config, init)
    if args.steps is not None:
        config = dataclasses.replace(config, steps=args.steps)
    options = LabelOptions(config.renderocc_labels, config.drop_occluded, config.hold_out_labels)
    data = dataset(args, config.model.image_size, options, config.bag)
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


def run_ablate(args) -> None:
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


def run_curves(args) -> None:
    from gsrender_core.pictures.curves import curves_picture, read_log, run_names
    from gsrender_core.predict_folder import write_png

    target = Path(args.out)
    if target.suffix.lower() != ".png":
        raise ValueError(f"--out {target}: the picture is a PNG; let the name end in .png")
    runs = {name: read_log(path) for name, path in run_names([Path(run) for run in args.runs]).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_png(target, curves_picture(runs)[:, :, ::-1])
    logger.info("%s: %s", target, ", ".join(f"{name} ({len(rows)} rows)" for name, rows in runs.items()))
