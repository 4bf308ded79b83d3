"""Subcommands around bags and other runtimes: to-bag, inspect, export."""

import logging
from pathlib import Path

from gsrender_core.cli.options import check_json, checkpoint, write_json

logger = logging.getLogger("gsrender")


def run_to_bag(args) -> None:
    from gsrender_ros.nuscenes_to_bag import BagOptions, write_bag

    options = BagOptions(
        scene=args.scene, layout=args.layout, storage=args.storage, images=args.images, sweeps=not args.no_sweeps
    )
    logger.info("%s", write_bag(args.data, args.bag, options))


def run_inspect(args) -> int:
    from gsrender_core.config import load_train_config
    from gsrender_ros.inspection import inspect, parameters_yaml
    from gsrender_ros.inspection_text import report_text

    check_json(args.json)
    config = load_train_config(args.config).bag if args.config else None
    report = inspect(args.bag, args.rig or "", config)
    write_json(args.json, report)
    print(report_text(report), end="")
    if args.params and "parameters" in report:
        Path(args.params).write_text(parameters_yaml(report["parameters"]), encoding="utf-8")
        print(f"\nwritten: {args.params}, for occupancy_node --params-file and gsrender train --params")
        print("for the training configuration:\n" + _bag_section(args.params, report["training"]), end="")
    return int(any(problem["stops"] in ("both", args.purpose) for problem in report["problems"]))


def _bag_section(params: str, training: dict) -> str:
    import yaml

    return yaml.safe_dump({"bag": training | {"params_file": params}}, sort_keys=False)


def run_export(args) -> None:
    from gsrender_core.export import export_onnx

    about = export_onnx(checkpoint(args.checkpoint), Path(args.out), args.cameras)
    logger.info(
        "%s: inputs %s", Path(args.out) / "network.onnx", ", ".join(f"{k} {v}" for k, v in about["inputs"].items())
    )
    logger.info("labels agree with eager torch in %.2f %% of the occupied voxels", 100 * about["checked"]["agreement"])
