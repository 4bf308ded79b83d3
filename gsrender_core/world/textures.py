"""Procedural albedos of ground and solids (numba): class shows in texture, seldom in colour alone."""

import math

from gsrender_core.world.ground import nearest_cell
from gsrender_core.world.noise import hash01, kernel, noise2, noise3, visible_share
from gsrender_core.world.parts import (
    BARK,
    BARRIER,
    BODY,
    BUILDING,
    CABIN,
    CLOTH,
    COACH,
    CONE,
    HAZARD,
    LEAVES,
    MASONRY,
    METAL,
    RIBS,
    SKIN,
    WHEEL,
)
from gsrender_core.world.zones import ASPHALT, DIRT, GRASS, MARK_CROSSWALK, MARK_LANES, MARK_PARKING, PAVING, PLAZA


@kernel
def _markings(ground, i, j, s, t, half_width, x, y):
    """Paint on the road at road coordinates (s, t): 0 none, 1 white, 2 yellow, with wear."""
    mark = ground.mark[i, j]
    painted = 0
    if mark == MARK_LANES:
        edge = half_width - abs(t)
        if abs(abs(t) - 0.16) < 0.07 and half_width > 4.4:
            painted = 2  # double centre line
        elif half_width <= 4.4 and abs(t) < 0.08 and (s % 6.0) < 3.0:
            painted = 1
        elif 0.2 < edge < 0.34:
            painted = 1
        elif half_width > 5.8 and abs(abs(t) - half_width * 0.5) < 0.08 and (s % 7.0) < 3.2:
            painted = 1
    elif mark == MARK_CROSSWALK:
        if (t + 100.0) % 1.1 < 0.55:
            painted = 1
    elif mark == MARK_PARKING:
        if (s % 2.7) < 0.12 and (abs(t) - half_width) % 9.0 < 5.0:
            painted = 1
    if painted and noise2(x * 3.1, y * 3.1, 77) < 0.22:
        painted = 0
    return painted


@kernel
def ground_albedo(ground, x, y, footprint):
    """RGB albedo of the ground at (x, y) for a pixel footprint in metres, and its lidarseg id."""
    i, j = nearest_cell(ground, x, y)
    zone = ground.zone[i, j]
    looks = ground.zone_look
    seed = ground.zone_seed[zone]
    kind = ground.zone_texture[zone]
    # Road coordinates inside the cell: the cell's own plus the offset, turned by the raster's local gradient.
    s = t = 0.0
    if kind == ASPHALT or kind == PAVING:
        ni = i + 1 if i + 1 < ground.zone.shape[0] else i - 1
        nj = j + 1 if j + 1 < ground.zone.shape[1] else j - 1
        ex = (x - ground.x0) / ground.res - i
        ey = (y - ground.y0) / ground.res - j
        along, across = ground.along, ground.across
        s = along[i, j]
        t = across[i, j]
        ds_i, dt_i = (along[ni, j] - s) * (ni - i), (across[ni, j] - t) * (ni - i)
        ds_j, dt_j = (along[i, nj] - s) * (nj - j), (across[i, nj] - t) * (nj - j)
        if abs(ds_i) + abs(dt_i) < 1.0 and abs(ds_j) + abs(dt_j) < 1.0:
            s += ds_i * ex + ds_j * ey
            t += dt_i * ex + dt_j * ey
    large = noise2(x * 0.16, y * 0.16, seed)
    mix = min(max((large - 0.3) * 1.6, 0.0), 1.0) * 0.7
    shade = 1.0
    gain = 1.0
    if kind == ASPHALT:
        shade += (noise2(x * 9, y * 9, seed + 1) - 0.5) * 0.2 * visible_share(0.2, footprint)
        shade += (noise2(x * 1.3, y * 1.3, seed + 2) - 0.5) * 0.2
        if abs(noise2(x * 0.7, y * 0.7, seed + 3) - 0.5) < 0.012:  # cracks
            shade *= 1 - 0.45 * visible_share(0.15, footprint)
        painted = _markings(ground, i, j, s, t, looks[zone, 7], x, y)
        if painted == 1:
            return 0.72, 0.72, 0.7, ground.zone_seg[zone]
        if painted == 2:
            return 0.68, 0.54, 0.14, ground.zone_seg[zone]
    elif kind == PAVING:
        size = looks[zone, 6]
        a = s / size
        b = t / size
        tile = hash01(int(math.floor(a)), int(math.floor(b)), 0, seed)
        shade += (tile - 0.5) * 0.22 * visible_share(size, footprint)
        joint = min(a - math.floor(a), b - math.floor(b)) * size
        if joint < 0.07:
            shade *= 1 - 0.5 * visible_share(0.22, footprint)
        shade += (noise2(x * 5, y * 5, seed + 1) - 0.5) * 0.12 * visible_share(0.3, footprint)
    elif kind == PLAZA:  # two-tone pattern laid diagonally
        size = looks[zone, 6]
        a = (x + y) * 0.7071 / size
        b = (x - y) * 0.7071 / size
        if (int(math.floor(a)) + int(math.floor(b))) % 2 == 0:
            shade *= 1 - 0.32 * visible_share(1.5 * size, footprint)
        shade += (hash01(int(math.floor(a)), int(math.floor(b)), 0, seed) - 0.5) * 0.15 * visible_share(size, footprint)
    elif kind == GRASS:
        blades = noise2(x * 14, y * 14, seed + 1) - 0.5
        tufts = noise2(x * 3.5, y * 3.5, seed + 2) - 0.5
        shade += blades * 0.75 * visible_share(0.16, footprint) + tufts * 0.5 * visible_share(0.6, footprint)
        gain = 1 + 0.5 * (noise2(x * 0.4, y * 0.4, seed + 3) - 0.5)
    elif kind == DIRT:
        shade += (noise2(x * 5, y * 5, seed + 1) - 0.5) * 0.45 * visible_share(0.4, footprint)
        shade += (noise2(x * 1.2, y * 1.2, seed + 2) - 0.5) * 0.45
    else:  # gravel: speckles, larger and harder than asphalt's grain
        speckle = hash01(int(math.floor(x * 7)), int(math.floor(y * 7)), 0, seed)
        shade += (speckle - 0.5) * 0.6 * visible_share(0.28, footprint)
        shade += (noise2(x * 1.1, y * 1.1, seed + 2) - 0.5) * 0.2
    r = (looks[zone, 0] * (1 - mix) + looks[zone, 3] * mix) * shade * gain
    g = (looks[zone, 1] * (1 - mix) + looks[zone, 4] * mix) * shade
    b_ = (looks[zone, 2] * (1 - mix) + looks[zone, 5] * mix) * shade / gain
    return max(r, 0.01), max(g, 0.01), max(b_, 0.01), ground.zone_seg[zone]


@kernel
def _facade(u, v, top, seed, low, high, footprint):
    """Wall with bricks or plaster, rows of windows, a ground floor that differs."""
    storey = 2.9 + 0.7 * hash01(1, 0, 0, seed)
    spacing = 1.7 + 1.9 * hash01(2, 0, 0, seed)
    floor = int(math.floor(v / storey))
    column = int(math.floor(u / spacing))
    a = u / spacing - column
    b = v / storey - floor
    shade = 1 + (noise2(u * 0.5, v * 0.5, seed) - 0.5) * 0.25
    if hash01(3, 0, 0, seed) < 0.55:
        row = int(math.floor(v / 0.22))
        offset = 0.5 * (row % 2)
        shade += (hash01(int(math.floor(u / 0.5 + offset)), row, 0, seed) - 0.5) * 0.3 * visible_share(0.3, footprint)
        if v / 0.22 - row < 0.16:
            shade *= 1 - 0.3 * visible_share(0.22, footprint)
    wide = 0.25 + 0.13 * hash01(4, 0, 0, seed)
    shop = floor == 0 and hash01(5, 0, 0, seed) < 0.5
    inside = (0.06 < a < 0.94 and 0.1 < b < 0.8) if shop else (abs(a - 0.5) < wide and 0.28 < b < 0.82)
    if inside and v > 0 and v < top - 0.5:
        frame = (
            (a < 0.1 or a > 0.9)
            if shop
            else (abs(a - 0.5) > wide - 0.035 or b > 0.79 or b < 0.31 or abs(a - 0.5) < 0.015)
        )
        if frame:
            return high[0] * 1.1, high[1] * 1.1, high[2] * 1.1
        lit = hash01(column, floor, 1, seed)
        glass = 0.07 + 0.25 * lit * lit + 0.1 * b
        if lit > 0.88:  # blind drawn
            return 0.5, 0.47, 0.4
        return glass * 0.85, glass * 0.95, glass * 1.1
    if b < 0.05 and floor > 0:  # string course
        return high[0], high[1], high[2]
    return low[0] * shade, low[1] * shade, low[2] * shade


@kernel
def solid_albedo(material, color, k, seed, hx, hy, hz, px, py, pz, axis, gx, gy, gz, footprint):
    """RGB albedo of solid ``k``: half sizes h, colours ``color[k]`` [6], hit at local p on the face across ``axis``.

    g is the hit in the global frame, for textures that must not repeat between neighbours.
    """
    u = py if axis == 0 else px
    low = (color[k, 0], color[k, 1], color[k, 2])
    high = (color[k, 3], color[k, 4], color[k, 5])
    shade = 1.0
    if material == LEAVES:
        leaf = noise3(gx * 6.5, gy * 6.5, gz * 6.5, seed) - 0.5
        clump = noise3(gx * 2.1, gy * 2.1, gz * 2.1, seed + 1)
        lightness = 0.1 + 1.1 * clump + 1.5 * leaf * visible_share(0.5, footprint)
        if clump < 0.3:  # gaps between the branches
            lightness *= 0.35
        lightness = min(max(lightness, 0.0), 1.4)
        tint = 0.8 + 0.4 * hash01(int(math.floor(gx * 4)), int(math.floor(gy * 4)), int(math.floor(gz * 4)), seed)
        return (
            high[0] + (low[0] - high[0]) * lightness * tint,
            high[1] + (low[1] - high[1]) * lightness,
            high[2] + (low[2] - high[2]) * lightness,
        )
    if material == BUILDING:
        if axis == 2:
            shade += (noise2(px, py, seed) - 0.5) * 0.3
            return 0.35 * shade, 0.34 * shade, 0.33 * shade
        return _facade(u + 200.0, pz + hz - 2.0, 2 * hz - 2.0, seed, low, high, footprint)
    if material == BARK:
        shade += (noise2(math.atan2(py, px) * 4, pz * 2.5, seed) - 0.5) * 0.8
    elif material == BODY:
        if pz < -0.55 * hz:
            return 0.06, 0.06, 0.065
        if axis == 0 and abs(py) > 0.6 * hy and pz > 0:
            if px > 0:
                return 0.75, 0.75, 0.7
            return 0.45, 0.04, 0.03
        if axis == 0 and abs(pz) < 0.3 * hz and abs(py) < 0.35 * hy:
            return 0.1, 0.1, 0.1
        if axis == 1 and (abs(px - 0.25 * hx) < 0.02 or abs(px + 0.25 * hx) < 0.02):
            shade = 0.4
    elif material == CABIN:
        if axis == 2 and pz > 0:
            return low[0], low[1], low[2]
        across = abs(u) / (hy if axis == 0 else hx)
        if across > 0.9 or (axis == 1 and abs(px + 0.1 * hx) < 0.05) or pz > 0.85 * hz:
            return low[0], low[1], low[2]
        glass = 0.6 + 1.6 * noise2(gx * 0.6 + gz, gy * 0.6 + gz, seed)
        return high[0] * glass, high[1] * glass, high[2] * glass
    elif material == WHEEL:
        if axis == 2 and px * px + py * py < 0.4 * hx * hx:
            return 0.4, 0.4, 0.42
    elif material == CLOTH:
        shade += (noise3(px * 7, py * 7, pz * 4, seed) - 0.5) * 0.7
    elif material == SKIN:
        if pz > 0.25 * hz or px < -0.1 * hx:
            return high[0], high[1], high[2]
    elif material == CONE:
        band = (pz / hz + 1) * 1.5
        if 0.9 < band < 1.9 and axis != 2:
            return high[0], high[1], high[2]
        shade += (noise3(px * 9, py * 9, pz * 9, seed) - 0.5) * 0.3
    elif material == BARRIER:
        stripe = (u + pz * 0.8 + 50) % 0.8 < 0.4
        if seed % 2 == 0 and stripe:
            return 0.7, 0.68, 0.64
        shade += (noise2(u * 2, pz * 4, seed) - 0.5) * 0.35
    elif material == RIBS:
        if axis != 2:
            if (u + 50) % 0.42 < 0.12:
                shade = 1 - 0.35 * visible_share(0.42, footprint)
            if abs(pz + 0.2 * hz) < 0.16 * hz and seed % 3:
                return high[0] * shade, high[1] * shade, high[2] * shade
            if pz > 0.93 * hz or pz < -0.93 * hz:
                shade *= 0.6
    elif material == COACH:
        if axis != 2:
            if -0.05 * hz < pz < 0.62 * hz and ((u + 50) % 1.45 > 0.12 or axis == 0):
                glass = 0.07 + 0.14 * hash01(int(math.floor((u + 50) / 1.45)), axis, 0, seed)
                return glass, glass * 1.1, glass * 1.2
            if pz < -0.35 * hz and pz > -0.6 * hz:
                return high[0], high[1], high[2]
            if pz < -0.9 * hz:
                return 0.06, 0.06, 0.06
    elif material == MASONRY:
        if seed % 3 == 0:  # slats
            if (u + 50) % 0.2 < 0.05:
                shade = 1 - 0.6 * visible_share(0.2, footprint)
            shade *= 0.85 + 0.3 * hash01(int(math.floor((u + 50) / 0.2)), 0, 0, seed)
        else:
            row = int(math.floor((pz + 50) / 0.33))
            b = (u + 50) / 0.7 + 0.5 * (row % 2)
            shade = 0.8 + 0.4 * hash01(int(math.floor(b)), row, 0, seed)
            if (pz + 50) / 0.33 - row < 0.12 or b - math.floor(b) < 0.06:
                shade *= 1 - 0.45 * visible_share(0.33, footprint)
    elif material == METAL:
        shade += (noise2(pz * 2, u * 2, seed) - 0.5) * 0.2
    elif material == HAZARD:
        if abs(pz) < 0.3 * hz and axis != 2 and (u + pz + 50) % 0.6 < 0.3:
            return high[0], high[1], high[2]
        shade += (noise2(u * 2, pz * 2, seed) - 0.5) * 0.3
    return low[0] * shade, low[1] * shade, low[2] * shade
