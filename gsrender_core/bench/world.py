"""Time of one keyframe of the synthetic world: six images, a sweep and Occ3D labels, written to disk."""

import tempfile
import time
from pathlib import Path
from statistics import median

from gsrender_core.world import generate_world

SEED = 20240917
FRAMES = 8


def bench_world(quick: bool = False) -> dict:
    """Milliseconds a keyframe, of the median of several scenes made one after another in this process.

    Making the street and writing the tables is part of it. The first scene (compilation) is not counted.

    Args:
        quick: one short scene only.

    Returns:
        ``seed``, ``frames`` a scene and ``rows``: ``case``, ``ms``.
    """
    frames, scenes = (2, 1) if quick else (FRAMES, 3)
    times = []
    with tempfile.TemporaryDirectory(prefix="gsrender_bench_") as folder:
        generate_world(Path(folder) / "first", 1, 1, SEED, workers=1)
        for n in range(scenes):
            start = time.perf_counter()
            generate_world(Path(folder) / str(n), 1, frames, SEED + 1 + n, workers=1)
            times.append(1e3 * (time.perf_counter() - start) / frames)
    name = "keyframe: six 704x256 images, sweep, lidarseg, gts"
    return {"seed": SEED, "frames": frames, "rows": [{"case": name, "ms": median(times)}]}
