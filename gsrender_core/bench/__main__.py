"""``make bench``: measured speeds of this machine, one JSON file and one table.

    python -m gsrender_core.bench [--out out/bench.json] [--quick] [--parts NAME ...]

Every part runs in a process of its own, one after another, so that its peak memory is its own. What is compared is
measured side by side in the same run. A part that cannot run here is listed with the reason.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gsrender_core.bench.heads import PAPER_RAYS
from gsrender_core.bench.render import CASES
from gsrender_core.bench.scaling import RENDER_BY_GAUSSIANS, RENDER_BY_PIXELS
from gsrender_core.bench.training import STEP

TIME_LIMIT_S = 900
# Name of a part: module and function, called with ``quick=``. Those of the ROS package are named, not imported:
# the core has to run without it.
PARTS = {
    "render": ("gsrender_core.bench.render", "bench_render"),
    "training": ("gsrender_core.bench.training", "bench_training"),
    "heads": ("gsrender_core.bench.heads", "bench_heads"),
    "ray_iou": ("gsrender_core.bench.ray_iou", "bench_ray_iou"),
    "runtimes": ("gsrender_core.bench.runtimes", "bench_runtimes"),
    "networks": ("gsrender_core.bench.networks", "bench_networks"),
    "scaling": ("gsrender_core.bench.scaling", "bench_scaling"),
    "world": ("gsrender_core.bench.world", "bench_world"),
    "markers": ("gsrender_ros.bench_markers", "bench_markers"),
    "outputs": ("gsrender_ros.bench_outputs", "bench_outputs"),
    "inputs": ("gsrender_ros.bench_inputs", "bench_inputs"),
    "bags": ("gsrender_ros.bench_bags", "bench_bags"),
}


@dataclass(frozen=True)
class Target:
    """A limit for one figure: ``key`` of the row ``case`` of ``part`` (None: its only row, or the part itself)."""

    part: str
    case: str | None
    key: str
    limit: float
    at_least: bool
    text: str

    def check(self, parts: dict) -> dict:
        """Measured value and whether it is reached; None where it was not measured."""
        part = parts.get(self.part, {})
        rows = [*part.get("rows", []), part] if self.case is None else part.get("rows", [])
        fitting = [row for row in rows if self.key in row and self.case in (None, row.get("case"))]
        value = fitting[0].get(self.key) if fitting else None
        reached = None if value is None else bool(value >= self.limit if self.at_least else value <= self.limit)
        sign = ">=" if self.at_least else "<="
        return {"target": self.text, "measured": value, "limit": f"{sign} {self.limit:g}", "reached": reached}


TARGETS = (
    Target("render", CASES[0].name, "ratio", 4.0, True, f"numba renderer, times as fast as torch: {CASES[0].name}"),
    Target("training", STEP, "ratio", 2.0, True, "training step, times as fast as with every kernel's reference"),
    Target(
        "heads", f"{PAPER_RAYS}, in torch", "to_gaussian", 10.0, True, "NeRF head, 416 samples a ray: Gaussian heads"
    ),
    Target("heads", PAPER_RAYS, "to_gaussian", 10.0, True, "the same by our kernel, which keeps no sample"),
    Target("ray_iou", None, "numba_ms", 50.0, False, "RayIoU of a sample, ms"),
    Target("runtimes", None, "prediction_ms", 200.0, False, "prediction (5 Hz without the rest of the node), ms"),
    Target("runtimes", None, "ratio", 2.0, True, "compiled runtime, times as fast as eager torch"),
    Target("runtimes", None, "peak_memory_mb", 1500.0, False, "memory of inference, eager and compiled together, MB"),
    Target("networks", "ResNet-50 256x704, graph", "ms", 2.0, False, "ResNet-50 256x704, images to labels, GPU, ms"),
    Target("networks", "Swin-B 512x1408, one frame, graph", "ms", 15.0, False, "Swin-B 512x1408, the same, ms"),
    Target("scaling", RENDER_BY_GAUSSIANS, "exponent", 1.0, False, "renderer's growth with Gaussians, exponent"),
    Target("scaling", RENDER_BY_PIXELS, "exponent", 1.0, False, "renderer's growth with pixels, exponent"),
    Target("world", None, "ms", 500.0, False, "keyframe of the synthetic world, ms"),
    Target("markers", None, "ratio", 20.0, True, "30,000 marker cubes as bytes, times as fast as objects"),
    Target("outputs", None, "total_ms", 10.0, False, "60,000 voxels to published cloud, markers and map, ms"),
    Target("inputs", None, "ahead_ms", 10.0, False, "last of six jpegs to the network's input, ms"),
    Target("inputs", None, "ratio", 2.0, True, "six jpegs scaled in decoding, times as fast as at full size"),
    Target("bags", None, "keyframes_x", 5.0, True, "six 12 Hz cameras to frames each 0.5 s, times real time"),
    Target("bags", None, "unseen_x", 5.0, True, "the same without decoding an image, times real time"),
)


def machine() -> dict:
    """What the figures were measured on, and how busy it was."""
    import numba
    import numpy
    import torch

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the platform's own words must do
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (torch, numba, numpy)},
    }


def run_part(target: tuple[str, str], arguments: dict, time_limit_s: float = TIME_LIMIT_S) -> dict:
    """Call a function (module, name) in a child process.

    Returns:
        its result with ``peak_memory_mb`` and ``seconds``, or ``{"not_available": reason}`` where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="gsrender_bench_") as folder:
        result = Path(folder) / "result.json"
        order = json.dumps({"target": target, "arguments": arguments, "result": str(result)})
        command = [sys.executable, "-m", "gsrender_core.bench", "--child", order]
        start = time.perf_counter()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=time_limit_s)
        except subprocess.TimeoutExpired:
            return {"not_available": f"took longer than {time_limit_s:g} s"}
        if not result.is_file():
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            return {"not_available": lines[-1] if lines else f"ended with code {done.returncode}"}
        return {**json.loads(result.read_text()), "seconds": time.perf_counter() - start}


def _child(order: dict) -> None:
    module, function = order["target"]
    outcome = getattr(importlib.import_module(module), function)(**order["arguments"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    outcome["peak_memory_mb"] = peak / (2**20 if sys.platform == "darwin" else 2**10)
    Path(order["result"]).write_text(json.dumps(outcome))


def table(report: dict) -> str:
    """The report as text."""
    lines = ["  ".join(f"{key} {_short(value)}" for key, value in report["machine"].items()), ""]
    for name, part in report["parts"].items():
        if "not_available" in part:
            lines += [f"{name}  not available: {part['not_available']}", ""]
            continue
        facts = {key: value for key, value in part.items() if key != "rows"}
        lines.append(f"{name}  " + "  ".join(f"{key} {_short(value)}" for key, value in facts.items()))
        for row in part.get("rows", []):
            values = "  ".join(f"{key} {_short(value)}" for key, value in row.items() if key != "case")
            lines.append(f"    {row['case']:58} {values}")
        lines.append("")
    for target in report["targets"]:
        word = {True: "reached", False: "MISSED", None: "not measured"}[target["reached"]]
        lines.append(f"{target['target']:66} {_short(target['measured']):>8} {target['limit']:>7}  {word}")
    return "\n".join(lines)


def _short(value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """Measure, write, print; a missed target is told, not an error. 1 where the result cannot be written."""
    parser = argparse.ArgumentParser(prog="bench", description="Measured speeds of this machine.")
    parser.add_argument("--out", type=Path, default=Path("out/bench.json"), help="default out/bench.json")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    parser.add_argument("--checkpoint", type=Path, help="of the part runtimes; default the package's own")
    parser.add_argument("--device", help="of runtimes, networks and training: auto (default), cpu, cuda, cuda:N")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        _child(json.loads(given.child))
        return 0
    report = {"machine": machine(), "quick": given.quick, "parts": {}}
    for name in given.parts:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        options = {}
        if name in ("runtimes", "networks", "training") and given.device:
            options["device"] = given.device
        if name == "runtimes" and given.checkpoint:
            options["checkpoint"] = str(given.checkpoint)
        report["parts"][name] = run_part(PARTS[name], {"quick": given.quick, **options})
    report["targets"] = [target.check(report["parts"]) for target in TARGETS if target.part in given.parts]
    try:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        print(f"bench: cannot write {given.out}: {error}", file=sys.stderr)
        return 1
    print(table(report))
    print(f"\nall figures: {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
