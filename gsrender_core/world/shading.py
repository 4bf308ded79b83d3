"""Light on what a ray hits: sun with cast shadows, sky light, haze, and the sky itself (numba)."""

import math
from typing import NamedTuple

import numpy as np

from gsrender_core.world.ground import ground_height
from gsrender_core.world.noise import kernel, noise2, noise3
from gsrender_core.world.parts import BODY, CABIN, COACH, LEAVES
from gsrender_core.world.raycast import BOX, CYLINDER, ELLIPSOID, GROUND_ID, trace_solids
from gsrender_core.world.textures import ground_albedo, solid_albedo

SHADOW_REACH_M = 45.0


class Light(NamedTuple):
    """Light of one scene; colours are linear RGB radiances, ``sun`` a unit vector towards the sun."""

    sun: tuple[float, float, float]
    sun_rgb: tuple[float, float, float]
    ambient_rgb: tuple[float, float, float]
    zenith_rgb: tuple[float, float, float]
    horizon_rgb: tuple[float, float, float]
    haze_per_m: float
    clouds: float  # 0 clear to 1 overcast
    seed: int


def draw_light(rng) -> Light:
    """Sun, sky and haze of one scene; about a third are overcast."""
    overcast = rng.random() < 0.33
    elevation, azimuth = np.deg2rad(rng.uniform(22, 65)), rng.uniform(0, 2 * np.pi)
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    warm = np.array([1.0, 0.95, 0.86]) if elevation > 0.7 else np.array([1.0, 0.88, 0.72])
    strength = rng.uniform(0.1, 0.4) if overcast else rng.uniform(1.1, 1.8)
    ambient = np.array([0.85, 0.95, 1.1]) * (rng.uniform(0.75, 1.0) if overcast else rng.uniform(0.38, 0.6))
    zenith = np.array([0.72, 0.76, 0.8]) if overcast else np.array([0.28, 0.5, 0.85]) * rng.uniform(0.8, 1.2)
    horizon = np.array([0.82, 0.84, 0.86]) * rng.uniform(0.85, 1.1)
    colors = (tuple(float(v) for v in row) for row in (sun, warm * strength, ambient, zenith, horizon))
    return Light(*colors, float(rng.uniform(0.0004, 0.0035)), float(rng.uniform(0.1, 0.8)), int(rng.integers(1 << 20)))


@kernel
def sky(light, dx, dy, dz):
    """RGB of the sky in a unit direction: gradient, clouds, a glow around the sun."""
    up = min(max(dz, 0.0), 1.0) ** 0.6
    cover = 0.0
    if dz > 0.01:
        u = dx / (dz + 0.15)
        v = dy / (dz + 0.15)
        cloud = 0.6 * noise2(u * 1.3, v * 1.3, light.seed) + 0.4 * noise2(u * 4, v * 4, light.seed + 1)
        cover = min(max((cloud - 0.65 + 0.4 * light.clouds) * 3, 0.0), 1.0)
    glow = max(dx * light.sun[0] + dy * light.sun[1] + dz * light.sun[2], 0.0) ** 24 * 0.35
    r = light.horizon_rgb[0] * (1 - up) + light.zenith_rgb[0] * up
    g = light.horizon_rgb[1] * (1 - up) + light.zenith_rgb[1] * up
    b = light.horizon_rgb[2] * (1 - up) + light.zenith_rgb[2] * up
    white = 0.92
    return (
        r + (white - r) * cover + glow * light.sun_rgb[0],
        g + (white - g) * cover + glow * light.sun_rgb[1],
        b + (white - b) * cover + glow * light.sun_rgb[2],
    )


@kernel
def local_hit(solids, k, x, y, z):
    """Local hit point (x, y, z), local unit normal (x, y, z) and the axis of the face (2 for ellipsoids)."""
    g = solids.geometry[k]
    rx, ry, rz = x - g[0], y - g[1], z - g[2]
    px = g[6] * rx + g[7] * ry + g[8] * rz
    py = g[9] * rx + g[10] * ry + g[11] * rz
    pz = g[12] * rx + g[13] * ry + g[14] * rz
    nx = ny = nz = 0.0
    axis = 2
    shape = solids.shape[k]
    if shape == BOX:
        ax, ay, az = g[3] - abs(px), g[4] - abs(py), g[5] - abs(pz)
        if ax <= ay and ax <= az:
            axis = 0
            nx = 1.0 if px > 0 else -1.0
        elif ay <= az:
            axis = 1
            ny = 1.0 if py > 0 else -1.0
        else:
            nz = 1.0 if pz > 0 else -1.0
    elif shape == CYLINDER and g[5] - abs(pz) < 1e-3 and (px / g[3]) ** 2 + (py / g[4]) ** 2 < 0.999:
        nz = 1.0 if pz > 0 else -1.0
    else:
        nx = px / (g[3] * g[3])
        ny = py / (g[4] * g[4])
        if shape == ELLIPSOID:
            nz = pz / (g[5] * g[5])
        else:
            axis = 0
        length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
        nx /= length
        ny /= length
        nz /= length
        if shape == ELLIPSOID:
            axis = 1
    return px, py, pz, nx, ny, nz, axis


@kernel
def shade(ground, solids, grid, light, k, t, ox, oy, oz, dx, dy, dz, pixel_rad):
    """Linear RGB and lidarseg id of hit ``k`` (solid index or GROUND_ID) at range ``t`` of a ray."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    mirror = 0.0
    if k == GROUND_ID:
        footprint = t * pixel_rad * min(1 / max(-dz, 0.05), 4.0)
        r, g, b, seg = ground_albedo(ground, x, y, footprint)
        e = 0.3
        nx = ground_height(ground, x - e, y) - ground_height(ground, x + e, y)
        ny = ground_height(ground, x, y - e) - ground_height(ground, x, y + e)
        nz = 2 * e
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        nx, ny, nz = nx / length, ny / length, nz / length
    else:
        px, py, pz, lx, ly, lz, axis = local_hit(solids, k, x, y, z)
        q = solids.geometry[k]
        material = solids.material[k]
        r, g, b = solid_albedo(
            material, solids.color, k, solids.seed[k], q[3], q[4], q[5], px, py, pz, axis, x, y, z, t * pixel_rad
        )
        seg = solids.seg[k]
        nx = q[6] * lx + q[9] * ly + q[12] * lz
        ny = q[7] * lx + q[10] * ly + q[13] * lz
        nz = q[8] * lx + q[11] * ly + q[14] * lz
        if material == LEAVES:  # ruffled, so that crowns do not look like balls
            nx += 1.3 * (noise3(x * 2.3, y * 2.3, z * 2.3, 11) - 0.5)
            ny += 1.3 * (noise3(x * 2.3, y * 2.3, z * 2.3, 12) - 0.5)
            nz += 1.3 * (noise3(x * 2.3, y * 2.3, z * 2.3, 13) - 0.5)
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / length, ny / length, nz / length
        elif material == BODY or material == CABIN or material == COACH:
            mirror = 0.1 if material == BODY else 0.16
    facing = nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2]
    if facing > 0:
        start = 0.03 + 0.0005 * t
        _, blocker = trace_solids(
            solids,
            grid,
            x + nx * start,
            y + ny * start,
            z + nz * start,
            light.sun[0],
            light.sun[1],
            light.sun[2],
            SHADOW_REACH_M,
            True,
        )
        if blocker >= 0:
            facing = 0.0
    facing = max(facing, 0.0)
    open_sky = 0.62 + 0.38 * nz
    r *= light.ambient_rgb[0] * open_sky + light.sun_rgb[0] * facing
    g *= light.ambient_rgb[1] * open_sky + light.sun_rgb[1] * facing
    b *= light.ambient_rgb[2] * open_sky + light.sun_rgb[2] * facing
    if mirror > 0:
        along = 2 * (dx * nx + dy * ny + dz * nz)
        mr, mg, mb = sky(light, dx - along * nx, dy - along * ny, max(dz - along * nz, 0.0))
        grazing = mirror + 0.4 * (1 - min(abs(along) * 0.5, 1.0)) ** 4
        r += (mr - r) * grazing
        g += (mg - g) * grazing
        b += (mb - b) * grazing
    clear = math.exp(-t * light.haze_per_m)
    r = r * clear + light.horizon_rgb[0] * (1 - clear)
    g = g * clear + light.horizon_rgb[1] * (1 - clear)
    b = b * clear + light.horizon_rgb[2] * (1 - clear)
    return r, g, b, seg
