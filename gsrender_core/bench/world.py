"""Time of one keyframe of the synthetic world: six images, a sweep and Occ3D labels, written to disk."""

import tempfile
import time
from pathlib import Path

from gsrender_core.world import generate_world

SEED = 20240917
SCENES, FRAMES = 4, 10


def bench_world(quick: bool = False) -> dict:
    """Milliseconds a keyframe of one call with two processes, the default.

    Making the streets, starting the processes and writing the tables is part of it; compilation is not.

    Args:
        quick: fewer and shorter scenes; the start of the processes then weighs more.

    Returns:
        ``seed``, ``scenes``, ``frames`` a scene and ``rows``: ``case``, ``ms``.
    """
    scenes, frames = (2, 2) if quick else (SCENES, FRAMES)
    with tempfile.TemporaryDirectory(prefix="gsrender_bench_") as folder:
        generate_world(Path(folder) / "first", 1, 1, SEED, workers=1)
        start = time.perf_counter()
        generate_world(Path(folder) / "timed", scenes, frames, SEED + 1, workers=2)
        ms = 1e3 * (time.perf_counter() - start) / (scenes * frames)
    name = "keyframe, 2 processes: six 704x256 images, sweep, lidarseg, gts"
    return {"seed": SEED, "scenes": scenes, "frames": frames, "rows": [{"case": name, "ms": ms}]}
