"""Cameras and LiDAR of the synthetic world: numba kernels that turn a moment into images and sweeps."""

from dataclasses import dataclass

import cv2
import numpy as np

from gsrender_core.geometry import transform
from gsrender_core.world import rig
from gsrender_core.world.ground import ground_height
from gsrender_core.world.noise import hash01, kernel
from gsrender_core.world.parts import SEG
from gsrender_core.world.raycast import GROUND_ID, SKY_ID, intersect, trace
from gsrender_core.world.scene import Moment
from gsrender_core.world.shading import shade, sky

CAMERA_REACH_M = 260.0
LIDAR_REACH_M = 95.0
SKY_SEG = 255  # segmentation image: nothing hit
EGO_SEG = SEG["vehicle.ego"]
LIDAR_NOISE_M = rig.LIDAR_RANGE_NOISE_M


@dataclass
class Exposure:
    """How a camera turns radiance into bytes; ``seed`` fixes its noise."""

    gain: float
    white_balance: np.ndarray  # [3]
    noise: float
    blur_px: float
    seed: int


@dataclass
class Sweep:
    """One LiDAR sweep: ``points`` float32 [N, 5] (x, y, z m in the LiDAR frame, intensity, ring)."""

    points: np.ndarray
    seg: np.ndarray  # uint8 [N], lidarseg id
    instance: np.ndarray  # int32 [N], -1 for none


@kernel
def _render(ground, solids, grid, light, K, T_global_cam, rgb, seg_image, depth):
    height, width = depth.shape
    R = T_global_cam
    ox, oy, oz = R[0, 3], R[1, 3], R[2, 3]
    above = oz - ground_height(ground, ox, oy)
    pixel_rad = 1.0 / K[0, 0]
    for v in range(height):
        cy = (v + 0.5 - K[1, 2]) / K[1, 1]
        for u in range(width):
            cx = (u + 0.5 - K[0, 2]) / K[0, 0]
            norm = 1.0 / np.sqrt(cx * cx + cy * cy + 1.0)
            dx = (R[0, 0] * cx + R[0, 1] * cy + R[0, 2]) * norm
            dy = (R[1, 0] * cx + R[1, 1] * cy + R[1, 2]) * norm
            dz = (R[2, 0] * cx + R[2, 1] * cy + R[2, 2]) * norm
            t, k = trace(ground, solids, grid, above, ox, oy, oz, dx, dy, dz, CAMERA_REACH_M)
            if k == SKY_ID:
                r, g, b = sky(light, dx, dy, dz)
                seg_image[v, u] = SKY_SEG
                depth[v, u] = 0.0
            else:
                r, g, b, seg = shade(ground, solids, grid, light, k, t, ox, oy, oz, dx, dy, dz, pixel_rad)
                seg_image[v, u] = seg
                depth[v, u] = t * norm
            rgb[v, u, 0] = r
            rgb[v, u, 1] = g
            rgb[v, u, 2] = b


@kernel
def _expose(rgb, gain, balance, out):
    """Exposure and a shoulder for highlights."""
    height, width = rgb.shape[:2]
    for v in range(height):
        for u in range(width):
            for c in range(3):
                x = max(rgb[v, u, c], 0.0) * gain * balance[c]
                out[v, u, c] = min(x / (1 + 0.25 * x), 1.2)


@kernel
def _add_noise(tone, noise, seed, out):
    """Noise that grows in the dark, and rounding to bytes."""
    height, width = tone.shape[:2]
    for v in range(height):
        for c in range(3):
            for u in range(width):
                # Sum of two uniforms: close enough to a normal deviate.
                n = hash01(u, v, c, seed) + hash01(u, v, c + 3, seed) - 1.0
                y = tone[v, u, c] + n * noise * (1.3 - min(tone[v, u, c], 1.0))
                out[v, u, c] = np.uint8(min(max(y * 255 + 0.5, 0.0), 255.0))


def render_camera(
    moment: Moment, K: np.ndarray, T_global_cam: np.ndarray, image_size: tuple[int, int], exposure: Exposure
):
    """Render one camera.

    Returns:
        image uint8 [H, W, 3] RGB, lidarseg ids uint8 [H, W] (255: sky), z-depth float32 [H, W] m (0: sky).
    """
    width, height = image_size
    rgb = np.empty((height, width, 3), np.float32)
    seg = np.empty((height, width), np.uint8)
    depth = np.empty((height, width), np.float32)
    _render(moment.ground, moment.solids, moment.grid, moment.light, K, T_global_cam, rgb, seg, depth)
    if exposure.blur_px > 0:
        rgb = cv2.GaussianBlur(rgb, (3, 3), exposure.blur_px)
    _expose(rgb, exposure.gain, exposure.white_balance, rgb)
    tone = cv2.pow(rgb, 0.4545)  # gamma; OpenCV computes several powers at once
    image = np.empty((height, width, 3), np.uint8)
    _add_noise(tone, exposure.noise, exposure.seed, image)
    return image, seg, depth


@kernel
def _sweep(ground, solids, grid, T_global_lidar, elevations, columns, ego_geometry, ego_shape, seed, sweep):
    """Fill ``sweep`` (points, seg, instance) [beams * columns]; returns how many returned."""
    points, segs, instances = sweep
    beams = elevations.shape[0]
    count = 0
    R = T_global_lidar
    ox, oy, oz = R[0, 3], R[1, 3], R[2, 3]
    above = oz - ground_height(ground, ox, oy)
    for column in range(columns):
        azimuth = -2 * np.pi * column / columns
        for ring in range(beams):
            ce = np.cos(elevations[ring])
            lx, ly, lz = ce * np.cos(azimuth), ce * np.sin(azimuth), np.sin(elevations[ring])
            dx = R[0, 0] * lx + R[0, 1] * ly + R[0, 2] * lz
            dy = R[1, 0] * lx + R[1, 1] * ly + R[1, 2] * lz
            dz = R[2, 0] * lx + R[2, 1] * ly + R[2, 2] * lz
            t, k = trace(ground, solids, grid, above, ox, oy, oz, dx, dy, dz, LIDAR_REACH_M)
            own = intersect(ego_geometry, ego_shape, 0, ox, oy, oz, dx, dy, dz)
            if own < t:
                t, k = own, -3
            if k == SKY_ID:
                continue
            a, b, c = hash01(column, ring, 0, seed), hash01(column, ring, 1, seed), hash01(column, ring, 2, seed)
            intensity = 20 * a
            instance = -1
            grazing = 1.0
            if k == GROUND_ID:
                i = min(max(int((ox + t * dx - ground.x0) / ground.res + 0.5), 0), ground.zone.shape[0] - 1)
                j = min(max(int((oy + t * dy - ground.y0) / ground.res + 0.5), 0), ground.zone.shape[1] - 1)
                seg = ground.zone_seg[ground.zone[i, j]]
                x, y = ox + t * dx, oy + t * dy
                rise = (
                    ground_height(ground, x + 0.3 * dx, y + 0.3 * dy)
                    - ground_height(ground, x - 0.3 * dx, y - 0.3 * dy)
                ) / 0.6
                grazing = max(-dz + rise, 0.0)
                intensity += 8
            elif k == -3:
                seg = EGO_SEG
            else:
                seg = solids.seg[k]
                instance = solids.instance[k]
                intensity += 15 + 80 * solids.color[k, 0]
            # Lost returns: some everywhere, more with range and at grazing incidence, nearly all beyond 70 m.
            lost = 0.02 + 0.25 * (t / 70) ** 2 + 0.5 * max(0.0, 0.06 - grazing) / 0.06
            if t > 70:
                lost = 0.93
            if c < lost:
                continue
            # Box-Muller: normal range noise.
            noisy = t + LIDAR_NOISE_M * np.sqrt(-2 * np.log(a + 1e-9)) * np.cos(2 * np.pi * b)
            points[count, 0] = lx * noisy
            points[count, 1] = ly * noisy
            points[count, 2] = lz * noisy
            points[count, 3] = np.floor(min(intensity, 255.0))
            points[count, 4] = ring
            segs[count] = seg
            instances[count] = instance
            count += 1
    return count


def lidar_elevations() -> np.ndarray:
    """Beam elevations float64 [32] rad, ring 0 lowest."""
    return np.deg2rad(np.linspace(*rig.LIDAR_ELEVATION_DEG, rig.LIDAR_BEAMS))


def sweep_lidar(moment: Moment, T_global_ego: np.ndarray, seed: int) -> Sweep:
    """One 32-beam sweep, taken at a single instant; the roof of the ego car returns as ``vehicle.ego``."""
    T_global_lidar = T_global_ego @ transform(rig.LIDAR_ROTATION, rig.LIDAR_TRANSLATION)
    roof = np.zeros((1, 16), np.float32)
    roof[0, :3] = T_global_ego[:3, :3] @ [0.75, 0, 1.15] + T_global_ego[:3, 3]
    roof[0, 3:6], roof[0, 15] = (1.1, 0.62, 0.28), 1.4
    roof[0, 6:15] = T_global_ego[:3, :3].T.reshape(-1)
    beams = rig.LIDAR_BEAMS * rig.LIDAR_COLUMNS
    points = np.empty((beams, 5), np.float32)
    seg = np.empty(beams, np.uint8)
    instance = np.empty(beams, np.int32)
    count = _sweep(
        moment.ground,
        moment.solids,
        moment.grid,
        T_global_lidar,
        lidar_elevations(),
        rig.LIDAR_COLUMNS,
        roof,
        np.zeros(1, np.uint8),
        seed,
        (points, seg, instance),
    )
    return Sweep(points[:count], seg[:count], instance[:count])
