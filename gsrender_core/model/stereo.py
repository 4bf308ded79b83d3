"""Depth from motion (BEVStereo, Li et al. 2022): plane sweep of the previous image over the depth planes."""

import torch
import torch.nn.functional as F

INVALID_COST = 5.0  # added where the previous image does not show the point
_CHUNK = 1 << 24  # values of warped features held at once


@torch.no_grad()
def stereo_distribution(
    current: torch.Tensor, previous: torch.Tensor, Ks: tuple[torch.Tensor, torch.Tensor], T_prevcam_curcam, planes
) -> torch.Tensor:
    """Probability of each depth plane: softmax of the negative sum of absolute feature differences.

    Every camera is compared with itself one frame earlier. Without motion all planes are equally likely.
    No gradient flows. Cameras and planes are walked through in chunks: the warped features of all planes
    at once would take gigabytes.

    Args:
        current, previous: features [N, F, h, w] of N cameras now and one frame earlier.
        Ks: intrinsics [N, 3, 3] of both, in pixels of the feature maps: (0.5, 0.5) is the centre of the first cell.
        T_prevcam_curcam: float32 [N, 4, 4] m, each camera at its own stamps.
        planes: depths float32 [D] m along the current camera's axis.

    Returns:
        float32 [N, D, h, w]; sums to 1 over D.
    """
    cost = torch.stack(
        [
            _cost(now.float(), before.float(), K_now, K_before, T, planes)
            for now, before, K_now, K_before, T in zip(current, previous, *Ks, T_prevcam_curcam, strict=True)
        ]
    )
    return torch.softmax(-cost, dim=1)


def _cost(now, before, K_now, K_before, T_prevcam_curcam, planes) -> torch.Tensor:
    """Matching cost [D, h, w] of one camera."""
    channels, h, w = now.shape
    u, v = torch.arange(w, device=now.device) + 0.5, torch.arange(h, device=now.device) + 0.5
    pixel = torch.stack(torch.meshgrid(u, v, indexing="xy") + (torch.ones(h, w, device=now.device),), dim=-1)
    # The point at depth d on a pixel's ray projects to K' (R K^-1 p d + t): linear in d before the division.
    R, t = T_prevcam_curcam[:3, :3], T_prevcam_curcam[:3, 3]
    ray, offset = pixel @ (K_before @ R @ torch.linalg.inv(K_now)).T, K_before @ t
    size = torch.tensor([before.shape[2], before.shape[1]], device=now.device)
    costs = []
    for depth in planes.split(max(1, _CHUNK // now.numel())):
        point = ray * depth.view(-1, 1, 1, 1) + offset
        z = point[..., 2:]
        position = point[..., :2] / z.clamp(min=1e-3) / size * 2 - 1
        valid = (z[..., 0] > 1e-3) & (position.abs() <= 1).all(-1)
        position = torch.where(valid[..., None], position, 2.0)  # outside: sampled as zero
        warped = F.grid_sample(before[None], position.view(1, -1, w, 2), align_corners=False)
        difference = (warped.view(channels, len(depth), h, w) - now[:, None]).abs_().sum(0)
        costs.append(difference + INVALID_COST * ~valid)
    return torch.cat(costs)
