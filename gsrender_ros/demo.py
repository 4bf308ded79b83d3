"""The whole chain on a few frames: data -> bag -> replay, node and recorder over DDS -> picture and figures.

    python -m gsrender_ros.demo [--data FOLDER] [--out out/demo] [--checkpoint FILE]

Leaves in the output folder: occupancy.png, report.json, recording/ (what the node published), bag/ (what it was
fed with), logs/, and world/ where no data was given.
"""

import argparse
import json
import logging
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsrender_core.checkpoint import default_checkpoint, read_header
from gsrender_core.config import ModelConfig, from_dict
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.metrics.miou import without_nan
from gsrender_core.pictures import occupancy_picture
from gsrender_core.predict_folder import write_png
from gsrender_core.world import generate_world
from gsrender_ros.demo_chain import CLOUD_TOPIC, run_chain
from gsrender_ros.nuscenes_to_bag import BagOptions, write_bag
from gsrender_ros.programs import ProgramError
from gsrender_ros.recorded_scores import samples_by_stamp, score_grids
from gsrender_ros.recording import Recording, read_recording

logger = logging.getLogger("demo")

SEED, FRAMES = 20001, 20  # a scene that no training run and no validation has seen
OFFERED_HZ = 3.0  # more than the 2 Hz that two CPU cores must manage, and few frames are lost where they do
FEW_FRAMES, FEW_HZ = 6, 1.0  # of so few frames each one is wanted
MARKER = ".gsrender_demo"  # says that a folder may be emptied
MADE = ("bag", "recording", "logs", "world", "occupancy.png", "report.json")


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs on.

    Attributes:
        out: folder for everything it makes; results of an earlier demo there are replaced.
        data: nuScenes-schema folder; None: a synthetic scene.
        scene: its name; default the first.
        checkpoint: file; None: the package's own.
        device: where the network runs.
        frames: keyframes of the synthetic scene.
        offered_hz: keyframes a second that are played; None: 3, or 1 where there are fewer than six.
    """

    out: Path
    data: Path | None = None
    scene: str | None = None
    checkpoint: Path | None = None
    device: str = "auto"
    frames: int = FRAMES
    offered_hz: float | None = None


def run_demo(options: DemoOptions) -> dict:
    """Run everything; returns what report.json holds.

    Raises:
        FileNotFoundError, ValueError, FileExistsError: data or checkpoint are not usable.
        ProgramError: a program ended early, or nothing was recorded; one line that names its log.
    """
    started = time.monotonic()
    out = options.out
    checkpoint = Path(options.checkpoint or default_checkpoint())
    model = from_dict(ModelConfig, read_header(checkpoint)["model"])
    _claim(out, options.data)
    data = options.data or _synthetic_scene(out / "world", options.frames)
    dataset = NuScenes(data, model.image_size, scenes=None if options.scene is None else [options.scene])
    scene = options.scene or dataset.scene_names[0]
    samples = samples_by_stamp(dataset, scene)
    if not samples:
        raise ValueError(f"scene {scene!r} of {data} has no complete keyframe; choose another with --scene")
    summary = write_bag(data, out / "bag", BagOptions(scene=scene, sweeps=False))
    logger.info("bag: %s of %s, %d keyframes", scene, data, len(samples))

    offered_hz = options.offered_hz or (FEW_HZ if len(samples) < FEW_FRAMES else OFFERED_HZ)
    period_s = float(np.median(np.diff(sorted(samples)))) / 1e9 if len(samples) > 1 else 1.0
    rate = float(np.clip(offered_hz * period_s, 0.001, 1000.0))
    run_chain(out, checkpoint, options.device, rate)

    recording = read_recording(out / "recording", model.grid)
    keyframes = [stamp for stamp in recording.grids if stamp in samples]
    if not keyframes or not recording.diagnostics:
        raise ProgramError(_why_nothing(recording, out / "logs"))
    logger.info("recorded %d grids; scoring and drawing", len(recording.grids))
    scores = score_grids(dataset, recording.grids, samples)
    # The middle of the recording, whatever it shows.
    stamp = sorted(keyframes)[len(keyframes) // 2]
    i = samples[stamp]
    title = f"{scene}, keyframe {sorted(samples).index(stamp) + 1} of {len(samples)}, as recorded from {CLOUD_TOPIC}"
    frame = dataset.frame(i, labels=False)
    write_png(out / "occupancy.png", occupancy_picture(frame, recording.grids[stamp], dataset.ground_truth(i), title))
    report = {
        **_figures(recording, scores),
        "data": str(data) if options.data else f"synthetic, seed {SEED}, {options.frames} keyframes",
        "scene": scene,
        "replay": {"offered_hz": offered_hz, "rate": rate, "keyframes": len(samples),
                   "seconds": (summary.end_ns - summary.start_ns) / 1e9 / rate},
        "recorded": recording.counts,
        "picture": {"token": frame.token, "stamp_ns": stamp},
        "demo_s": time.monotonic() - started,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(without_nan(report), indent=2, allow_nan=False) + "\n")
    return report


def _claim(out: Path, data: Path | None) -> None:
    """Make ``out`` ours and remove what an earlier demo left there; anything else is not touched."""
    if data is not None and out.resolve() in (data.resolve(), *data.resolve().parents):
        raise ValueError(f"the data {data} lies in the output folder {out}, which is emptied; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise FileExistsError(f"{out} is not empty and was not made by this demo; choose another --out")
    for name in MADE:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
    (out / "logs").mkdir(parents=True)
    (out / MARKER).touch()


def _synthetic_scene(folder: Path, frames: int) -> Path:
    logger.info("making a synthetic scene of %d keyframes, seed %d", frames, SEED)
    generate_world(folder, scenes=1, frames=frames, seed=SEED)
    return folder


def _why_nothing(recording: Recording, logs: Path) -> str:
    dropped = {k.removeprefix("dropped."): v for k, v in recording.diagnostics.items() if k.startswith("dropped.")}
    taken, given = (recording.diagnostics.get(f"frames_{key}", "?") for key in ("in", "out"))
    return (
        f"recorded {len(recording.grids)} grids: the node took {taken} frames in and gave {given} out, "
        f"dropped {dropped or 'none'}; it says: {recording.message or 'nothing'} (logs: {logs})"
    )


def _figures(recording: Recording, scores: dict | None) -> dict:
    """The figures of the report: the node's own of its frames, and the scores of what was recorded."""
    values, scores = recording.diagnostics, scores or {}

    def number(key: str) -> float | None:
        return float(values[key]) if values.get(key) else None

    return {
        "frames_in": int(values["frames_in"]),
        "frames_out": int(values["frames_out"]),
        "frames_pending": int(values["frames_pending"]),
        "dropped": {k.removeprefix("dropped."): int(v) for k, v in values.items() if k.startswith("dropped.")},
        "rate_hz": number("rate_hz") or None,  # one frame has no rate
        "latency_ms": {"p50": number("latency_p50_ms"), "p95": number("latency_p95_ms")},
        "inference_ms": {"p50": number("inference_p50_ms"), "p95": number("inference_p95_ms")},
        "miou": scores.get("miou"),
        "rayiou": scores.get("rayiou"),
        **{key: scores.get(key) for key in ("rayiou@1", "rayiou@2", "rayiou@4")},
        "samples_scored": scores.get("samples", 0),
        "device": values["device"],
        "checkpoint": values["checkpoint"],
    }


def _options(arguments: list[str] | None) -> DemoOptions:
    parser = argparse.ArgumentParser(prog="demo", description="Data -> bag -> replay, node and recorder -> results.")
    parser.add_argument("--data", type=Path, help="nuScenes-schema folder; default a synthetic scene")
    parser.add_argument("--scene", help="its scene; default the first")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="default out/demo")
    parser.add_argument("--checkpoint", type=Path, help="default the package's own")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"of the synthetic scene, default {FRAMES}")
    parser.add_argument("--hz", type=float, help="keyframes played a second; default 3, or 1 for less than six")
    given = parser.parse_args(arguments)
    if given.hz is not None and given.hz <= 0:
        parser.error(f"--hz is {given.hz:g}, must be positive")
    return DemoOptions(given.out, given.data, given.scene, given.checkpoint, given.device, given.frames, given.hz)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 1 with one line that says why where it fails."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children are ended
    options = _options(arguments)
    try:
        report = run_demo(options)
    except (FileNotFoundError, FileExistsError, ValueError, ProgramError) as error:
        logger.error("demo failed: %s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("interrupted")
        return 130
    shown = ("frames_in", "frames_out", "dropped", "rate_hz", "latency_ms", "miou", "rayiou", "device")
    logger.info("%s", "\n".join(f"{key:>12}  {report[key]}" for key in shown))
    logger.info("look at %s; figures in %s", options.out / "occupancy.png", options.out / "report.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
