"""Voxels drawn as cubes: every pixel's ray walks the grid to the first occupied voxel, whose face is shaded."""

import math
from dataclasses import dataclass

import cv2
import numba
import numpy as np

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.numba_threads import numba_threads
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_walk import MISS, enter_box, first_voxel

BACKGROUND = (247, 248, 250)  # RGB
SIGNAL = (232, 0, 190)  # RGB of marked voxels: brighter than the classes of a near hue
FLOOR = (229, 232, 236)  # underside of the volume, where no voxel hides it
SUPERSAMPLING = 2
# A car around the ego frame's origin, which lies on the ground below the rear axle: body and cabin,
# (low x, y, z, high x, y, z) in metres.
EGO_CAR = np.array([[-1.0, -0.95, 0.25, 3.6, 0.95, 0.95], [-0.7, -0.8, 0.95, 2.2, 0.8, 1.6]])
CAR_COLOR = (250, 250, 252)

# Brightness of a face by its normal, as under a sun high behind the left shoulder.
_TOP, _BOTTOM, _ALONG_X, _ALONG_Y = 1.0, 0.5, 0.8, 0.67
_EDGE_WIDTH, _EDGE_DARKENING = 0.045, 0.24  # of a cube's side; share of light lost
_OCCLUSION = 0.5  # share of light lost in a corner between three cubes
_FADE_FROM_M, _FADE_TO_M, _FADE = 45.0, 130.0, 0.5
_PALENESS = 0.65  # share of the background in a pale colour


@dataclass(frozen=True)
class View:
    """A virtual camera in the ego frame.

    Attributes:
        eye_m: position (x, y, z).
        target_m: point in the picture's centre.
        size: width and height in pixels.
        fov_deg: horizontal field of view of a perspective view, or None for a parallel one.
        span_m: width of what a parallel view shows, metres.
    """

    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    size: tuple[int, int]
    fov_deg: float | None = None
    span_m: float = 80.0

    def __post_init__(self):
        if min(self.size) < 1 or self.span_m <= 0 or (self.fov_deg is not None and not 0 < self.fov_deg < 180):
            raise ValueError(f"a view needs a positive size and span and a field of view below 180 deg, got {self}")
        if np.allclose(self.eye_m, self.target_m):
            raise ValueError(f"a view's eye and target coincide at {self.eye_m}")

    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors right, down and forward of the picture, float64 [3], ego frame."""
        forward = np.subtract(self.target_m, self.eye_m)
        forward = forward / np.linalg.norm(forward)
        # Straight down, "up" in the picture is the car's forward.
        up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
        right = np.cross(forward, up)
        right /= np.linalg.norm(right)
        return right, np.cross(forward, right), forward

    @property
    def focal_px(self) -> float:
        """Focal length of a perspective view; of a parallel one, pixels a metre."""
        half = self.span_m / 2 if self.fov_deg is None else math.tan(math.radians(self.fov_deg) / 2)
        return self.size[0] / 2 / half

    def project(self, points_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (u, v) [N, 2] and depth along the view [N] m of points [N, 3]; (0.5, 0.5) is the first pixel's centre.

        Points with depth <= 0 lie behind the eye; their pixels mean nothing.
        """
        at_camera = (np.asarray(points_ego, dtype=np.float64) - self.eye_m) @ np.stack(self.axes(), axis=1)
        depth = at_camera[:, 2]
        scale = self.focal_px / (np.where(depth > 0, depth, 1.0) if self.fov_deg is not None else np.ones_like(depth))
        return at_camera[:, :2] * scale[:, None] + np.array(self.size) / 2, depth

    def rays(self, factor: int) -> np.ndarray:
        """Affine rays float64 [6, 3], metres, for a picture ``factor`` times larger.

        A pixel (u, v) looks from ``rays[0] + u rays[1] + v rays[2]`` along ``rays[3] + u rays[4] + v rays[5]``,
        a direction whose length along the view is 1, so that ray parameters are depths.
        """
        right, down, forward = self.axes()
        step = 1.0 / (self.focal_px * factor)
        corner = -(right * self.size[0] + down * self.size[1]) * factor / 2 * step
        eye, zero = np.array(self.eye_m, dtype=np.float64), np.zeros(3)
        if self.fov_deg is None:
            return np.stack([eye + corner, right * step, down * step, forward, zero, zero])
        return np.stack([eye, zero, zero, forward + corner, right * step, down * step])


# Behind and above the car, looking along the street.
THIRD_PERSON = View((-42.0, 0.0, 30.0), (3.0, 0.0, -4.0), (816, 470), fov_deg=62.0)
BIRDS_EYE = View((0.0, 0.0, 100.0), (0.0, 0.0, 0.0), (440, 440), span_m=80.0)


def render_voxels(
    semantics: np.ndarray,
    grid: VoxelGrid,
    view: View,
    car: bool = True,
    pale: np.ndarray | None = None,
    marked: np.ndarray | None = None,
) -> np.ndarray:
    """Draw occupied voxels as cubes in their class colours.

    Args:
        semantics: uint8 [X, Y, Z], class ids, ``FREE`` where nothing is.
        grid: the volume.
        view: from where.
        car: also draw the own vehicle at the origin.
        pale: bool [X, Y, Z], voxels to draw in pale colours.
        marked: bool [X, Y, Z], occupied voxels to draw in the signal colour, whatever their class.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        ValueError: semantics of another shape, type or with unknown ids.
    """
    if semantics.dtype != np.uint8 or semantics.shape != tuple(grid.shape):
        raise ValueError(f"semantics must be uint8 {tuple(grid.shape)}, got {semantics.dtype} {semantics.shape}")
    if int(semantics.max()) > FREE:
        raise ValueError(f"semantics hold class id {int(semantics.max())}; ids are 0..{FREE - 1}, and {FREE} for free")
    layers = np.flatnonzero((semantics != FREE).any(axis=(0, 1)))
    occupied_z = (float(layers[0]), float(layers[-1] + 1)) if len(layers) else (0.0, 0.0)
    geometry = np.array([*grid.min_m, grid.voxel_size_m, *occupied_z, 1.0 / (view.focal_px * SUPERSAMPLING),
                         view.fov_deg is not None])  # fmt: skip
    # A pale voxel is its class's id behind FREE.
    pale_colors = (1 - _PALENESS) * CLASS_COLORS + _PALENESS * np.array(BACKGROUND)
    palette = np.concatenate([CLASS_COLORS, [BACKGROUND], pale_colors, [SIGNAL, CAR_COLOR, FLOOR, BACKGROUND]])
    if pale is not None:
        semantics = np.where(pale & (semantics != FREE), semantics + np.uint8(FREE + 1), semantics)
    if marked is not None:
        semantics = np.where(marked & (semantics != FREE), np.uint8(2 * FREE + 1), semantics)
    width, height = (n * SUPERSAMPLING for n in view.size)
    image = np.empty((height, width, 3), dtype=np.uint8)
    boxes = EGO_CAR if car else EGO_CAR[:0]
    with numba_threads():
        _draw(
            np.ascontiguousarray(semantics),
            view.rays(SUPERSAMPLING),
            geometry,
            boxes,
            palette.astype(np.float32),
            image,
        )
    return cv2.resize(image, view.size, interpolation=cv2.INTER_AREA)


@numba.njit(cache=True)
def _blocked(semantics, cell, axis, step, side_a, side_b):
    """Whether the cube at a face's front, moved sideways along the two other axes, is occupied: 0 or 1."""
    x, y, z = int(cell[0]), int(cell[1]), int(cell[2])
    if axis == 0:
        x, y, z = x + step, y + side_a, z + side_b
    elif axis == 1:
        x, y, z = x + side_b, y + step, z + side_a
    else:
        x, y, z = x + side_a, y + side_b, z + step
    X, Y, Z = semantics.shape
    return 1 if 0 <= x < X and 0 <= y < Y and 0 <= z < Z and semantics[x, y, z] != FREE else 0


@numba.njit(cache=True)
def _openness(semantics, cell, axis, step, fraction):
    """Light that reaches a point of a face, 0..1: from the eight cubes around the one in front of it.

    ``fraction`` [3] is the point within its cube; ``step`` +1 or -1, where the face looks.
    """
    fa, fb = fraction[(axis + 1) % 3], fraction[(axis + 2) % 3]
    total = 0.0
    for side_a in (-1, 1):
        for side_b in (-1, 1):
            beside_a = _blocked(semantics, cell, axis, step, side_a, 0)
            beside_b = _blocked(semantics, cell, axis, step, 0, side_b)
            count = beside_a + beside_b + _blocked(semantics, cell, axis, step, side_a, side_b)
            if beside_a + beside_b == 2:
                count = 3
            weight = (fa if side_a > 0 else 1 - fa) * (fb if side_b > 0 else 1 - fb)
            total += weight * (1 - count / 3)
    return total


@numba.njit(cache=True)
def _face_light(axis, direction):
    if axis == 2:
        return _TOP if direction[2] < 0 else _BOTTOM
    return _ALONG_X if axis == 0 else _ALONG_Y


@numba.njit(parallel=True, cache=True, error_model="numpy")
def _draw(semantics, rays, geometry, boxes, palette, image):
    """Fill ``image``. ``geometry``: low corner and voxel size (m), occupied layers, pixel at 1 m (m), perspective?"""
    size, pixel, perspective = geometry[3], geometry[6], geometry[7] > 0
    car_color, floor, background = len(palette) - 3, len(palette) - 2, len(palette) - 1
    for row in numba.prange(image.shape[0]):
        # One piece of scratch memory a row: allocating for every pixel costs more than the walk.
        walk, fraction, low, high = np.zeros((3, 3)), np.empty(3), np.zeros(3), np.empty(3)
        origin, direction, in_grid, along = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
        high[0], high[1] = semantics.shape[0], semantics.shape[1]
        for column in range(image.shape[1]):
            u, v = column + 0.5, row + 0.5
            for a in range(3):
                origin[a] = rays[0, a] + u * rays[1, a] + v * rays[2, a]
                direction[a] = rays[3, a] + u * rays[4, a] + v * rays[5, a]
                in_grid[a], along[a] = (origin[a] - geometry[a]) / size, direction[a] / size
            low[2], high[2] = geometry[4], geometry[5]
            depth, axis = first_voxel(semantics, in_grid, along, low, high, walk)
            color, light = background, 1.0
            if depth < MISS:
                color = semantics[int(walk[0, 0]), int(walk[0, 1]), int(walk[0, 2])]
                for a in range(3):
                    fraction[a] = min(max(in_grid[a] + depth * along[a] - walk[0, a], 0.0), 1.0)
                light = _face_light(axis, direction)
                step = -1 if direction[axis] > 0 else 1
                light *= 1 - _OCCLUSION * (1 - _openness(semantics, walk[0], axis, step, fraction))
                footprint = pixel * (depth if perspective else 1.0) / size  # of a pixel, in cubes
                border = 1.0
                for a in range(3):
                    if a != axis:
                        border = min(border, min(fraction[a], 1 - fraction[a]))
                if border < max(_EDGE_WIDTH, 0.7 * footprint):
                    light *= 1 - _EDGE_DARKENING * min(max(1.3 - 2.5 * footprint, 0.0), 1.0)
            else:
                low[2], high[2] = -0.001, 0.0
                if enter_box(in_grid, along, low, high)[0] < MISS:
                    color = floor
            for n in range(len(boxes)):
                t, face = enter_box(origin, direction, boxes[n, :3], boxes[n, 3:])
                if t < depth:
                    depth, color = t, car_color
                    light = 0.35 + 0.65 * _face_light(face, direction)
                    for a in range(3):
                        at = origin[a] + t * direction[a]
                        if a != face and min(at - boxes[n, a], boxes[n, 3 + a] - at) < 0.09:
                            light = 0.25
            haze = 0.0
            if perspective and depth < MISS:
                haze = _FADE * min(max((depth - _FADE_FROM_M) / (_FADE_TO_M - _FADE_FROM_M), 0.0), 1.0)
            for c in range(3):
                shade = (1 - haze) * light * palette[color, c] + haze * palette[background, c]
                image[row, column, c] = np.uint8(min(max(shade + 0.5, 0.0), 255.0))
