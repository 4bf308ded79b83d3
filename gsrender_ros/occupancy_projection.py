"""Semantic occupancy seen from above as ``nav_msgs/OccupancyGrid``, for costmaps (Nav2's static layer).

A column of voxels becomes one cell. Only voxels whose centres lie in the height band count: what is higher than the
vehicle does not stop it, what is lower carries it.

- **occupied (100)**: a voxel in the band that is not drivable; or the column's ground (flat classes, anywhere from the
  bottom of the grid to the top of the band) is of classes that are not drivable only, such as a sidewalk.
- **free (0)**: otherwise, where the column holds a drivable voxel up to the top of the band. Drivable voxels in the
  band are ground as well: a road that climbs is no obstacle.
- **unknown (-1)**: otherwise. The network has no ground there, because no camera sees it (beyond the images, behind
  things) or because it believes in none; a planner must not take nothing for free.

Whether a voxel was *seen* is not in the prediction: "free" means that the network predicts ground there.
"""

import array
from dataclasses import dataclass

import numba
import numpy as np
from nav_msgs.msg import OccupancyGrid as OccupancyMap

from gsrender_core.classes import CLASS_NAMES, FLAT_IDS, FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.image_conversions import set_stamp

OCCUPIED, CLEAR, UNKNOWN = 100, 0, -1
_OBSTACLE, _DRIVABLE, _GROUND = (np.uint8(1 << bit) for bit in range(3))


@dataclass(frozen=True)
class MapBand:
    """What a map is made of.

    Attributes:
        min_z_m, max_z_m: height band in the ego frame, metres; voxels count whose centres lie in it.
        drivable: names of the classes that a vehicle may stand on.
    """

    min_z_m: float
    max_z_m: float
    drivable: tuple[str, ...]

    def __post_init__(self):
        if self.min_z_m >= self.max_z_m:
            raise ValueError(f"map.min_z_m is {self.min_z_m:g}, must be below map.max_z_m, {self.max_z_m:g}")
        unknown = [name for name in self.drivable if name not in CLASS_NAMES]
        if unknown or not self.drivable:
            raise ValueError(
                f"map.drivable_classes must name classes, got {list(self.drivable)}; known: {', '.join(CLASS_NAMES)}"
            )

    def layers(self, grid: VoxelGrid) -> slice:
        """Voxel layers in the band; empty where it misses the grid."""
        z = grid.axis_centers()[2]
        inside = np.flatnonzero((z >= self.min_z_m) & (z <= self.max_z_m))
        return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0)


def cells_of_map(semantics: np.ndarray, grid: VoxelGrid, band: MapBand) -> np.ndarray:
    """Cells int8 [X, Y]: 100 occupied, 0 free, -1 unknown, of semantics uint8 [X, Y, Z]."""
    layers = band.layers(grid)
    bits = _bits_by_class(band.drivable)
    return _project(np.ascontiguousarray(semantics), bits, layers.start, layers.stop)


def cells_of_map_slowly(semantics: np.ndarray, grid: VoxelGrid, band: MapBand) -> np.ndarray:
    """What ``cells_of_map`` gives, one condition after the other over whole arrays; its reference."""
    layers = band.layers(grid)
    drivable = [CLASS_NAMES.index(name) for name in band.drivable]
    column, inside = semantics[:, :, : layers.stop], semantics[:, :, layers]
    cells = np.full(semantics.shape[:2], UNKNOWN, np.int8)
    cells[np.isin(column, list(FLAT_IDS)).any(axis=2)] = OCCUPIED
    cells[np.isin(column, drivable).any(axis=2)] = CLEAR
    cells[((inside != FREE) & ~np.isin(inside, drivable)).any(axis=2)] = OCCUPIED
    return cells


@numba.njit(nogil=True, cache=True)
def _project(semantics, bits_of_class, band_begin, band_end):
    cells = np.empty(semantics.shape[:2], np.int8)
    for i in range(semantics.shape[0]):
        for j in range(semantics.shape[1]):
            column, inside = np.uint8(0), np.uint8(0)
            for k in range(band_end):
                bits = bits_of_class[semantics[i, j, k]]
                column |= bits
                if k >= band_begin:
                    inside |= bits
            if inside & _OBSTACLE:
                cells[i, j] = OCCUPIED
            elif column & _DRIVABLE:
                cells[i, j] = CLEAR
            else:
                cells[i, j] = OCCUPIED if column & _GROUND else UNKNOWN
    return cells


def _bits_by_class(drivable: tuple[str, ...]) -> np.ndarray:
    """What a class is to the map, uint8 [18]."""
    bits = np.zeros(FREE + 1, np.uint8)
    bits[:FREE] = _OBSTACLE
    bits[[CLASS_NAMES.index(name) for name in drivable]] = _DRIVABLE
    bits[list(FLAT_IDS)] |= _GROUND
    return bits


def map_from_occupancy(occupancy: OccupancyGrid, frame_id: str, band: MapBand) -> OccupancyMap:
    """``nav_msgs/OccupancyGrid`` in the ego frame at the grid's stamp: row-major, x fastest, as REP-103's axes.

    ``info.origin`` is the corner (least x, least y) of cell (0, 0), at z = 0, not rotated.
    """
    grid = occupancy.grid
    cells = cells_of_map(occupancy.semantics, grid, band)
    message = OccupancyMap()
    set_stamp(message.header.stamp, occupancy.stamp_ns)
    message.header.frame_id = frame_id
    set_stamp(message.info.map_load_time, occupancy.stamp_ns)
    message.info.resolution = float(grid.voxel_size_m)
    message.info.width, message.info.height = grid.shape[0], grid.shape[1]
    message.info.origin.position.x, message.info.origin.position.y = (float(low) for low in grid.min_m[:2])
    message.info.origin.orientation.w = 1.0
    message.data = array.array("b", np.ascontiguousarray(cells.T).tobytes())  # rows along y, x fastest
    return message
