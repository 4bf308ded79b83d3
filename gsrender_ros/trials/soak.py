"""Lets the node run under full load and watches memory, latency, processor time, and that every frame is accounted for.

    python -m gsrender_ros.trials.soak --out out/soak [--minutes 30] [--rate 12] [--idle-rate 2] [--domain 100]

Six 1600x900 jpeg cameras with CameraInfo and /tf at ``--rate``, then two minutes at ``--idle-rate``: soak.json and
soak.png. The node runs as a process of its own, with its packaged checkpoint unless ``--checkpoint`` says otherwise.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.bench.__main__ import machine
from gsrender_core.pictures.plots import Diagram, Series, line_chart, sheet
from gsrender_ros.programs import ProgramError
from gsrender_ros.trials.synthetic_rig import RigOptions
from gsrender_ros.trials.trial import Trial

logger = logging.getLogger("soak")

SAMPLE_PERIOD_S = 5.0
IDLE_S = 120.0
WARM_UP_S = 60.0  # memory is compared with that after the first minute
SETTLE_S = 5.0


@dataclass(frozen=True)
class Usage:
    """One look at the node's process: seconds since its first output, memory, threads, files, processor seconds."""

    at_s: float
    memory_mb: float
    threads: int
    files: int
    processor_s: float
    rate_hz: float | None = None
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None


def usage(pid: int, at_s: float) -> Usage:
    """Usage of a process now, from /proc."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        if ":" in line
    )
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # user and system time
    return Usage(
        at_s,
        int(status["VmRSS"].split()[0]) / 1024,
        int(status["Threads"]),
        len(os.listdir(f"/proc/{pid}/fd")),
        ticks / os.sysconf("SC_CLK_TCK"),
    )


def growth_mb(samples: list[Usage], window_s: float = WARM_UP_S) -> float | None:
    """Mean memory of the last ``window_s`` less that of the ``window_s`` after the first minute; None if too short."""
    first = [s.memory_mb for s in samples if WARM_UP_S <= s.at_s < WARM_UP_S + window_s]
    last = [s.memory_mb for s in samples if s.at_s > samples[-1].at_s - window_s]
    if not first or samples[-1].at_s < 2 * window_s + WARM_UP_S:
        return None
    return float(np.mean(last) - np.mean(first))


def processor_share(samples: list[Usage]) -> float | None:
    """Cores that were busy for the process, between the first and the last sample."""
    if len(samples) < 2:
        return None
    return (samples[-1].processor_s - samples[0].processor_s) / (samples[-1].at_s - samples[0].at_s)


def _observe(trial: Trial, seconds: float, began: float) -> tuple[list[Usage], float]:
    """Samples over a time, and the longest silence between two clouds."""
    pid, watch = trial.programs[0].pid, trial.watch
    samples, silence_s, last = [], 0.0, time.monotonic()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        next_at = min(end, time.monotonic() + SAMPLE_PERIOD_S)
        while time.monotonic() < next_at:
            trial.wait_for_output(timeout_s=max(0.0, next_at - time.monotonic()))
            arrived = watch.clouds[-1][0]
            now = time.monotonic()
            silence_s, last = max(silence_s, (arrived if arrived > last else now) - last), max(last, arrived)
        trial.programs[0].check()
        seen = {k: float(watch.values[k]) if watch.values.get(k) else None for k in
                ("rate_hz", "latency_p50_ms", "latency_p95_ms")}  # fmt: skip
        samples.append(Usage(**{**asdict(usage(pid, time.monotonic() - began)), **seen}))
        logger.info("%5.0f s  %4.0f MB  %s", samples[-1].at_s, samples[-1].memory_mb, watch.statuses.get("occupancy"))
    return samples, silence_s


def run_soak(out: Path, minutes: float, rates: tuple[float, float], parameters: dict, domain: int) -> dict:
    """Run the soak; returns the figures and writes soak.json and soak.png.

    Args:
        out: folder.
        minutes: at full load.
        rates: of the cameras, Hz: full load, and after it.
        parameters: of the node.
        domain: ROS_DOMAIN_ID.

    Raises:
        ProgramError: the node ended or never gave output.
    """
    options = RigOptions(rate_hz=rates[0])
    with Trial(out, options, {"device": "cpu", **parameters}, domain) as trial:
        node = trial.start_node()
        ready = trial.spin(lambda: trial.watch.counts["occupancy"] or node.ended)
        node.check()
        if not ready:
            raise node.error("gave no output")
        began = time.monotonic()
        start_up_s = began - trial.started_at
        load, silence_s = _observe(trial, minutes * 60, began)
        full = dict(trial.watch.values)
        trial.rig.set_rate(rates[1])
        trial.spin(timeout_s=SETTLE_S)
        idle, _ = _observe(trial, IDLE_S, began)
        trial.rig.silent = set(options.cameras)
        trial.spin(timeout_s=SETTLE_S)  # what is under way ends, and is reported
        watch, published = trial.watch, trial.rig.published[options.cameras[0]]
        code = node.stop()
    report = {
        "machine": machine(),
        "cameras": len(options.cameras),
        "size": options.size,
        "minutes": minutes,
        "start_up_s": start_up_s,
        "memory_mb": {"first": load[0].memory_mb, "last": load[-1].memory_mb, "growth": growth_mb(load)},
        "threads": [load[0].threads, load[-1].threads],
        "files": [load[0].files, load[-1].files],
        "load": {"rate_hz": rates[0], "cores": processor_share(load), "longest_silence_s": silence_s,
                 **{k: full.get(k) for k in ("rate_hz", "latency_p50_ms", "latency_p95_ms", "inference_p50_ms")}},
        "idle": {"rate_hz": rates[1], "cores": processor_share(idle), "latency_p50_ms": idle[-1].latency_p50_ms},
        "frames": {"published": published, "in": watch.count("frames_in"), "out": watch.count("frames_out"),
                   "pending": watch.count("frames_pending"), "dropped": watch.dropped, "unaccounted": watch.balance},
        "messages": watch.counts,
        "exit_code": code,
        "samples": [asdict(sample) for sample in load + idle],
    }  # fmt: skip
    report["load"]["camera_rate_hz"], report["load"]["rate_hz"] = rates[0], full.get("rate_hz")
    report["idle"]["camera_rate_hz"] = report["idle"].pop("rate_hz")
    (out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    cv2.imwrite(str(out / "soak.png"), picture(load + idle, minutes))
    return report


def picture(samples: list[Usage], minutes: float) -> np.ndarray:
    """Memory, latency and rate over time, uint8 BGR; a line marks the end of the full load."""
    at_min = np.array([s.at_s for s in samples]) / 60

    def values(name: str) -> np.ndarray:
        return np.array([np.nan if getattr(s, name) is None else getattr(s, name) for s in samples])

    def chart(title: str, names: dict[str, str], top: float) -> np.ndarray:
        series = [Series(label, at_min, values(name)) for name, label in names.items()]
        shown = Diagram(title, x_label="min", rules=(minutes,), y_range=(0.0, top))
        return line_chart(series, shown)

    def room(name: str) -> float:
        return float(max(1.0, 1.15 * np.nanmax(np.append(values(name), 0.0))))

    return sheet(
        [
            chart("memory of the node, MB", {"memory_mb": ""}, room("memory_mb")),
            chart(
                "last image's arrival to output, ms",
                {"latency_p50_ms": "median", "latency_p95_ms": "95 %"},
                room("latency_p95_ms"),
            ),
            chart("grids a second", {"rate_hz": ""}, room("rate_hz")),
        ],
        columns=3,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where the node failed or a frame is not accounted for."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node is ended
    parser = argparse.ArgumentParser(prog="soak", description="A long run of the node under full load.")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="default out/soak")
    parser.add_argument("--minutes", type=float, default=30.0, help="at full load, default 30")
    parser.add_argument("--rate", type=float, default=12.0, help="of the cameras, Hz, default 12")
    parser.add_argument("--idle-rate", type=float, default=2.0, help="after it, Hz, default 2")
    parser.add_argument("--checkpoint", type=Path, help="default the package's own")
    parser.add_argument("--domain", type=int, default=100, help="ROS_DOMAIN_ID, default 100")
    given = parser.parse_args(arguments)
    parameters = {"checkpoint": given.checkpoint.resolve()} if given.checkpoint else {}
    try:
        report = run_soak(given.out, given.minutes, (given.rate, given.idle_rate), parameters, given.domain)
    except ProgramError as error:
        logger.error("%s", error)
        return 1
    report.pop("samples")
    print(json.dumps(report, indent=1))
    return int(report["exit_code"] != 0 or report["frames"]["unaccounted"] != 0)


if __name__ == "__main__":
    sys.exit(main())
