"""The voxel volume in the ego frame and the result type that lives on it."""

from dataclasses import dataclass, field

import numpy as np

from gsrender_core.classes import CLASSES, FREE


@dataclass(frozen=True)
class VoxelGrid:
    """An axis-aligned box of cubic voxels in the ego frame (x forward, y left, z up, metres).

    Arrays over the grid are indexed [x, y, z]; the centre of voxel (i, j, k) is
    ``min_m + (i + 0.5, j + 0.5, k + 0.5) * voxel_size_m``. The default is Occ3D-nuScenes.
    """

    min_m: tuple[float, float, float] = (-40.0, -40.0, -1.0)
    voxel_size_m: float = 0.4
    shape: tuple[int, int, int] = (200, 200, 16)

    def __post_init__(self):
        if self.voxel_size_m <= 0 or any(n < 1 for n in self.shape):
            raise ValueError(f"a grid needs a positive voxel size and shape, got {self.voxel_size_m} m, {self.shape}")

    @property
    def max_m(self) -> tuple[float, float, float]:
        """Upper corner (x, y, z) in metres."""
        return tuple(lo + n * self.voxel_size_m for lo, n in zip(self.min_m, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def centers_ego(self) -> np.ndarray:
        """Voxel centres in the ego frame, float32 [X, Y, Z, 3], metres."""
        return np.stack(np.meshgrid(*self.axis_centers(), indexing="ij"), axis=-1).astype(np.float32)

    def axis_centers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of the voxel centres along x, y and z in the ego frame, float64 [X], [Y], [Z], metres."""
        x, y, z = (
            low + (np.arange(count) + 0.5) * self.voxel_size_m
            for low, count in zip(self.min_m, self.shape, strict=True)
        )
        return x, y, z

    def index_of(self, points_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Voxel indices int64 [N, 3] of ego points [N, 3] and a bool [N] that says which lie inside.

        Floor, not truncation: a point just outside the low border is outside, not in voxel 0.
        """
        index = np.floor((np.asarray(points_ego) - np.array(self.min_m)) / self.voxel_size_m).astype(np.int64)
        return index, np.all((index >= 0) & (index < np.array(self.shape)), axis=1)


@dataclass(frozen=True)
class OccupancyGrid:
    """Semantic occupancy of one moment.

    Attributes:
        semantics: uint8 [X, Y, Z], class id of each voxel, ``FREE`` (17) where nothing is.
        confidence: float32 [X, Y, Z] in [0, 1] (opacity times class probability; 0 where free), or None where the
            source has none, as ground truth.
        grid: the volume.
        stamp_ns: the moment, nanoseconds.
    """

    semantics: np.ndarray
    confidence: np.ndarray | None = None
    grid: VoxelGrid = field(default_factory=VoxelGrid)
    stamp_ns: int = 0

    def __post_init__(self):
        if self.semantics.dtype != np.uint8 or self.semantics.shape != tuple(self.grid.shape):
            raise ValueError(
                f"semantics must be uint8 {tuple(self.grid.shape)}, got {self.semantics.dtype} {self.semantics.shape}"
            )
        if self.confidence is not None and self.confidence.shape != self.semantics.shape:
            raise ValueError(f"confidence has shape {self.confidence.shape}, semantics {self.semantics.shape}")
        highest = int(self.semantics.max(initial=0))
        if highest > FREE:
            raise ValueError(f"semantics hold class id {highest}; ids are 0..{len(CLASSES) - 1} and {FREE} for free")

    def occupied(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Occupied voxels only: centres float32 [N, 3] (ego, m), labels uint8 [N], confidence float32 [N].

        Confidence is 1 where the grid carries none.
        """
        index = np.argwhere(self.semantics != FREE)
        centers = (np.array(self.grid.min_m) + (index + 0.5) * self.grid.voxel_size_m).astype(np.float32)
        at = tuple(index.T)
        labels = self.semantics[at]
        confidence = np.ones(len(index), np.float32) if self.confidence is None else self.confidence[at]
        return centers, labels, confidence.astype(np.float32)
