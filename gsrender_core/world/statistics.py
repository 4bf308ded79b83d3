"""What a data set with Occ3D ground truth is made of: class shares, occlusion, agreement of LiDAR and voxels.

python -m gsrender_core.world.statistics DATA
"""

import sys
from pathlib import Path

import numpy as np

from gsrender_core.classes import CLASS_NAMES, FREE, IGNORE, NUM_CLASSES, lidarseg_lookup
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.geometry import apply, inverse
from gsrender_core.voxel_grid import VoxelGrid

GRID = VoxelGrid()


def statistics(dataset: NuScenes) -> dict:
    """Shares over all samples with ground truth.

    Returns:
        ``seen_share`` and ``whole_share`` {class: share of the occupied voxels, inside ``mask_camera`` and
        overall}; ``occupied_of_seen``; ``lidar_agreement``: share of LiDAR points in a voxel of their own
        class; ``unseen_of_occupied``: share of occupied voxels outside ``mask_camera``;
        ``unseen_seen_next``: share of those that the next keyframe's cameras see; ``samples``.

    Raises:
        ValueError: no sample has ground truth.
    """
    seen, whole = np.zeros(FREE + 1), np.zeros(FREE + 1)
    agree = points = unseen = revealed = revealable = samples = 0
    table = lidarseg_lookup()
    for i in range(len(dataset)):
        truth = dataset.ground_truth(i)
        if truth is None:
            continue
        samples += 1
        semantics, in_view = truth.semantics, truth.mask_camera > 0
        seen += np.bincount(semantics[in_view], minlength=FREE + 1)
        whole += np.bincount(semantics.ravel(), minlength=FREE + 1)
        sweep, raw, T_ego_lidar = dataset.lidar(i)
        if raw is not None:
            index, inside = GRID.index_of(apply(T_ego_lidar, sweep[:, :3].astype(np.float64)))
            labels = table[raw]
            counted = inside & (labels != IGNORE)
            agree += int((semantics[tuple(index[counted].T)] == labels[counted]).sum())
            points += int(counted.sum())
        hidden = np.argwhere((semantics != FREE) & ~in_view)
        unseen += len(hidden)
        j = dataset.adjacent(i, 1)
        if j is None or (later := dataset.ground_truth(j)) is None:
            continue
        here, there = (dataset.frame(k, labels=False).T_global_ego for k in (i, j))
        centers = np.array(GRID.min_m) + (hidden + 0.5) * GRID.voxel_size_m
        index, inside = GRID.index_of(apply(inverse(there) @ here, centers))
        revealed += int((later.mask_camera[tuple(index[inside].T)] > 0).sum())
        revealable += len(hidden)
    if samples == 0:
        raise ValueError(f"{dataset.root} has no ground truth (gts/)")

    def shares(counts: np.ndarray) -> dict[str, float]:
        occupied = counts[:NUM_CLASSES]
        return dict(zip(CLASS_NAMES, (occupied / occupied.sum()).tolist(), strict=True))

    return {
        "samples": samples,
        "seen_share": shares(seen),
        "whole_share": shares(whole),
        "occupied_of_seen": float(1 - seen[FREE] / seen.sum()),
        "lidar_agreement": agree / max(points, 1),
        "unseen_of_occupied": unseen / whole[:NUM_CLASSES].sum(),
        "unseen_seen_next": revealed / max(revealable, 1),
    }


def main() -> int:
    """Print the statistics of a data set as Markdown."""
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    result = statistics(NuScenes(Path(sys.argv[1])))
    print("| class | share of occupied, seen | whole scene |\n|---|---|---|")
    for name in CLASS_NAMES:
        print(f"| {name} | {100 * result['seen_share'][name]:.2f} % | {100 * result['whole_share'][name]:.2f} % |")
    for key, value in result.items():
        if not isinstance(value, dict):
            print(f"\n{key}: {value if isinstance(value, int) else round(value, 4)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
