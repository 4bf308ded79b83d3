"""``make bench``: time the fast paths against their readable references, beside the floors that we hold them to."""

import argparse
import importlib.util
import json
import logging
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gsrender_core.bench.ray_iou import bench_ray_iou
from gsrender_core.bench.render import CASES, bench_render

logger = logging.getLogger("bench")

RENDER_CASE = CASES[0].name  # 160k Gaussians, 20k pixels; the others are shown, not held to a floor
RENDER_RATIO = 4.0  # numba against torch in the same run, forward and backward
RAY_IOU_MS = 100.0  # a sample: prediction and truth, eight origins, two cores
MARKER_RATIO = 20.0  # 30,000 cubes built and published as bytes against message objects


@dataclass(frozen=True)
class Check:
    """One measured figure and the floor or ceiling it must keep."""

    name: str
    measured: float
    limit: float
    at_least: bool
    unit: str

    @property
    def passed(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def line(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "ok" if self.passed else "MISSED"
        return f"{verdict:6}  {self.name}: {self.measured:.1f} {self.unit} (must be {sign} {self.limit:g})"


def run_benchmarks(quick: bool) -> dict:
    """Run everything that this machine can run.

    Returns:
        ``machine``, the results of each benchmark under its name (a text says why one was left out), and
        ``checks``: name, measured, limit, passed.
    """
    results: dict = {"machine": machine(), "quick": quick}
    checks = []
    logger.info("rendering listed pixels, forward and backward ...")
    results["render"] = bench_render(quick)
    for row in results["render"]["rows"]:
        logger.info("  %s", _row(row))
        if row["case"] == RENDER_CASE:
            checks.append(Check(f"numba renderer, {row['case']}", row["ratio"], RENDER_RATIO, True, "x torch"))
    logger.info("RayIoU ...")
    results["ray_iou"] = bench_ray_iou(quick)
    for row in results["ray_iou"]["rows"]:
        logger.info("  %s", _row(row))
        checks.append(Check(row["case"], row["numba_ms"], RAY_IOU_MS, False, "ms"))
    if importlib.util.find_spec("rclpy") is None:
        results["markers"] = "left out: rclpy does not import here"
    else:
        from gsrender_ros.bench_markers import bench_markers

        logger.info("marker cubes ...")
        results["markers"] = bench_markers(quick)
        logger.info("  %s", _row(results["markers"]))
        if not results["markers"]["same_bytes"]:
            raise RuntimeError("the marker bytes differ from those of message objects: the fast path is wrong")
        checks.append(Check("marker cubes", results["markers"]["ratio"], MARKER_RATIO, True, "x message objects"))
    results["checks"] = [
        {"name": c.name, "measured": c.measured, "limit": c.limit, "passed": c.passed, "text": c.line()} for c in checks
    ]
    return results


def machine() -> dict:
    """What the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _row(row: dict) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for bench.json")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results = run_benchmarks(options.quick)
    sys.stdout.write("\n".join(check["text"] for check in results["checks"]) + "\n")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"{options.out / 'bench.json'}\n")
    return 0 if all(check["passed"] for check in results["checks"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
