"""Subcommands that use networks: eval, predict, statistics, score."""

import json
import logging
from pathlib import Path

from gsrender_core.cli.options import check_json, checkpoint, dataset, predictor_of, progress, trained_with, write_json

logger = logging.getLogger("gsrender")


def run_evaluate(args) -> None:
    from gsrender_core.data.nuscenes import NuScenes
    from gsrender_core.evaluate import evaluate, majority_grid
    from gsrender_core.predictor import Predictor

    check_json(args.json)
    predictor = predictor_of(Predictor, args)
    majority = None
    if args.train_data:
        # The same folder may hold both: with a split, only its training part.
        split = "train" if args.split else None
        # A version that is named is that of --data; the training data may have another, where it has but one.
        named = args.data_version and (Path(args.train_data) / args.data_version).is_dir()
        version = args.data_version if named else None
        training = NuScenes(Path(args.train_data), image_size=predictor.image_size, version=version, split=split)
        majority = majority_grid(training, range(len(training)), predictor.grid)
    data = dataset(args, predictor.image_size, bag=trained_with(predictor.info))
    if args.returns or hasattr(data, "held_out_scenes"):
        if majority is not None:
            raise ValueError("--train-data: the majority control needs Occ3D ground truth, which LiDAR returns are not")
        _eval_on_returns(args, predictor, data)
        return
    result = evaluate(predictor, data, majority, not args.no_controls, progress("sample"))
    precision = str(predictor.precision).removeprefix("torch.")
    result |= {"checkpoint": str(args.checkpoint), "data": str(args.data), "precision": precision}
    write_json(args.json, result)
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

    result = evaluate_on_returns(predictor, data, not args.no_controls, progress("frame"))
    scenes = ", ".join(data.scene_names)
    result |= {"checkpoint": str(args.checkpoint), "data": str(args.data), "scenes": list(data.scene_names)}
    write_json(args.json, result)
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


def run_predict(args) -> None:
    from gsrender_core.predict_folder import predict_folder
    from gsrender_core.predictor import Predictor

    predictor = predictor_of(Predictor, args)
    data = dataset(args, predictor.image_size, bag=trained_with(predictor.info))
    predict_folder(predictor, data, Path(args.out), args.limit, progress("sample"))


def run_statistics(args) -> None:
    import dataclasses

    from gsrender_core.predictor import Predictor
    from gsrender_core.statistics import write_statistics

    check_json(args.json)
    args.checkpoint = checkpoint(args.checkpoint)
    predictor = Predictor.load(args.checkpoint, args.device, "float32")
    if args.tau is not None:
        predictor.model.config = dataclasses.replace(predictor.model.config, tau=args.tau)
    data = dataset(args, predictor.image_size, bag=trained_with(predictor.info))
    result = write_statistics(predictor.model, data, Path(args.out), args.limit, progress("frame"))
    write_json(args.json, {**result, "checkpoint": str(args.checkpoint), "data": str(args.data)})
    print(f"{'offsets (voxels)':18}{'mean':>8}{'spread':>8}{'beyond half':>13}   {result['frames']} frames")
    for group, values in result["groups"].items():
        for axis in "xyz":
            row = values["offset_voxels"][axis]
            print(f"{group + ' ' + axis:18}{row['mean']:8.3f}{row['std']:8.3f}{100 * row['beyond_half']:11.2f} %")


def run_score(args) -> None:
    from gsrender_core.score import score

    check_json(args.json)
    result = score(Path(args.pred), Path(args.gt))
    write_json(args.json, result)
    print(json.dumps(result, indent=2))
