"""``gsrender ablate``: train and score the declared variants of a study, several seeds each.

Everything is kept in one folder: a run a variant and seed (resumable, shared between studies whose
variants are equal), its scores on held-out scenes, and a table a study as JSON, Markdown and
pictures. Starting it again continues where it stopped.
"""

import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from gsrender_core.checkpoint import load_checkpoint, read_header
from gsrender_core.config import TrainConfig
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.evaluate import study_scores
from gsrender_core.studies import STUDIES, Run, plan
from gsrender_core.study_pictures import frame_with_most_vehicles, write_bars, write_comparison
from gsrender_core.study_table import SCORES_VERSION, STUDY_TAUS, scores_of, tabulate, write_table
from gsrender_core.train import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Laboratory:
    """Where a study's runs happen.

    Attributes:
        data: training scenes, nuScenes schema.
        held_out: scenes that are scored, never trained on; with ground truth.
        out: folder of runs and tables.
        device: as ``resolve_device``.
        threads: of each process.
        every: each how many held-out frames one is scored.
        train_scenes, held_out_scenes: only these scenes of each; None: all.
    """

    data: Path
    held_out: Path
    out: Path
    device: str = "auto"
    threads: int = 1
    every: int = 4
    train_scenes: tuple[str, ...] | None = None
    held_out_scenes: tuple[str, ...] | None = None


def run_study(
    name: str, base: TrainConfig, laboratory: Laboratory, seeds: int, workers: int, only: list[str] | None = None
) -> int:
    """Run a declared study and write ``<name>.json``, ``<name>.md`` and its pictures; returns how many runs failed.

    Args:
        name: key of ``STUDIES``.
        base: configuration that the variants change.
        laboratory: data and folder; with ``held_out`` equal to ``data``, the last eighth of its scenes is held out.
        seeds: runs a variant, seeds 0 to seeds - 1.
        workers: runs at a time.
        only: names of variants to run; the table shows all that is known.

    Raises:
        ValueError: an unknown variant, too few scenes, or a folder that holds runs on other data.
    """
    study = STUDIES[name]
    unknown = sorted(set(only or []) - {variant.name for variant in study.variants})
    if unknown:
        known = ", ".join(repr(variant.name) for variant in study.variants)
        raise ValueError(f"study {name} has no variant {unknown[0]!r}; known: {known}")
    if base.model.readout != "voxel":
        raise ValueError(f"model.readout {base.model.readout!r}: studies score both read-outs; set it to voxel")
    if laboratory.held_out.resolve() == laboratory.data.resolve():
        scenes = open_scenes(laboratory.data, None, base).scene_names
        count = max(1, len(scenes) // 8)
        if len(scenes) < count + base.validation_scenes + 1:
            raise ValueError(f"{laboratory.data} has {len(scenes)} scenes: too few to hold {count} out; use --held-out")
        laboratory = dataclasses.replace(laboratory, train_scenes=scenes[:-count], held_out_scenes=scenes[-count:])
    runs = [run for run in plan(study, base, seeds) if not only or run.variant in only]
    failed = execute(runs, laboratory, workers)
    table = tabulate(study, base, seeds, laboratory.out)
    path = write_table(name, table, laboratory.out)
    write_bars(name, table, laboratory.out / f"{name}.png")
    shown = {}
    for run in plan(study, base, 1):
        folder = run.folder(laboratory.out / "runs")
        scores = scores_of(folder)
        if scores is not None:
            shown[run.variant] = _result(folder, run.config), scores
    held_out = open_scenes(laboratory.held_out, laboratory.held_out_scenes, base)
    index = frame_with_most_vehicles(held_out, range(0, len(held_out), laboratory.every), base.model.grid)
    write_comparison(shown, held_out, index, laboratory.out / f"{name}_comparison.png", laboratory.device)
    logger.info("%s and pictures beside it", path)
    return len(failed)


def execute(runs: list[Run], laboratory: Laboratory, workers: int) -> list[Path]:
    """Train and score every run that is not finished yet; returns the folders of those that failed.

    Raises:
        ValueError: the folder holds runs on other data.
    """
    _claim(laboratory)
    unique = {run.folder(laboratory.out / "runs"): run for run in runs}
    todo = [run for folder, run in unique.items() if not scores_of(folder)]
    logger.info("%d runs, %d of them to do, %d at a time", len(unique), len(todo), workers)
    started, failed = time.monotonic(), []
    # Fresh processes: threads of torch and numba do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (laboratory,)) as pool:
        futures = {pool.submit(_work, run): run for run in todo}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                run, error = futures[future], future.exception()
                left_min = (time.monotonic() - started) / done * (len(todo) - done) / 60
                if error is not None:
                    failed.append(run.folder(laboratory.out / "runs"))
                    logger.error("%d/%d %s failed: %s", done, len(todo), run.name, error)
                else:
                    logger.info(
                        "%d/%d %s: RayIoU %.2f (about %.0f min left)",
                        done, len(todo), run.name, 100 * future.result(), left_min,
                    )  # fmt: skip
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.kill()  # a run takes SIGTERM for its own end, and the next one would begin
            raise
    return failed


def _digest(root: Path) -> str:
    """Eight hexadecimal digits of a data set's table of samples: two folders of one name are not one data set."""
    tables = sorted(root.glob("v1.0-*/sample.json"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in tables)).hexdigest()[:8]


def _claim(laboratory: Laboratory) -> None:
    """Bind the folder to its data: scores on other data must not mix in one table."""
    record = {
        "data": laboratory.data.resolve().name,
        "held_out": laboratory.held_out.resolve().name,
        "train_scenes": laboratory.train_scenes and list(laboratory.train_scenes),
        "held_out_scenes": laboratory.held_out_scenes and list(laboratory.held_out_scenes),
        "every": laboratory.every,
        "samples": [_digest(laboratory.data), _digest(laboratory.held_out)],
    }
    path = laboratory.out / "laboratory.json"
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored != record:
            raise ValueError(f"{laboratory.out} holds runs with {stored}, asked for {record}; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")


_worker: dict = {}  # what a worker process keeps between runs: data sets and the frozen backbone's features


def _start_worker(laboratory: Laboratory) -> None:
    import numba

    torch.set_num_threads(laboratory.threads)
    numba.set_num_threads(min(laboratory.threads, numba.config.NUMBA_NUM_THREADS))
    laboratory.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        filename=laboratory.out / f"worker-{os.getpid()}.log", level=logging.INFO, format="%(asctime)s %(message)s"
    )
    _worker["laboratory"] = laboratory


def open_scenes(root: Path, scenes: tuple[str, ...] | None, config: TrainConfig) -> NuScenes:
    """A data set as a run's configuration wants it read."""
    options = LabelOptions(config.renderocc_labels, config.drop_occluded, config.hold_out_labels)
    return NuScenes(root, config.model.image_size, scenes=scenes, label_options=options)


def _dataset(root: Path, scenes: tuple[str, ...] | None, config: TrainConfig) -> NuScenes:
    key = (root, scenes, config.model.image_size, config.renderocc_labels, config.drop_occluded, config.hold_out_labels)
    if key not in _worker:
        _worker[key] = open_scenes(root, scenes, config)
    return _worker[key]


def _trained(folder: Path, config: TrainConfig) -> bool:
    """Whether a run reached its last step; its best checkpoint alone appears at the first validation already."""
    last = folder / "last.safetensors"
    return last.exists() and read_header(last)["info"]["steps"] >= config.steps


def _result(folder: Path, config: TrainConfig) -> Path:
    """The checkpoint that a finished run is judged by."""
    return folder / ("best.safetensors" if config.validation_scenes else "last.safetensors")


def _work(run: Run) -> float:
    """Train and score one run in a worker; returns its RayIoU."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)  # whoever wanted the run is gone
    laboratory: Laboratory = _worker["laboratory"]
    folder = run.folder(laboratory.out / "runs")
    if not _trained(folder, run.config):
        resume = (folder / "resume.pt").exists()
        if folder.exists() and not resume:
            shutil.rmtree(folder)  # stopped before its first checkpoint: nothing to continue
        data = _dataset(laboratory.data, laboratory.train_scenes, run.config)
        trainer = Trainer(run.config, data, folder, laboratory.device, _worker.get("frames"))
        _worker["frames"] = trainer.objective.frames
        trainer.run(resume)
    loaded = load_checkpoint(_result(folder, run.config))
    data = _dataset(laboratory.held_out, laboratory.held_out_scenes, run.config)
    scores = study_scores(loaded.model.eval(), data, range(0, len(data), laboratory.every), STUDY_TAUS)
    scores |= {"version": SCORES_VERSION, "tau": loaded.model.config.tau, "info": loaded.info}
    partial = folder / "scores.partial"
    partial.write_text(json.dumps(scores), encoding="utf-8")
    partial.replace(folder / "scores.json")
    return scores["rayiou"]
