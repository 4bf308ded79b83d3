"""Statistics of a network's Gaussians (the paper's Fig. 7, 8 and 10): offsets, scales, opacities, and pictures."""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from gsrender_core.data.frame import Frame, previous_frames
from gsrender_core.geometry import apply
from gsrender_core.histogram import Histogram
from gsrender_core.metrics.miou import without_nan
from gsrender_core.model.gaussian_head import GaussianHead
from gsrender_core.model.gsrender import CameraInput, GSRender
from gsrender_core.pictures.gaussian_views import filtered_picture, offsets_picture, scales_picture
from gsrender_core.predict_folder import write_png
from gsrender_core.voxel_grid import VoxelGrid

logger = logging.getLogger(__name__)

AXES = ("x", "y", "z")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_ROWS = 1 << 14  # voxels a chunk of the head
_BINS = 20_000  # so many that diagrams with bins of another width show no beat


@torch.inference_mode()
def voxel_features(model: GSRender, dataset, i: int) -> torch.Tensor:
    """Voxel features P float32 [F, X, Y, Z] of frame ``i`` of a data set, read at the network's image size."""
    previous = previous_frames(dataset, i, model.config.view.frames_before)
    cameras = CameraInput.from_frames([dataset.frame(i, labels=False)], model.centers.device, [previous])
    return model(cameras)[0].float()


@torch.inference_mode()
def gaussian_arrays(model: GSRender, P: torch.Tensor) -> dict[str, np.ndarray]:
    """What the head says of every voxel, in the grid's flattened order, float32.

    Returns:
        ``opacity`` [V] and ``label`` uint8 [V]; of a Gaussian head ``means`` [V, 3] (m), ``offset`` [V, 3] of the mean
        from its voxel's centre in voxels, ``scale`` [V, 3] (m).
    """
    rows = P.permute(1, 2, 3, 0).reshape(-1, P.shape[0])
    parts: dict[str, list[torch.Tensor]] = {}
    gaussian = isinstance(model.head, GaussianHead)
    for chunk, centers in zip(rows.split(_ROWS), model.centers.split(_ROWS), strict=True):
        if gaussian:
            g = model.head(chunk, centers)
            offset = (g.means - centers) / model.config.grid.voxel_size_m
            values = {"opacity": g.opacities, "means": g.means, "offset": offset, "scale": g.scales}
            values["label"] = g.logits.argmax(-1).to(torch.uint8)
        else:
            opacity, logits = model.head.opacity_and_logits(chunk)
            values = {"opacity": torch.sigmoid(opacity), "label": logits.argmax(-1).to(torch.uint8)}
        for name, value in values.items():
            parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(value).numpy() for name, value in parts.items()}


def hit_voxels(frame: Frame, grid: VoxelGrid) -> np.ndarray:
    """Flat indices int64 [N] of the voxels that hold a labelled LiDAR point of the frame, each once."""
    labels = frame.labels
    pixels = np.concatenate([labels.uv, np.ones((len(labels), 1))], axis=1)
    points = np.empty((len(labels), 3))
    for c in range(len(frame.Ks)):
        mine = labels.camera == c
        at_camera = pixels[mine] @ np.linalg.inv(frame.Ks[c]).T * labels.depth_m[mine, None]
        points[mine] = apply(frame.T_ego_cam[c], at_camera)
    index, inside = grid.index_of(points)
    return np.unique(np.ravel_multi_index(tuple(index[inside].T), grid.shape))


class Group:
    """Offsets and scales of one set of Gaussians, accumulated over frames; ``count`` of them."""

    def __init__(self, reach_voxels: float, max_scale_m: float):
        self.count = self.beyond = 0
        self.offset = [Histogram(-reach_voxels, reach_voxels, _BINS) for _ in AXES]
        self.scale = [Histogram(0.0, max_scale_m, _BINS) for _ in AXES]

    def update(self, offset: np.ndarray, scale: np.ndarray) -> None:
        """Add Gaussians: offsets [N, 3] in voxels, scales [N, 3] in metres."""
        self.count += len(offset)
        self.beyond += int((np.abs(offset) > 0.5).any(axis=1).sum())
        for axis in range(3):
            self.offset[axis].add(offset[:, axis])
            self.scale[axis].add(scale[:, axis])

    def result(self) -> dict:
        """Mean, spread and quantiles an axis, shares beyond half a voxel; NaN of no Gaussians."""
        offset = {name: h.result(QUANTILES) for name, h in zip(AXES, self.offset, strict=True)}
        for name, h in zip(AXES, self.offset, strict=True):
            offset[name]["beyond_half"] = h.share_beyond(0.5)
        offset["beyond_half_any_axis"] = self.beyond / self.count if self.count else float("nan")
        scale = {name: h.result(QUANTILES) for name, h in zip(AXES, self.scale, strict=True)}
        return {"count": self.count, "offset_voxels": offset, "scale_m": scale}


class GaussianStatistics:
    """Accumulates what Fig. 7 and 10 of the paper show, over any number of frames.

    ``groups``: ``all`` Gaussians, the ``occupied`` ones (opacity of tau or more), and those at voxels with a
    ``lidar_hits``. A NeRF head has opacities only.
    """

    def __init__(self, config):
        reach, head = max(config.head.max_offset_m / config.grid.voxel_size_m, 0.5), config.head
        self.gaussian = head.kind == "gaussian"
        self.opacity = Histogram(0.0, 1.0, _BINS)
        names = ("all", "occupied", "lidar_hits") if self.gaussian else ()
        self.groups = {name: Group(reach * 1.001, head.max_scale_m * 1.001) for name in names}
        self.frames = self.occupied = 0

    def update(self, model: GSRender, P: torch.Tensor, tau: float, hits: np.ndarray | None = None) -> dict:
        """Add a frame by its voxel features; ``hits`` as ``hit_voxels``. Returns ``gaussian_arrays`` of it."""
        arrays = gaussian_arrays(model, P)
        opacity = arrays["opacity"]
        self.frames += 1
        self.opacity.add(opacity)
        self.occupied += int((opacity >= tau).sum())
        if self.gaussian:
            chosen = {"all": slice(None), "occupied": opacity >= tau}
            if hits is not None:
                chosen["lidar_hits"] = hits
            for name, index in chosen.items():
                self.groups[name].update(arrays["offset"][index], arrays["scale"][index])
        return arrays

    def result(self) -> dict:
        """Everything as nested plain values: opacities, their histogram of 100 bins, every group that was filled."""
        edges, counts = self.opacity.coarse(100)
        return {
            "frames": self.frames,
            "occupied_share": self.occupied / self.opacity.count if self.opacity.count else float("nan"),
            "opacity": self.opacity.result(QUANTILES),
            "opacity_histogram": {"edges": edges.round(6).tolist(), "counts": counts.tolist()},
            "groups": {name: group.result() for name, group in self.groups.items() if group.count},
        }

    def summary(self) -> dict[str, float]:
        """The few figures of a running training.

        ``occupied_share``; ``opacity_<percent>`` quantiles of all; of the occupied Gaussians
        ``offset_mean_<axis>``, ``offset_spread_<axis>`` (voxels), ``offset_over_half_<axis>``, ``offset_over_half``
        on any axis, and ``scale_<axis>`` (median, m). NaN where there is nothing.
        """
        share = self.occupied / self.opacity.count if self.opacity.count else float("nan")
        figures = {"occupied_share": share}
        for q in (0.1, 0.5, 0.9, 0.99):
            figures[f"opacity_{round(100 * q)}"] = self.opacity.quantile(q)
        if self.gaussian:
            group = self.groups["occupied"]
            for name, offset, scale in zip(AXES, group.offset, group.scale, strict=True):
                figures[f"offset_mean_{name}"], figures[f"offset_spread_{name}"] = offset.mean, offset.std
                figures[f"offset_over_half_{name}"] = offset.share_beyond(0.5)
                figures[f"scale_{name}"] = scale.quantile(0.5)
            figures["offset_over_half"] = group.beyond / group.count if group.count else float("nan")
        return {name: round(value, 5) for name, value in figures.items()}


def write_statistics(
    model: GSRender,
    dataset,
    out: Path,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Statistics of a checkpoint over a data set, with pictures.

    Writes ``statistics.json``, ``offsets.png`` (Fig. 7), ``scales.png`` (Fig. 10, and opacities), and of the first
    frame ``filtered.png`` (Fig. 8).

    Args:
        model: in eval mode, with a Gaussian head; its ``tau`` says what is occupied.
        dataset: as ``data.nuscenes.NuScenes``, read at the network's image size.
        out: folder, made if missing.
        limit: that many frames, spread evenly; default all.
        progress: called with (done, total).

    Returns:
        what ``statistics.json`` holds.

    Raises:
        ValueError: a limit below 1, no frames, or a head without Gaussians.
    """
    if not isinstance(model.head, GaussianHead):
        raise ValueError(
            "the checkpoint's head has no Gaussians (model.head.kind is not gaussian): nothing to count offsets and "
            "scales of"
        )
    indices = spread(len(dataset), limit)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    statistics, tau, grid = GaussianStatistics(model.config), model.config.tau, model.config.grid
    for done, i in enumerate(indices, 1):
        frame = dataset.frame(i)
        hits = hit_voxels(frame, grid) if frame.labels is not None and len(frame.labels) else None
        arrays = statistics.update(model, voxel_features(model, dataset, i), tau, hits)
        if done == 1:
            picture = filtered_picture(frame, dataset.ground_truth(i), arrays, tau, grid)
            write_png(out / "filtered.png", picture[:, :, ::-1])
        if progress:
            progress(done, len(indices))
    result = {"tau": tau, "voxel_size_m": grid.voxel_size_m, "gaussians_a_frame": grid.size, **statistics.result()}
    (out / "statistics.json").write_text(json.dumps(without_nan(result), indent=2, allow_nan=False) + "\n")
    filled = {name: group for name, group in statistics.groups.items() if group.count}
    offsets = offsets_picture({name: group.offset for name, group in filled.items()})
    scales = scales_picture({name: group.scale for name, group in filled.items()}, statistics.opacity, tau)
    write_png(out / "offsets.png", offsets[:, :, ::-1])
    write_png(out / "scales.png", scales[:, :, ::-1])
    return result


def spread(count: int, limit: int | None) -> Sequence[int]:
    """``limit`` of ``count`` indices at equal distances; all of them without a limit.

    Raises:
        ValueError: a limit below 1, or nothing to choose from.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be 1 or more, or left out for all frames")
    if count < 1:
        raise ValueError("the data has no frames; check --data and --scenes")
    kept = count if limit is None else min(limit, count)
    return [n * count // kept for n in range(kept)]
