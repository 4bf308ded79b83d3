"""Time of rendering listed pixels, forward and backward: numba against the torch renderer in the same run."""

import math
import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from gsrender_core.gaussians import Gaussians
from gsrender_core.render import Cameras, Pixels, RenderSettings, render_pixels
from gsrender_core.render.gsplat_renderer import kernels_available, render_maps_gsplat
from gsrender_core.voxel_grid import VoxelGrid

SEED = 20240917
WIDTH, HEIGHT, CLASSES = 704, 256, 17


@dataclass(frozen=True)
class RenderCase:
    """One line of the table: a grid's Gaussians in one state of training, and a number of listed pixels."""

    grid_shape: tuple[int, int, int]
    state: str  # "trained": a ground plane and boxes are opaque, the rest is empty; "initial": opacity 0.1 everywhere
    pixels: int
    with_torch: bool = True

    @property
    def name(self) -> str:
        """Count of Gaussians, state and pixels in words."""
        return f"{math.prod(self.grid_shape) // 1000}k {self.state}, {self.pixels / 1000:g}k pixels"


CASES = (
    RenderCase((100, 100, 16), "trained", 20_000),
    RenderCase((100, 100, 16), "initial", 4_000),
    RenderCase((200, 200, 16), "trained", 6_000),
    RenderCase((200, 200, 16), "initial", 4_000, with_torch=False),
)


def bench_render(quick: bool = False) -> dict:
    """Median milliseconds of forward + backward (17 logits, depth, alpha; six 256 x 704 cameras).

    The backends alternate within a case, so that a busy machine slows both. Inputs are drawn with ``SEED``; the first
    run of each (compilation, page faults) is not counted.

    Args:
        quick: fewer repetitions and only the first case.

    Returns:
        ``seed``, ``threads`` and ``rows``: for each case ``case``, ``torch_ms`` (None where torch is left out),
        ``numba_ms``, ``ratio`` torch / numba, and ``opaque``, the number of Gaussians with opacity >= 1/255. Where
        gsplat's kernels run, a row more for each case: ``gsplat_ms`` of the six whole images with logits and depth in
        two passes, ``padded_ms`` of the same in one.
    """
    repetitions = 3 if quick else 7
    rows = []
    for case in CASES[:1] if quick else CASES:
        gaussians, cameras, pixels = make_case(case, SEED)
        times = {"numba": [], "torch": []}
        for i in range(repetitions + 1):
            for backend in ("numba", "torch") if case.with_torch else ("numba",):
                if backend == "torch" and i > max(3, repetitions // 2):
                    continue
                elapsed = 1e3 * time_once(gaussians, cameras, pixels, backend)
                if i > 0:
                    times[backend].append(elapsed)
        numba_ms = median(times["numba"])
        torch_ms = median(times["torch"]) if case.with_torch else None
        rows.append(
            {
                "case": case.name,
                "torch_ms": torch_ms,
                "numba_ms": numba_ms,
                "ratio": None if torch_ms is None else torch_ms / numba_ms,
                "opaque": int((gaussians.opacities >= 1 / 255).sum()),
            }
        )
        if kernels_available():
            rows.append(
                {"case": f"{case.name}: whole images by gsplat", **time_gsplat(gaussians, cameras, repetitions)}
            )
    return {"seed": SEED, "threads": torch.get_num_threads(), "rows": rows}


def time_gsplat(gaussians: Gaussians, cameras: Cameras, repetitions: int) -> dict[str, float]:
    """``gsplat_ms`` and ``padded_ms``, see ``bench_render``; forward and backward, the two in turns."""
    parts = (gaussians.means, gaussians.scales, gaussians.opacities, gaussians.logits)
    leaves = [t.cuda().requires_grad_() for t in parts]
    cameras = Cameras(cameras.viewmats.cuda(), cameras.Ks.cuda(), cameras.width, cameras.height)
    ways, times = {"gsplat_ms": False, "padded_ms": True}, {}
    for i in range(repetitions + 1):
        for name, in_one_pass in ways.items():
            torch.cuda.synchronize()
            start = time.perf_counter()
            maps = render_maps_gsplat(Gaussians(*leaves), cameras, RenderSettings(), in_one_pass)
            (maps.logits.square().mean() + maps.depth.mean() + maps.alpha.mean()).backward()
            torch.cuda.synchronize()
            if i > 0:
                times.setdefault(name, []).append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def time_once(gaussians: Gaussians, cameras: Cameras, pixels: Pixels, backend: str) -> float:
    """Seconds of one forward and backward pass with gradients for every input."""
    leaves = [t.detach().requires_grad_() for t in (gaussians.means, gaussians.scales, gaussians.opacities)]
    logits = gaussians.logits.detach().requires_grad_()
    start = time.perf_counter()
    rendered = render_pixels(Gaussians(*leaves, logits), cameras, pixels, backend=backend)
    (rendered.logits.square().mean() + rendered.depth.mean() + rendered.alpha.mean()).backward()
    return time.perf_counter() - start


def make_case(case: RenderCase, seed: int) -> tuple[Gaussians, Cameras, Pixels]:
    """Gaussians on a voxel grid over 80 x 80 x 6.4 m, six cameras around the vehicle, scattered pixels."""
    rng = np.random.default_rng(seed)
    grid = VoxelGrid((-40.0, -40.0, -1.0), 80.0 / case.grid_shape[0], case.grid_shape)
    centers = grid.centers_ego()
    if case.grid_shape[2] * grid.voxel_size_m > 6.4:
        centers[..., 2] = -1 + (np.arange(case.grid_shape[2]) + 0.5) * 6.4 / case.grid_shape[2]
    means = centers.reshape(-1, 3)
    n = len(means)
    if case.state == "initial":
        opacities = np.full(n, 0.1)
    else:
        solid = np.abs(means[:, 2]) < 0.25
        for x, y in rng.uniform(-35, 35, (40, 2)):
            near = (np.abs(means[:, 0] - x) < 2) & (np.abs(means[:, 1] - y) < 1) & (means[:, 2] < 2) & (means[:, 2] > 0)
            solid |= near & (math.hypot(x, y) > 5)
        opacities = np.where(solid, rng.uniform(0.5, 0.99, n), rng.uniform(0, 0.003, n))
        means = means + rng.normal(0, 0.1, (n, 3))
    scales = np.full((n, 3), 0.2) * (1 if case.state == "initial" else rng.uniform(0.7, 2, (n, 3)))
    gaussians = Gaussians(
        *(torch.from_numpy(a).float() for a in (means, scales, opacities, rng.normal(size=(n, CLASSES))))
    )
    camera = rng.integers(0, 6, case.pixels)
    uv = rng.uniform(0, 1, (case.pixels, 2)) * (WIDTH, HEIGHT)
    return gaussians, surround_cameras(), Pixels(torch.from_numpy(camera), torch.from_numpy(uv).float())


def surround_cameras() -> Cameras:
    """Six level cameras 60 degrees apart, 1.5 m above the ground, 70 degrees of horizontal view."""
    viewmats = torch.zeros(6, 4, 4)
    for i in range(6):
        yaw = math.radians(60 * i)
        forward = torch.tensor([math.cos(yaw), math.sin(yaw), 0.0])
        right = torch.tensor([math.sin(yaw), -math.cos(yaw), 0.0])
        down = torch.tensor([0.0, 0.0, -1.0])
        R = torch.stack((right, down, forward))
        viewmats[i, :3, :3], viewmats[i, :3, 3], viewmats[i, 3, 3] = R, -R @ torch.tensor([0.0, 0.0, 1.5]), 1
    focal = WIDTH / 2 / math.tan(math.radians(35))
    K = torch.tensor([[focal, 0.0, WIDTH / 2], [0.0, focal, HEIGHT / 2], [0.0, 0.0, 1.0]])
    return Cameras(viewmats, K.expand(6, 3, 3), WIDTH, HEIGHT)
