"""Injects faults one by one into the running node and tells what it said and when right output returned.

    python -m gsrender_ros.trials.fault_injection --out out/faults [--only NAME ...] [--seconds 8] [--domain 101]

Six jpeg cameras with CameraInfo, /tf and /clock, and an untrained network of small size, so that what is measured is
the node's own. Images and motion are the same in every set, so right output is known: it equals that before the fault.
Writes faults.json and faults.md (one row a fault); 1 where wrong output was published or right output did not return.
"""

import argparse
import dataclasses
import json
import logging
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import PointCloud2

from gsrender_core.bench.__main__ import machine
from gsrender_ros.conversions import CLOUD_DTYPE
from gsrender_ros.programs import ProgramError
from gsrender_ros.trials.faults import Fault, named
from gsrender_ros.trials.small_network import write_small_network
from gsrender_ros.trials.synthetic_rig import RigOptions
from gsrender_ros.trials.trial import Trial

logger = logging.getLogger("faults")

SAME_SHARE = 0.98  # of the voxels of two outputs: the rest is rounding, where a class is a toss-up
RETURN_TIMEOUT_S = 90.0
NETWORK_SIZE = (352, 128)
_LINE = re.compile(r"\[(WARN|ERROR|FATAL)\] \[[\d.]+\] \[[^]]*\]: (.*)")


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        during: outputs while it lasted (of sets of that time).
        wrong: outputs that were not what they should be, during it and until right output returned.
        said: distinct warnings and errors of the log, in order.
        diagnosed: (status, level, message) of /diagnostics that were not OK at its end.
        dropped: frames by reason, from its begin to the return.
        returned_s: from its end (its begin where it is a jump) to the arrival of the first right output; None: never.
        unaccounted: frames in less those out, dropped or pending.
    """

    name: str
    done: str
    seconds: float
    during: int = 0
    wrong: int = 0
    said: list[str] = dataclasses.field(default_factory=list)
    diagnosed: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    returned_s: float | None = None
    unaccounted: int = 0


def voxels(data: bytes) -> np.ndarray:
    """Bytes of position and label of every voxel of a serialised cloud, sorted, shape [N]."""
    points = np.frombuffer(bytes(deserialize_message(data, PointCloud2).data), CLOUD_DTYPE)
    rows = np.stack([points["x"], points["y"], points["z"], points["label"].astype("<f4")], axis=1)
    return np.sort(np.ascontiguousarray(rows).view("S16").reshape(-1))


def same_share(a: np.ndarray, b: np.ndarray) -> float:
    """Voxels of equal position and class, as a share of those that either has; 1 where neither has one."""
    common = len(np.intersect1d(a, b))
    either = len(a) + len(b) - common
    return common / either if either else 1.0


def complaints(text: str) -> list[str]:
    """Distinct warnings and errors of a log in order; what differs in numbers only counts once."""
    found = {}
    for line in text.splitlines():
        match = _LINE.search(line)
        if match:
            found.setdefault(re.sub(r"[\d.]+", "#", match.group(2)), match.group(2).strip())
    return list(found.values())


class Injection:
    """Injects faults into a trial that is running.

    Args:
        trial: with a started node that gives output.
        seconds: how long a fault lasts.
    """

    def __init__(self, trial: Trial, seconds: float):
        self._trial, self._seconds = trial, seconds
        self._right = voxels(trial.watch.clouds[-1][2])

    def run(self, fault: Fault) -> Outcome:
        """Bring a fault about, end it, wait for right output.

        Raises:
            ProgramError: there was no right output before the fault.
        """
        trial, watch = self._trial, self._trial.watch
        outcome = Outcome(fault.name, fault.done, self._seconds if fault.end else 0.0)
        if self._wait_for_right()[0] is None:
            raise trial.occupancy_node.error(f"gave no right output before {fault.name!r}")
        before, said = dict(watch.dropped), len(self._log())
        began, count = time.monotonic(), watch.counts["occupancy"]
        fault.begin(trial)
        if fault.end:
            trial.spin(timeout_s=self._seconds)
            outcome.during = watch.counts["occupancy"] - count
            if fault.same_output:
                arrived = [voxels(data) for at, _, data in watch.clouds if at > began]
                outcome.wrong = sum(same_share(one, self._right) < SAME_SHARE for one in arrived)
            outcome.diagnosed = [(name, level, text) for name, (level, text) in watch.statuses.items() if level]
            began = time.monotonic()
            fault.end(trial)
        arrived_at, wrong = self._wait_for_right()
        outcome.wrong += wrong
        outcome.returned_s = None if arrived_at is None else arrived_at - began
        heard = watch.heard
        trial.spin(lambda: watch.heard > heard + 1, timeout_s=10.0)
        outcome.said = complaints(self._log()[said:])
        outcome.dropped = {k: v - before.get(k, 0) for k, v in watch.dropped.items() if v > before.get(k, 0)}
        outcome.unaccounted = watch.balance
        return outcome

    def _wait_for_right(self) -> tuple[float | None, int]:
        """When right output of a set of images from now on arrived (None: not in time), and wrong ones until then."""
        trial = self._trial
        after_ns, began, wrong, seen = trial.rig.now_ns(), time.monotonic(), 0, 0.0

        def come() -> bool:
            nonlocal wrong, seen
            for at, stamp_ns, data in list(trial.watch.clouds):
                if at <= max(began, seen) or not after_ns <= stamp_ns <= trial.rig.now_ns():
                    continue
                seen = at
                if same_share(voxels(data), self._right) >= SAME_SHARE:
                    return True
                wrong += 1
            return False

        return (seen if trial.spin(come, RETURN_TIMEOUT_S) else None), wrong

    def _log(self) -> str:
        programs = [program for program in self._trial.programs if program.name.startswith("occupancy_node")]
        return "".join(program.log.read_text(errors="replace") for program in programs)


def inject(out: Path, faults: tuple[Fault, ...], checkpoint: Path, options: RigOptions, trial_options: tuple) -> dict:
    """Inject faults one after another; returns the report and writes faults.json and faults.md.

    Args:
        out: folder.
        faults: in this order.
        checkpoint: of the node; it is overwritten and restored where a fault says so.
        options: of the rig.
        trial_options: seconds that a fault lasts, ROS_DOMAIN_ID.

    Raises:
        ProgramError: the node never gave output, or never again.
    """
    seconds, domain = trial_options
    parameters = {
        "checkpoint": checkpoint.resolve(),
        "cameras": f"[{', '.join(options.cameras)}]",
        "device": "cpu",
        "use_sim_time": "true",
        "diagnostics.period_s": 0.5,
    }
    outcomes = []
    with Trial(out, options, parameters, domain, "gsrender_ros.trials.failing_node") as trial:
        trial.checkpoint = checkpoint
        trial.environment["OMP_NUM_THREADS"] = "1"  # a small network gains nothing from more, and loses beside others
        node = trial.start_node()
        if not trial.wait_for_output(3):
            raise node.error("gave no output")
        injection = Injection(trial, seconds)
        for fault in faults:
            outcomes.append(injection.run(fault))
            logger.info("%-30s returned after %s s", fault.name, _short(outcomes[-1].returned_s))
        code = trial.occupancy_node.stop()
    report = {"machine": machine(), "rig": vars(options), "exit_code": code}
    report["outcomes"] = [dataclasses.asdict(outcome) for outcome in outcomes]
    (out / "faults.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (out / "faults.md").write_text(table(outcomes), encoding="utf-8")
    return report


def table(outcomes: list[Outcome]) -> str:
    """One row a fault."""
    lines = [
        "| fault | what was done | the log said | /diagnostics said | frames dropped | output meanwhile | right again |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for one in outcomes:
        levels = ("OK", "WARN", "ERROR", "STALE")
        diagnosed = "; ".join(f"{name} {levels[level]}: {text}" for name, level, text in one.diagnosed)
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(one.dropped.items()))
        lasted = f" ({one.seconds:g} s)" if one.seconds else ""
        during = f"{one.during}" if one.seconds else "-"
        wrong = f", {one.wrong} wrong" if one.wrong else ""
        cells = (one.name, one.done + lasted, "; ".join(one.said), diagnosed, dropped, during + wrong)
        returned = "never" if one.returned_s is None else f"{one.returned_s:.1f} s"
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in (*cells, returned)) + " |")
    return "\n".join(lines) + "\n"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 where the node failed, or a fault made it publish what is wrong or nothing any more."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the node is ended
    parser = argparse.ArgumentParser(prog="fault_injection", description="Faults one by one while the node runs.")
    parser.add_argument("--out", type=Path, default=Path("out/faults"), help="default out/faults")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these faults only")
    parser.add_argument("--seconds", type=float, default=8.0, help="that a fault lasts, default 8")
    parser.add_argument("--rate", type=float, default=12.0, help="of the cameras, Hz, default 12")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 900), help="of the images, default 1600 900")
    parser.add_argument("--domain", type=int, default=101, help="ROS_DOMAIN_ID, default 101")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    checkpoint = given.out / "small.safetensors"
    write_small_network(checkpoint, NETWORK_SIZE)
    options = RigOptions(size=tuple(given.size), rate_hz=given.rate, clock=True)
    try:
        faults = named(given.only)
    except ValueError as error:
        parser.error(str(error))
    try:
        report = inject(given.out, faults, checkpoint, options, (given.seconds, given.domain))
    except ProgramError as error:
        logger.error("%s", error)
        return 1
    print((given.out / "faults.md").read_text(encoding="utf-8"))
    bad = [o["name"] for o in report["outcomes"] if o["wrong"] or o["returned_s"] is None or o["unaccounted"]]
    if bad:
        logger.error("not as it should be: %s", ", ".join(bad))
    return int(bool(bad) or report["exit_code"] != 0)


if __name__ == "__main__":
    sys.exit(main())
