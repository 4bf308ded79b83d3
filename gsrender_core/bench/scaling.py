"""How inference and the renderer grow with cameras, image size, grid, Gaussians and pixels, with fitted exponents."""

import dataclasses
import time

import numpy as np
import torch

from gsrender_core.bench.render import RenderCase, make_case, time_once
from gsrender_core.checkpoint import default_checkpoint, load_checkpoint
from gsrender_core.config import ModelConfig
from gsrender_core.engine.agreement import surround_frame
from gsrender_core.gaussians import Gaussians
from gsrender_core.model.gsrender import GSRender
from gsrender_core.predictor import Predictor
from gsrender_core.render import Pixels
from gsrender_core.voxel_grid import VoxelGrid

SEED = 20240917
CAMERAS = (1, 2, 4, 6, 8)
IMAGES = ((224, 96), (448, 160), (704, 256), (1408, 512))
GRIDS = ((50, 50, 8), (100, 100, 16), (200, 200, 16), (400, 400, 32))
GAUSSIANS = (40_000, 80_000, 160_000, 320_000, 640_000)
PIXELS = (2_000, 4_000, 8_000, 16_000, 32_000)
RENDER_BY_GAUSSIANS, RENDER_BY_PIXELS = "renderer, Gaussians at 8,000 pixels", "renderer, pixels at 640,000 Gaussians"
RENDER = RenderCase((200, 200, 16), "trained", PIXELS[-1])


def bench_scaling(quick: bool = False) -> dict:
    """Least milliseconds of each size, and y ~ size ** exponent fitted to them.

    Networks are the packaged one with one thing changed and weights drawn with ``SEED``; they run in the CPU's
    compiled runtime. A grid keeps its 0.4 m voxels and grows in extent. The renderer is numba's, forward and backward.

    Args:
        quick: two sizes of each, fewer repetitions.

    Returns:
        ``seed``, ``threads`` and ``rows``: ``case``, ``sizes``, ``ms`` (lists), ``exponent``; ``last`` is the exponent
        between the two largest sizes, where fixed costs weigh least.
    """
    config = load_checkpoint(default_checkpoint()).model.config
    repetitions = 2 if quick else 6
    rows = []

    def measure(case: str, sizes, amounts, call) -> None:
        chosen = list(zip(sizes, amounts, strict=True))
        if quick:
            chosen = chosen[:2]
        ms = [call(size, repetitions) for size, _ in chosen]
        n = np.log([amount for _, amount in chosen])
        rows.append(
            {
                "case": case,
                "sizes": [size for size, _ in chosen],
                "ms": ms,
                "exponent": float(np.polyfit(n, np.log(ms), 1)[0]),
                "last": float(np.log(ms[-1] / ms[-2]) / (n[-1] - n[-2])),
            }
        )

    predictor = _predictor(config)
    measure(
        "prediction, cameras",
        CAMERAS,
        CAMERAS,
        lambda cameras, n: _least(lambda: predictor(surround_frame(config.image_size, cameras)), n),
    )

    def at_image_size(size, n):
        changed = _predictor(dataclasses.replace(config, image_size=size))
        frame = surround_frame(size)
        return _least(lambda: changed(frame), n)

    measure("prediction, image pixels", IMAGES, [w * h for w, h in IMAGES], at_image_size)

    def at_grid(shape, n):
        low = (-0.2 * shape[0], -0.2 * shape[1], config.grid.min_m[2])
        changed = _predictor(dataclasses.replace(config, grid=VoxelGrid(low, 0.4, shape)))
        frame = surround_frame(config.image_size)
        return _least(lambda: changed(frame), n)

    measure("prediction, voxels", GRIDS, [int(np.prod(shape)) for shape in GRIDS], at_grid)
    gaussians, cameras, pixels = make_case(RENDER, SEED)
    order = torch.randperm(len(gaussians.means), generator=torch.Generator().manual_seed(SEED))

    def with_gaussians(count, n):
        some = order[:count]
        part = Gaussians(*(t[some] for t in (gaussians.means, gaussians.scales, gaussians.opacities, gaussians.logits)))
        few = Pixels(pixels.camera[: PIXELS[2]], pixels.uv[: PIXELS[2]])
        return _least(lambda: time_once(part, cameras, few, "numba"), n)

    def with_pixels(count, n):
        few = Pixels(pixels.camera[:count], pixels.uv[:count])
        return _least(lambda: time_once(gaussians, cameras, few, "numba"), n)

    measure(RENDER_BY_GAUSSIANS, GAUSSIANS, GAUSSIANS, with_gaussians)
    measure(RENDER_BY_PIXELS, PIXELS, PIXELS, with_pixels)
    return {"seed": SEED, "threads": torch.get_num_threads(), "rows": rows}


def _predictor(config: ModelConfig) -> Predictor:
    torch.manual_seed(SEED)
    return Predictor(GSRender(config, load_pretrained=False).eval(), device="cpu", runtime="auto")


def _least(call, repetitions: int) -> float:
    call()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)
