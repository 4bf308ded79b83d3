"""The synthetic world as a nuScenes v1.0 folder: scenes in parallel, tables last."""

import json
import logging
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.classes import LIDARSEG_NAMES
from gsrender_core.world import rig
from gsrender_core.world.recording import ATTRIBUTES, VERSION, SceneRecorder, WorldSpec, scene_name, shared_token

logger = logging.getLogger(__name__)

MARKER = "synthetic_world.json"  # says that a folder is ours, of which specification, and whether it is whole
PARTS = ".scenes"  # finished scenes' rows until the tables are written
REVISION = 1  # of the world's look and content: folders of another revision are not continued
TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "lidarseg",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)


def _save(path: Path, content) -> None:
    """Write JSON so that an interrupted run leaves the old file or none, never half of one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(path)


def _record(job: tuple[str, WorldSpec, int]) -> int:
    """Record one scene in whichever process this is; returns the scene's index."""
    out, spec, index = job
    cv2.setNumThreads(1)
    result = SceneRecorder(Path(out), spec, index).record()
    _save(Path(out) / PARTS / f"{scene_name(index)}.json", result)
    return index


def _shared_tables(spec: WorldSpec) -> dict[str, list]:
    """Rows that do not depend on any scene."""
    sensors = [(c.channel, "camera") for c in rig.CAMERAS] + [(rig.LIDAR_CHANNEL, "lidar")]
    calibrated = [
        {
            "token": shared_token(spec, "calibrated_sensor", c.channel),
            "sensor_token": shared_token(spec, "sensor", c.channel),
            "translation": list(c.translation),
            "rotation": list(c.rotation),
            "camera_intrinsic": rig.intrinsics(c, spec.image_size).tolist(),
        }
        for c in rig.CAMERAS
    ]
    calibrated.append(
        {
            "token": shared_token(spec, "calibrated_sensor", rig.LIDAR_CHANNEL),
            "sensor_token": shared_token(spec, "sensor", rig.LIDAR_CHANNEL),
            "translation": list(rig.LIDAR_TRANSLATION),
            "rotation": list(rig.LIDAR_ROTATION),
            "camera_intrinsic": [],
        }
    )
    log = shared_token(spec, "log", "log")
    return {
        "attribute": [{"token": shared_token(spec, "attribute", n), "name": n, "description": ""} for n in ATTRIBUTES],
        "calibrated_sensor": calibrated,
        "category": [
            {"token": shared_token(spec, "category", n), "name": n, "description": "", "index": i}
            for i, n in enumerate(LIDARSEG_NAMES)
        ],
        "log": [
            {
                "token": log,
                "logfile": f"synthetic-{spec.seed:04d}",
                "vehicle": "synthetic",
                "date_captured": "2023-11-14",
                "location": "singapore-onenorth",
            }
        ],  # devkits know four places only
        "map": [
            {
                "token": shared_token(spec, "map", "map"),
                "log_tokens": [log],
                "category": "semantic_prior",
                "filename": "maps/blank.png",
            }
        ],
        "sensor": [{"token": shared_token(spec, "sensor", c), "channel": c, "modality": m} for c, m in sensors],
        "visibility": [
            {"token": str(i + 1), "level": level, "description": ""}
            for i, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"))
        ],
    }


def _claim(out: Path, spec: WorldSpec) -> bool:
    """Make ``out`` ours; returns whether it already holds this very world, whole."""
    wanted = json.loads(json.dumps({**asdict(spec), "revision": REVISION}))
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()):
        if not marker.is_file():
            raise FileExistsError(
                f"{out} is not empty and holds no {MARKER}: refusing to write into it; choose an empty folder"
            )
        found = json.loads(marker.read_text())
        if found["spec"] != wanted:
            raise FileExistsError(
                f"{out} holds another synthetic world ({found['spec']}), wanted {wanted}; choose another folder"
            )
        if found["complete"]:
            return True
        logger.info("continuing the interrupted world in %s", out)
    for folder in (PARTS, VERSION, "maps", "samples", f"lidarseg/{VERSION}", "gts"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    _save(marker, {"spec": wanted, "complete": False})
    return False


def generate_world(
    out: Path,
    scenes: int,
    frames: int,
    seed: int,
    image_size: tuple[int, int] = (704, 256),
    sweeps: bool = False,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a synthetic driving world in the nuScenes v1.0 schema, with lidarseg and Occ3D ``gts/``.

    Scene ``i`` depends on ``(seed, i, frames)`` only: the same call gives the same bytes. An interrupted run
    leaves ``synthetic_world.json`` with ``"complete": false`` and no tables; the same call continues it.

    Args:
        out: folder, empty or a world of the same specification.
        scenes: number of scenes.
        frames: keyframes a scene, 2 Hz.
        seed: seed of the world, 0 or more.
        image_size: (width, height) px, at most 1600x900; flatter than 16:9 keeps the bottom rows.
        sweeps: also record between keyframes, cameras at 12 Hz and LiDAR at 20 Hz.
        workers: processes, a scene each at a time.
        progress: called with (scenes done, scenes) after every scene.

    Raises:
        ValueError: a count, the seed or the image size is out of range.
        FileExistsError: ``out`` holds something else.
    """
    for name, value, least in (
        ("scenes", scenes, 1),
        ("frames", frames, 1),
        ("seed", seed, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be {least} or more")
    out = Path(out)
    spec = WorldSpec(scenes, frames, seed, tuple(image_size), sweeps)
    rig.intrinsics(rig.CAMERAS[0], spec.image_size)  # refuses impossible sizes
    if _claim(out, spec):
        logger.info("%s already holds this world", out)
        return
    todo = [(str(out), spec, i) for i in range(scenes) if not (out / PARTS / f"{scene_name(i)}.json").is_file()]
    done = scenes - len(todo)
    if workers == 1 or len(todo) == 1:
        results, pool = map(_record, todo), None
    else:
        # Spawned, not forked: threads of the caller (torch, numba, DDS) must not be cloned.
        pool = multiprocessing.get_context("spawn").Pool(min(workers, max(len(todo), 1)))
        results = pool.imap_unordered(_record, todo)
    try:
        for _ in results:
            done += 1
            if progress is not None:
                progress(done, scenes)
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()
    _write_tables(out, spec)


def _write_tables(out: Path, spec: WorldSpec) -> None:
    tables = {name: [] for name in TABLES}
    tables.update(_shared_tables(spec))
    infos = {}
    for index in range(spec.scenes):
        part = json.loads((out / PARTS / f"{scene_name(index)}.json").read_text())
        for name, rows in part["tables"].items():
            tables[name].extend(rows)
        infos[scene_name(index)] = part["occ3d"]
    if not cv2.imwrite(str(out / "maps/blank.png"), np.zeros((8, 8), np.uint8)):
        raise OSError(f"could not write {out / 'maps/blank.png'}; check the disk")
    names = list(infos)
    held_out = max(1, len(names) // 10) if len(names) > 1 else 0
    split = len(names) - held_out
    annotations = {"train_split": names[:split], "val_split": names[split:], "scene_infos": infos}
    _save(out / "annotations.json", annotations)
    for name in TABLES:
        _save(out / VERSION / f"{name}.json", tables[name])
    marker = json.loads((out / MARKER).read_text())
    _save(out / MARKER, {**marker, "complete": True})
    shutil.rmtree(out / PARTS)
