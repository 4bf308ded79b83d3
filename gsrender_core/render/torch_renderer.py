"""The readable renderer: plain torch and autograd, any device, any float type, listed pixels only."""

from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag, normalize

from gsrender_core.gaussians import Gaussians
from gsrender_core.render.interface import Cameras, Pixels, Rendered, RenderSettings

MAX_PAIRS = 4_000_000  # candidate (pixel, Gaussian) pairs tested at a time; bounds the working memory


@dataclass
class Splats:
    """G Gaussians projected into one image, nearest first.

    Attributes:
        means2d: [G, 2] px.
        conics: [G, 3], entries (0, 0), (0, 1), (1, 1) of the inverse 2D covariance, 1/px^2.
        radii: [G, 2] px, half extent of the box outside which alpha < alpha_min.
        opacities: [G].
        features: [G, K + 2], logits, camera z in metres, and 1 for alpha.
    """

    means2d: torch.Tensor
    conics: torch.Tensor
    radii: torch.Tensor
    opacities: torch.Tensor
    features: torch.Tensor


def render_pixels_torch(
    gaussians: Gaussians, cameras: Cameras, pixels: Pixels, settings: RenderSettings, max_pairs: int = MAX_PAIRS
) -> Rendered:
    """Render M listed pixels; see ``gsrender_core.render.render_pixels``.

    Camera by camera: project, sort by depth, list the Gaussians of each tile, pair them with the tile's pixels in
    blocks of at most about ``max_pairs`` pairs, keep the pairs that count, and blend them front to back.
    """
    K = gaussians.logits.shape[1]
    uv = pixels.uv.to(gaussians.means)
    # An empty row tied to the inputs keeps an empty list differentiable.
    tie = gaussians.means[:0].sum() + gaussians.opacities[:0].sum() + gaussians.logits[:0].sum()
    rows, order = [gaussians.logits.new_zeros(0, K + 2) + tie], [pixels.camera[:0]]
    for c in range(len(cameras)):
        index = torch.nonzero(pixels.camera == c)[:, 0]
        if len(index) == 0:
            continue
        splats = project(gaussians, cameras, c, settings)
        tile_of_pixel, tile_start, tile_splats = _tile_lists(splats, cameras, uv[index], settings.tile)
        candidates = tile_start[tile_of_pixel + 1] - tile_start[tile_of_pixel]
        block = (torch.cumsum(candidates, 0) - candidates) // max_pairs
        for part in torch.split(torch.arange(len(index), device=index.device), torch.bincount(block).tolist()):
            if len(part) == 0:
                continue
            tiles = tile_of_pixel[part]
            pixel_of_pair, offset = _expand(candidates[part])
            splat_of_pair = tile_splats[tile_start[tiles][pixel_of_pair] + offset]
            pairs = _visible_pairs(splats, uv[index[part]], pixel_of_pair, splat_of_pair, settings)
            rows.append(_blend(splats, uv[index[part]], *pairs, settings))
            order.append(index[part])
    out = torch.cat(rows)[torch.argsort(torch.cat(order))]
    return Rendered(out[:, :K], out[:, K], out[:, K + 1])


def project(gaussians: Gaussians, cameras: Cameras, camera: int, settings: RenderSettings) -> Splats:
    """Local affine (EWA) projection into one camera, culled and sorted by depth (ties by index).

    Follows gsplat 1.5.3: the Jacobian is taken at the centre, clamped to 1.3 times the field of view.
    """
    T = cameras.viewmats[camera].to(gaussians.means)
    K = cameras.Ks[camera].to(gaussians.means)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    width, height = cameras.width, cameras.height
    with torch.no_grad():
        z = gaussians.means @ T[2, :3] + T[2, 3]
        seen = (z >= settings.near_m) & (z <= settings.far_m) & (gaussians.opacities >= settings.alpha_min)
        kept = torch.nonzero(seen)[:, 0]
        kept = kept[torch.argsort(z[kept], stable=True)]

    x, y, z = (gaussians.means[kept] @ T[:3, :3].T + T[:3, 3]).unbind(-1)
    slope_x = torch.clamp(x / z, -(cx / fx + 0.15 * width / fx), (width - cx) / fx + 0.15 * width / fx)
    slope_y = torch.clamp(y / z, -(cy / fy + 0.15 * height / fy), (height - cy) / fy + 0.15 * height / fy)
    zero = torch.zeros_like(z)
    J = torch.stack((fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z), -1).reshape(-1, 2, 3)
    M = J @ T[:3, :3]
    if gaussians.quats is not None:
        M = M @ rotation_matrices(gaussians.quats[kept])
    M = M * gaussians.scales[kept][:, None, :]  # [G, 2, 3]; covariance = M M^T
    a, b = M.unbind(1)
    c00 = (a * a).sum(-1) + settings.eps2d
    c11 = (b * b).sum(-1) + settings.eps2d
    c01 = (a * b).sum(-1)
    # det(M M^T + eps I) without the cancellation of c00 c11 - c01^2: |a x b|^2 is det(M M^T).
    sheared = torch.linalg.cross(a, b).square().sum(-1)
    det = sheared + settings.eps2d * (c00 + c11 - settings.eps2d)
    opacities = gaussians.opacities[kept]
    # alpha >= alpha_min <=> Mahalanobis distance <= extent. gsplat's cap of 3.33 sigma never binds at 1/255.
    extent = torch.sqrt(2 * torch.log(opacities.detach() / settings.alpha_min))
    radii = extent[:, None] * torch.sqrt(torch.stack((c00, c11), -1).detach()) * 1.0001 + 0.01
    return Splats(
        means2d=torch.stack((fx * x / z + cx, fy * y / z + cy), -1),
        conics=torch.stack((c11, -c01, c00), -1) / det[:, None],
        radii=radii,
        opacities=opacities,
        features=torch.cat((gaussians.logits[kept], z[:, None], torch.ones_like(z)[:, None]), -1),
    )


def rotation_matrices(quats: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [N, 3, 3] of quaternions wxyz [N, 4], normalised first."""
    w, x, y, z = normalize(quats, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@torch.no_grad()
def _tile_lists(
    splats: Splats, cameras: Cameras, uv: torch.Tensor, tile: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which splats touch which tile, nearest first.

    Returns:
        tile_of_pixel int64 [P]; tile_start int64 [tiles + 1] and tile_splats int64: the splats of tile t are
        ``tile_splats[tile_start[t]:tile_start[t + 1]]``. Tiles without a pixel have empty lists.
    """
    columns, lines = -(-cameras.width // tile), -(-cameras.height // tile)
    size = torch.tensor([columns, lines], device=uv.device)
    last = size - 1
    cell = torch.minimum((uv / tile).long(), last)
    tile_of_pixel = cell[:, 1] * columns + cell[:, 0]
    wanted = torch.zeros(columns * lines, dtype=torch.bool, device=uv.device)
    wanted[tile_of_pixel] = True

    low = torch.clamp(torch.floor((splats.means2d - splats.radii) / tile), min=0)
    high = torch.minimum(torch.floor((splats.means2d + splats.radii) / tile), last.to(uv))
    span = torch.clamp(high - low + 1, min=0).long()
    splat, offset = _expand(span[:, 0] * span[:, 1])
    column = low[splat, 0].long() + offset % span[splat, 0]
    line = low[splat, 1].long() + offset // span[splat, 0]
    tile_of_entry = line * columns + column
    keep = wanted[tile_of_entry]
    splat, tile_of_entry = splat[keep], tile_of_entry[keep]
    by_tile = torch.argsort(tile_of_entry, stable=True)  # stable: depth order survives inside a tile
    counts = torch.bincount(tile_of_entry, minlength=columns * lines)
    return tile_of_pixel, torch.cat((counts.new_zeros(1), torch.cumsum(counts, 0))), splat[by_tile]


def _expand(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Row number and position within the row of every element of rows with ``counts`` [R] elements."""
    row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    start = torch.cumsum(counts, 0) - counts
    return row, torch.arange(len(row), device=counts.device) - start[row]


def _alphas(splats: Splats, uv: torch.Tensor, pixel: torch.Tensor, splat: torch.Tensor) -> torch.Tensor:
    """Uncapped alpha [pairs] of splats at pixels: opacity * exp(-d^T conic d / 2)."""
    dx, dy = (splats.means2d[splat] - uv[pixel]).unbind(-1)
    a, b, c = splats.conics[splat].unbind(-1)
    return splats.opacities[splat] * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))


def _log_transmittance(alpha: torch.Tensor, pixel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ln T in front of and behind each pair, float64 [pairs]; pairs are grouped by pixel, nearest first."""
    step = torch.log1p(-alpha.double())
    behind = torch.cumsum(step, 0)
    in_front = behind - step
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    start = in_front[first][torch.cumsum(first, 0) - 1]
    return in_front - start, behind - start


@torch.no_grad()
def _visible_pairs(
    splats: Splats, uv: torch.Tensor, pixel: torch.Tensor, splat: torch.Tensor, settings: RenderSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pairs (pixel, splat) that contribute: alpha_min reached, pixel not finished yet."""
    alpha = _alphas(splats, uv, pixel, splat)
    # More than the opacity comes from rounding in a very elongated splat; gsplat skips it as well.
    keep = (alpha >= settings.alpha_min) & (alpha <= splats.opacities[splat])
    pixel, splat, alpha = pixel[keep], splat[keep], alpha[keep].clamp(max=settings.alpha_max)
    _, behind = _log_transmittance(alpha, pixel)
    keep = torch.exp(behind) > settings.transmittance_min
    return pixel[keep], splat[keep]


def _blend(
    splats: Splats, uv: torch.Tensor, pixel: torch.Tensor, splat: torch.Tensor, settings: RenderSettings
) -> torch.Tensor:
    """Features [P, K + 2] blended front to back over a zero background."""
    alpha = _alphas(splats, uv, pixel, splat).clamp(max=settings.alpha_max)
    in_front, _ = _log_transmittance(alpha, pixel)
    weights = alpha * torch.exp(in_front).to(alpha)
    counts = torch.bincount(pixel, minlength=len(uv))
    offsets = torch.cumsum(counts, 0) - counts
    return embedding_bag(splat, splats.features, offsets, mode="sum", per_sample_weights=weights)
