"""Gaussian against NeRF head: what rendering costs in a training step, forward and backward, as either grows.

Voxel features -> head -> labelled pixels -> gradients of features and head, by the very functions that training
calls. Both heads see the same features, cameras and pixels: a planted scene of ground and boxes ("trained"), or
opacity 0.1 everywhere ("initial"), as at the start of training. On a CPU the NeRF head's rays are marched by our own
kernel, which keeps no sample; "in torch" evaluates and keeps every one of them, as RenderOcc does, and any GPU here.
"""

import dataclasses
import functools
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from gsrender_core.bench.render import HEIGHT, SEED, WIDTH, surround_cameras
from gsrender_core.config import BackboneConfig, EncoderConfig, HeadConfig, ModelConfig, TrainConfig
from gsrender_core.marching import march_view
from gsrender_core.model.gsrender import GSRender
from gsrender_core.render import Cameras
from gsrender_core.render.rays import VolumeSettings, cast_into_grid
from gsrender_core.runtime import keep_freed_memory
from gsrender_core.splatting import splat_view
from gsrender_core.training_frames import FrameLabels
from gsrender_core.views import View
from gsrender_core.visibility import visible_voxels
from gsrender_core.voxel_field import DENSITY_SHIFT
from gsrender_core.voxel_grid import VoxelGrid

SAMPLES = (26, 52, 104, 208, 416)  # a ray on average; RenderOcc's has 416 at most
STEP_M = 0.2
LONG_S = 10  # a step that takes longer is measured once
EMPTY_LOGIT, SOLID_LOGIT = -6.0, 2.5


@dataclass(frozen=True)
class HeadsCase:
    """A grid with its features, and the labelled pixels that a step renders, in how many of six cameras."""

    name: str
    grid: VoxelGrid
    features: int
    hidden: int
    pixels: int
    cameras: int = 2
    published: bool = False  # RenderOcc's setting: the trained scene at 0.2 m and 416 samples, also in torch


CASES = (
    HeadsCase("64x64x16", VoxelGrid((-12.8, -12.8, -1.0), 0.4, (64, 64, 16)), 12, 32, 768),
    HeadsCase("100x100x16", VoxelGrid((-20.0, -20.0, -1.0), 0.4, (100, 100, 16)), 24, 64, 2048),
    HeadsCase("200x200x16", VoxelGrid(), 32, 64, 4096),
    HeadsCase("200x200x16", VoxelGrid(), 32, 64, 38400, cameras=6, published=True),
)


# RenderOcc's setting: the rays of a sample and what it evaluates along each.
PAPER_RAYS = f"{CASES[-1].name}, {CASES[-1].pixels} pixels, nerf trained, {SAMPLES[-1]} samples"


def bench_heads(quick: bool = False) -> dict:
    """Median milliseconds of a rendered view and the memory that it takes beyond its inputs.

    Within a case the variants alternate, so that a busy machine slows all; memory is measured afterwards, each
    variant in a process of its own. Kernels are compiled before.

    Args:
        quick: the smallest grid only, fewer repetitions and variants.

    Returns:
        ``seed``, ``threads``, ``device`` and ``rows``: ``case``, ``ms``, ``best_ms`` (the fastest repetition),
        ``cpu_ms`` (processor time of all threads, which other processes hardly change), ``gaussians`` rendered or
        ``samples`` a ray, ``to_gaussian`` (``cpu_ms``, on CUDA ``ms``, over that of the Gaussian head in the same
        scene), ``memory_mb`` (None where the system does not tell).
    """
    from gsrender_core.bench.__main__ import run_part

    rows = []
    for case_number in range(1 if quick else len(CASES)):
        variants = _variants(CASES[case_number], quick)
        times = time_variants(CASES[case_number], variants, 3 if quick or CASES[case_number].published else 7)
        cost = "ms" if _device().type == "cuda" else "cpu_ms"
        for name, variant in variants.items():
            order = {"case_number": case_number, "variant": dataclasses.asdict(variant)}
            memory = run_part(("gsrender_core.bench.heads", "measure_memory"), order)
            rows.append(
                {
                    "case": f"{CASES[case_number].name}, {CASES[case_number].pixels} pixels, {name}",
                    **times[name],
                    "to_gaussian": times[name][cost] / times[f"gaussian {variant.state}"][cost],
                    "memory_mb": memory.get("memory_mb"),
                }
            )
    return {"seed": SEED, "threads": torch.get_num_threads(), "device": str(_device()), "rows": rows}


@dataclass(frozen=True)
class Variant:
    """A head, the state of the scene, and for the NeRF head who marches its rays (``render_rays``)."""

    head: HeadConfig
    state: str = "trained"
    backend: str = "auto"


def _variants(case: HeadsCase, quick: bool) -> dict[str, Variant]:
    """By name; the NeRF head's step gives the wanted number of samples."""
    gaussian, nerf = HeadConfig(hidden=case.hidden), HeadConfig(kind="nerf", hidden=case.hidden)
    view = make_view(case, _device())
    rays = cast_into_grid(view.cameras, view.pixels, case.grid, VolumeSettings())
    mean_m = float(((rays.z_out - rays.z_in) * rays.length).mean())
    variants = {}
    for state in ("trained",) if case.published else ("trained", "initial"):
        variants[f"gaussian {state}"] = Variant(gaussian, state)
        variants[f"nerf {state}, {STEP_M:g} m"] = Variant(dataclasses.replace(nerf, nerf_step_m=STEP_M), state)
    for samples in SAMPLES[-1:] if case.published else SAMPLES[1::2] if quick else SAMPLES:
        step = dataclasses.replace(nerf, nerf_step_m=mean_m / samples)
        variants[f"nerf trained, {samples} samples"] = Variant(step)
    if case.published:
        variants[f"nerf trained, {SAMPLES[-1]} samples, in torch"] = Variant(step, backend="torch")
    return variants


def time_variants(case: HeadsCase, variants: dict[str, Variant], repetitions: int) -> dict[str, dict]:
    """``ms``, ``best_ms``, ``cpu_ms``, ``samples`` and ``gaussians`` of each variant.

    The first run is not counted, unless it took longer than ``LONG_S``: then it is the only one.
    """
    device = _device()
    if device.type == "cpu":
        keep_freed_memory()  # as training does
    view = make_view(case, device)
    for variant in variants.values():
        _load_kernels(variant, device)
    steps = {name: _Step(case, view, variant) for name, variant in variants.items()}
    seconds = {name: [] for name in variants}
    for repetition in range(repetitions + 1):
        for name, step in steps.items():
            if seconds[name] and seconds[name][0][0] > LONG_S:
                continue
            start, cpu_start = time.perf_counter(), time.process_time()
            step()
            took = time.perf_counter() - start, time.process_time() - cpu_start
            if repetition > 0 or took[0] > LONG_S:
                seconds[name].append(took)
    results = {}
    for name, step in steps.items():
        wall, cpu = (sorted(1e3 * s for s in values) for values in zip(*seconds[name], strict=True))
        results[name] = {"ms": median(wall), "best_ms": wall[0], "cpu_ms": median(cpu), **step.size()}
    return results


def measure_memory(case_number: int, variant: dict) -> dict:
    """Peak memory in MB that one step needs beyond what stood there before; to be called in a fresh process."""
    device, case, wanted = _device(), CASES[case_number], Variant(**variant | {"head": HeadConfig(**variant["head"])})
    _load_kernels(wanted, device)
    step = _Step(case, make_view(case, device), wanted)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return {"memory_mb": (torch.cuda.max_memory_allocated() - before) / 2**20}
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status_mb("VmRSS")
        step()
        return {"memory_mb": _status_mb("VmHWM") - before}
    except OSError:  # not Linux
        return {"memory_mb": None}


def _load_kernels(variant: Variant, device: torch.device) -> None:
    """Run a tiny step: kernels that were changed or never used here are compiled first, which takes longer than any."""
    small = HeadsCase("", VoxelGrid((-1.6, -1.6, -1.0), 0.4, (8, 8, 4)), 4, 4, 8)
    tiny = dataclasses.replace(variant, head=dataclasses.replace(variant.head, hidden=4))
    _Step(small, make_view(small, device), tiny)()


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class _Step:
    """Forward and backward pass of one view."""

    def __init__(self, case: HeadsCase, view: View, variant: Variant):
        model = ModelConfig(
            grid=case.grid,
            head=variant.head,
            encoder=EncoderConfig(features=case.features, channels=8),
            backbone=BackboneConfig(pretrained=False),
        )
        self.config = TrainConfig(model=model, pixels=case.pixels, bev_flip=False)
        torch.manual_seed(SEED)
        self.model = GSRender(model, load_pretrained=False).to(view.index.device)
        march = functools.partial(march_view, backend=variant.backend)
        self.see = march if variant.head.kind == "nerf" else splat_view
        self.view, self.log = view, {}
        rows = torch.randn(*case.grid.shape, case.features)
        rows[..., 0] = torch.from_numpy(np.where(_solid(case.grid), 1.0, -1.0))
        self.rows = rows.to(view.index.device).requires_grad_()
        if variant.state == "trained":
            _plant(self.model.head)

    def __call__(self) -> None:
        self.rows.grad = None
        self.model.zero_grad(set_to_none=True)
        P = self.rows.permute(3, 0, 1, 2)  # features innermost, as the encoder leaves them
        seen = self.see(self.model, self.config, P, self.view, None)
        rendered, self.log = seen.rendered, seen.log
        (rendered.logits.square().mean() + rendered.depth.mean() + rendered.alpha.mean()).backward()
        if self.rows.is_cuda:
            torch.cuda.synchronize()

    def size(self) -> dict:
        if "samples_per_ray" in self.log:
            return {"samples": float(self.log["samples_per_ray"]), "gaussians": None}
        head = self.config.model.head
        visible = visible_voxels(self.model.centers, self.view, head.max_offset_m + 3 * head.max_scale_m)
        return {"samples": None, "gaussians": len(visible)}


@torch.no_grad()
def _plant(head: torch.nn.Module) -> None:
    """Let the opacity logit follow feature 0: -6 where it is -1, 2.5 where it is 1."""
    sharp = 8.0  # softplus(8) = 8, softplus(-8) = 0
    slope = (SOLID_LOGIT - EMPTY_LOGIT) / sharp
    if head.config.kind == "nerf":
        hidden, weight, bias = head.density[0], head.density[2].weight[0], head.density[2].bias[:1]
        low = EMPTY_LOGIT - DENSITY_SHIFT
    else:
        hidden, weight, bias, low = head.hidden, head.output.weight[6], head.output.bias[6:7], EMPTY_LOGIT
    hidden.weight[0], hidden.bias[0] = 0, 0
    hidden.weight[0, 0] = sharp
    weight.zero_()
    weight[0] = slope
    bias.fill_(low)


def _solid(grid: VoxelGrid) -> np.ndarray:
    """Ground and boxes, bool [X, Y, Z]; about one box for 160 m^2."""
    rng = np.random.default_rng(SEED)
    x, y, z = np.moveaxis(grid.centers_ego(), -1, 0)
    solid = np.abs(z) < 0.25
    for u, v in rng.uniform(grid.min_m[:2], grid.max_m[:2], (max(1, int(np.ptp(x) * np.ptp(y) / 160)), 2)):
        if np.hypot(u, v) > 4:
            solid |= (np.abs(x - u) < 2) & (np.abs(y - v) < 1) & (z > 0) & (z < 2)
    return solid


def make_view(case: HeadsCase, device: torch.device) -> View:
    """A case's view, pixels drawn where a LiDAR's labels lie: the lower two thirds of the image."""
    rng = np.random.default_rng(SEED)
    cameras, m = surround_cameras(), case.pixels
    camera = torch.from_numpy(rng.integers(0, case.cameras, m)).to(device)
    uv = rng.uniform((0, HEIGHT / 3), (WIDTH, HEIGHT), (m, 2))
    viewmats, Ks = cameras.viewmats.to(device), cameras.Ks.to(device)
    labels = FrameLabels(
        camera,
        torch.from_numpy(uv).float().to(device),
        torch.full((m,), 10.0, device=device),
        torch.zeros(m, dtype=torch.int64, device=device),
        torch.ones(m, device=device),
        Ks,
        torch.linalg.inv(viewmats),
        np.eye(4),
    )
    chosen = torch.arange(len(Ks), device=device) < case.cameras
    return View(labels, torch.arange(m, device=device), Cameras(viewmats, Ks, WIDTH, HEIGHT), chosen)
