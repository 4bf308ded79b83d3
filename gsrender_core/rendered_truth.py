"""What rendering makes of the ground truth: how far 2D supervision would push a perfect prediction.

Every occupied voxel of the truth becomes a Gaussian at its centre. Its rendered depth and class are compared with
the LiDAR labels of the same frame, and of an adjacent frame through Ray Compensation. Whatever error is left no
training can remove without moving away from the truth; the identity in place of the ego motion shows what a wrong
pose would cost.

    python -m gsrender_core.rendered_truth --data DATA [--frames N] [--json FILE]
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from gsrender_core.classes import DYNAMIC_IDS, FREE, NUM_CLASSES
from gsrender_core.data.frame import Frame
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.gaussians import Gaussians
from gsrender_core.geometry import apply, inverse
from gsrender_core.ray_compensation import compensate_features, compensate_gaussians
from gsrender_core.render import Cameras, Pixels, render_pixels
from gsrender_core.voxel_grid import VoxelGrid

SCALES_M = (0.05, 0.1, 0.15, 0.2, 0.3)
OPACITIES = (0.5, 0.95)
LOGIT = 5.0  # of a voxel's own class; the others are 0
MIN_SAMPLED = 0.3  # features level: voxels with less occupancy left after interpolation are called empty


def truth_gaussians(semantics: np.ndarray, grid: VoxelGrid, scale_m: float, opacity: float) -> Gaussians:
    """One isotropic Gaussian at the centre of every occupied voxel of uint8 [X, Y, Z]."""
    label = torch.from_numpy(semantics.reshape(-1).astype(np.int64))
    occupied = label != FREE
    centers = torch.from_numpy(grid.centers_ego()).view(-1, 3)[occupied]
    n = len(centers)
    logits = LOGIT * F.one_hot(label[occupied], NUM_CLASSES).float()
    return Gaussians(centers, torch.full((n, 3), scale_m), torch.full((n,), opacity), logits)


def sampled_truth(semantics: np.ndarray, grid: VoxelGrid, T_curr_adj: np.ndarray, like: Gaussians) -> Gaussians:
    """The truth as the features level of Ray Compensation sees it from an adjacent frame: interpolated, then read."""
    label = torch.from_numpy(semantics.reshape(-1).astype(np.int64))
    occupied = (label != FREE).float()[:, None]
    one_hot = F.one_hot(label.clamp(max=NUM_CLASSES - 1), NUM_CLASSES) * occupied
    P = torch.cat((occupied, LOGIT * one_hot), 1).view(*grid.shape, -1).permute(3, 0, 1, 2)
    centers = torch.from_numpy(grid.centers_ego()).view(-1, 3)
    sampled, inside = compensate_features(P, centers, torch.from_numpy(T_curr_adj).float(), grid)
    keep = (sampled[:, 0] > MIN_SAMPLED) & inside
    scale, opacity = float(like.scales[0, 0]), float(like.opacities[0])
    n = int(keep.sum())
    return Gaussians(centers[keep], torch.full((n, 3), scale), sampled[keep, 0] * opacity, sampled[keep, 1:])


def compare(
    gaussians: Gaussians, frame: Frame, grid: VoxelGrid, T_curr_frame: np.ndarray | None = None
) -> dict[str, float]:
    """Rendered depth and class against the frame's labels of static classes inside the volume.

    Depth is what the loss compares: alpha-blended, not divided by alpha.

    Args:
        gaussians: in the frame's ego.
        frame: cameras and labels.
        grid: the volume of the frame.
        T_curr_frame: [4, 4], of an adjacent frame: labels must then lie in the current frame's volume as well.

    Returns:
        ``depth_error`` (median) and ``depth_error_mean``, both relative; ``accuracy`` of the class; ``covered``: the
        share of the labels where the rendered alpha exceeds a half, to which the other figures refer.
    """
    labels, width, height = frame.labels, *frame.image_size
    rays = np.linalg.inv(frame.Ks)[labels.camera] @ np.append(labels.uv, np.ones((len(labels), 1)), 1)[..., None]
    at_camera = rays[..., 0] * labels.depth_m[:, None]
    T = frame.T_ego_cam[labels.camera]
    points = (T[:, :3, :3] @ at_camera[..., None])[..., 0] + T[:, :3, 3]
    _, inside = grid.index_of(points)
    if T_curr_frame is not None:
        inside &= grid.index_of(apply(T_curr_frame, points))[1]
    static = ~np.isin(labels.class_id, [*DYNAMIC_IDS]) & (labels.class_id < NUM_CLASSES)
    labels = labels.select(inside & static)
    viewmats = torch.from_numpy(inverse(frame.T_ego_cam)).float()
    cameras = Cameras(viewmats, torch.from_numpy(frame.Ks).float(), width, height)
    pixels = Pixels(torch.from_numpy(labels.camera), torch.from_numpy(labels.uv))
    rendered = render_pixels(gaussians, cameras, pixels)
    covered = rendered.alpha > 0.5
    depth, truth = rendered.depth[covered], torch.from_numpy(labels.depth_m)[covered]
    error = (depth - truth).abs() / truth
    right = rendered.logits.argmax(1)[covered] == torch.from_numpy(labels.class_id.astype(np.int64))[covered]
    return {
        "depth_error": float(error.median()),
        "depth_error_mean": float(error.mean()),
        "accuracy": float(right.float().mean()),
        "covered": float(covered.float().mean()),
    }


def rendered_truth(data: NuScenes, indices: Sequence[int], grid: VoxelGrid) -> dict[str, dict[str, float]]:
    """Mean figures of ``compare`` over frames, by what was rendered.

    Rows: every scale and opacity seen from the frame itself; then, at 0.1 m and 0.95, the next frame by Ray
    Compensation at logits and features level, and with the identity in place of the motion.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for i in indices:
        truth, frame = data.ground_truth(i), data.frame(i)
        if truth is None:
            continue
        for scale in SCALES_M:
            for opacity in OPACITIES:
                gaussians = truth_gaussians(truth.semantics, grid, scale, opacity)
                rows.setdefault(f"scale {scale} m, opacity {opacity}", []).append(compare(gaussians, frame, grid))
        j = data.adjacent(i, 1)
        if j is None:
            continue
        other = data.frame(j)
        T_curr_adj = inverse(frame.T_global_ego) @ other.T_global_ego
        gaussians = truth_gaussians(truth.semantics, grid, 0.1, 0.95)
        moved = compensate_gaussians(gaussians, torch.from_numpy(T_curr_adj).float())
        sampled = sampled_truth(truth.semantics, grid, T_curr_adj, gaussians)
        for name, seen in (("logits", moved), ("features", sampled), ("identity", gaussians)):
            rows.setdefault(f"next frame, {name}", []).append(compare(seen, other, grid, T_curr_adj))
    if not rows:
        raise ValueError(f"{data.root} has no ground truth (gts/) in the frames asked for")
    return {name: {key: float(np.mean([r[key] for r in got])) for key in got[0]} for name, got in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Render the ground truth and compare it with the LiDAR labels.")
    parser.add_argument("--data", required=True, metavar="DATA", help="nuScenes schema, with gts/")
    parser.add_argument("--frames", type=int, default=8, help="spread over the data (default 8)")
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    args = parser.parse_args()
    data = NuScenes(Path(args.data), label_options=LabelOptions(drop_occluded=True))
    indices = np.linspace(0, len(data) - 1, args.frames).round().astype(int).tolist()
    result = rendered_truth(data, indices, VoxelGrid())
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{'':28}{'depth error':>12}{'mean':>8}{'class':>8}{'covered':>9}")
    for name, row in result.items():
        print(f"{name:28}" + f"{row['depth_error']:12.3f}{row['depth_error_mean']:8.3f}{row['accuracy']:8.3f}"
              f"{row['covered']:9.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
