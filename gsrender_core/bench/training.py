"""A training step of the packaged network's recipe: what it takes, and every kernel of it against its reference.

Frames of the synthetic world are written and read as ``gsrender train`` reads them. Stages are timed with the very
inputs that a step has; the whole step also with all references in place of the kernels, and both losses must agree.
"""

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path
from statistics import median
from unittest import mock

import torch

from gsrender_core import ray_compensation, splatting
from gsrender_core.checkpoint import default_checkpoint, load_checkpoint
from gsrender_core.config import TrainConfig
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.model import view_transformer
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.view_transformer import splat_points_torch
from gsrender_core.objective import Objective
from gsrender_core.predictor import resolve_device
from gsrender_core.render import Cameras, Pixels, render_pixels
from gsrender_core.runtime import keep_freed_memory
from gsrender_core.splatting import splat_view
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.trilinear import sample_rows, sample_rows_reference
from gsrender_core.views import View, draw_view
from gsrender_core.visibility import visible_voxels, visible_voxels_reference
from gsrender_core.world import generate_world

SEED = 20240917
FRAMES, FRAME = 5, 2  # of the one scene, and the one in its middle, which has neighbours on both sides
STEP, STEP_RAYS = "step: rendered, with an adjacent frame", "step: rays alone"
NEAR = 1e-3  # relative difference of the losses, float32 sums in another order and voxels on a border


def bench_training(quick: bool = False, device: str = "auto") -> dict:
    """Median milliseconds of what a step does, one frame a batch, forward and backward unless said otherwise.

    What is compared alternates; the first run of each is not counted.

    Args:
        quick: fewer repetitions.
        device: as ``resolve_device``. Kernels are compared with references on a CPU only.

    Returns:
        ``seed``, ``threads``, ``device`` and ``rows``: ``case``, ``ms``, and on a CPU ``reference_ms`` of the readable
        way and ``ratio`` of both; None where there is one way only.

    Raises:
        RuntimeError: a step by kernels and one by references have other losses.
        ValueError: no such device.
    """
    device = resolve_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="gsrender_bench_") as folder:
        generate_world(Path(folder) / "world", 1, FRAMES, SEED, workers=1)
        step = _Step(Path(folder) / "world", device)
        rows = [
            {"case": name, **_timed(*ways, repetitions=3 if quick else 9, device=device)}
            for name, ways in step.ways().items()
        ]
    return {"seed": SEED, "threads": torch.get_num_threads(), "device": str(device), "rows": rows}


def _timed(ours, reference=None, *, repetitions: int, device: torch.device) -> dict:
    times = [[], []]
    for repetition in range(repetitions + 1):
        for spent, call in zip(times, (ours, reference), strict=True):
            if call is None:
                continue
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition > 0:
                spent.append(1e3 * (time.perf_counter() - start))
    ms, reference_ms = (median(spent) if spent else None for spent in times)
    return {"ms": ms, "reference_ms": reference_ms, "ratio": None if reference_ms is None else reference_ms / ms}


@contextlib.contextmanager
def references():
    """Every kernel of a step replaced by its readable reference, in this process."""
    in_torch = lambda *given: render_pixels(*given, backend="torch")  # noqa: E731
    with (
        mock.patch.object(ray_compensation, "sample_rows", sample_rows_reference),
        mock.patch.object(view_transformer, "splat_points", splat_points_torch),
        mock.patch.object(splatting, "visible_voxels", visible_voxels_reference),
        mock.patch.object(splatting, "render_pixels", in_torch),
    ):
        yield


class _Step:
    """The parts of a training step on one frame, each callable by itself."""

    def __init__(self, world: Path, device: torch.device):
        # Trained weights: opacities, and so what is rendered, are those of most of a training.
        self.model: GSRender = load_checkpoint(default_checkpoint()).model.to(device).train()
        self.config = TrainConfig(model=self.model.config, pixels=4096, adjacent=(-1, 1), adjacent_per_step=1)
        self.data = NuScenes(world, self.model.config.image_size)
        self.frames = TrainingFrames(self.data, self.model, device, self.config.rare_boost, self.config.cache_gb)
        self.objective = Objective(self.config, self.model, self.frames)
        network, self.labels = self.frames.seen(FRAME, self.config.augment), self.frames.labels(FRAME)
        with torch.no_grad():
            pose, Ks = self.labels.T_ego_cam[None], network.Ks[None]
            self.seen = self.model.observe(network.maps, Ks, pose, None)
            self.P = self.model.encoder(self.model.lift(network.maps, Ks, pose)[0])[0].float()
            self.view: View = draw_view(self.labels, self.config, torch.eye(4, device=device))
        self.step(True)  # features of all frames are kept from now on, as after the first epoch

    def ways(self) -> dict[str, tuple]:
        """Case to what is timed: ours, and on a CPU the reference where there is one."""
        on_cpu = self.frames.device.type == "cpu"
        ways = {
            "a frame read: six jpegs, sweep, labels; once an epoch": (lambda: self.data.frame(FRAME),),
            "features of its images, frozen backbone; once": (self.features,),
            "lift": (self.lift, lambda: _by_references(self.lift)),
            "encoder": (self.encode,),
            "Ray Compensation's look-up": (
                lambda: self.look_up(sample_rows),
                lambda: self.look_up(sample_rows_reference),
            ),
            "voxels in view, no gradient": (
                lambda: self._visible(visible_voxels),
                lambda: self._visible(visible_voxels_reference),
            ),
            "a view: head, labelled pixels splatted; reference: its whole images": (
                lambda: self.splat(self.view),
                lambda: self.splat(self.whole_images),
            ),
            STEP: (lambda: self.step(True), lambda: _by_references(self.step, True)),
            STEP_RAYS: (lambda: self.step(False), lambda: _by_references(self.step, False)),
        }
        if on_cpu:
            self._require_same_losses()
        return ways if on_cpu else {name: calls[:1] for name, calls in ways.items()}

    def step(self, render: bool) -> float:
        """One frame's loss and gradients; the same draws every time."""
        torch.manual_seed(SEED)
        self.model.zero_grad(set_to_none=True)
        terms = self.objective(FRAME, render)
        total = sum(value for name, value in terms.items() if not name.startswith("_"))
        total.backward()
        return float(total)

    def _require_same_losses(self) -> None:
        for render in (True, False):
            fast, slow = self.step(render), _by_references(self.step, render)
            if not abs(fast - slow) <= NEAR * abs(slow):
                raise RuntimeError(f"kernels give a loss of {fast:.6g}, their references {slow:.6g}: not the same step")

    @torch.no_grad()
    def features(self) -> None:
        """The backbone's maps, as ``TrainingFrames`` computes them."""
        images = torch.from_numpy(self.data.frame(FRAME).images)
        self.model.image_features(images[None].to(self.frames.device))

    def lift(self) -> None:
        """Features and depth probabilities into the volume."""
        context = self.seen.context.float().requires_grad_()
        depth = torch.softmax(self.seen.depth_logits, dim=2).requires_grad_()
        self.model.view(context, depth, self.seen.Ks, self.seen.T_ego_cam).sum().backward()

    def encode(self) -> None:
        """The volume's network."""
        with torch.no_grad():
            probability = torch.softmax(self.seen.depth_logits, dim=2)
            lifted = self.model.view(self.seen.context.float(), probability, self.seen.Ks, self.seen.T_ego_cam)
        self.model.zero_grad(set_to_none=True)
        self.model.encoder(lifted.requires_grad_()).sum().backward()

    def look_up(self, sample) -> None:
        """Features at the places of an adjacent frame's visible voxels, 2.5 m further on."""
        grid = self.config.model.grid
        rows = self.P.permute(1, 2, 3, 0).reshape(-1, len(self.P)).contiguous().requires_grad_()
        low = torch.tensor(grid.min_m, device=rows.device)
        places = self.model.centers[self._visible(visible_voxels)] + rows.new_tensor((2.5, 0.1, 0.0))
        sample(rows, grid.shape, (places - low) / grid.voxel_size_m - 0.5).sum().backward()

    def _visible(self, find) -> torch.Tensor:
        head = self.config.model.head
        return find(self.model.centers, self.view, head.max_offset_m + 3 * head.max_scale_m)

    def splat(self, view: View) -> None:
        """What a step renders of a view."""
        P = self.P.detach().requires_grad_()
        rendered = splat_view(self.model, self.config, P, view, None).rendered
        (rendered.logits.square().mean() + rendered.depth.mean() + rendered.alpha.mean()).backward()

    @property
    def whole_images(self) -> View:
        """The view with every pixel of the cameras that take part."""
        chosen, cameras = torch.nonzero(self.view.chosen).squeeze(1), self.view.cameras
        part = Cameras(cameras.viewmats[chosen], cameras.Ks[chosen], cameras.width, cameras.height)
        every = Pixels.centers(part)
        labels = dataclasses.replace(self.labels, camera=chosen[every.camera], uv=every.uv)
        return View(labels, torch.arange(len(every), device=chosen.device), cameras, self.view.chosen)


def _by_references(call, *arguments):
    with references():
        return call(*arguments)
