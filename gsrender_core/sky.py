"""Pixels that look at nothing: the free space that a LiDAR reports by not returning (not in the paper).

Labels exist only where a beam came back, so nothing ever says that the sky is empty. But a missing
return proves little: dark or specular surfaces swallow beams, things beyond the LiDAR's range return
none either, and the LiDAR looks from another place than the camera. A pixel therefore counts as free
only where everything below speaks for it; see ``sky_pixels``.
"""

import math

import torch

from gsrender_core.render import Pixels
from gsrender_core.training_frames import FrameLabels

WINDOW_DEG = 1.5  # columns this far to each side must be free as well: thin things lie between beams
GAP_DEG = 2.5  # above the topmost label: one ring of a 32-beam LiDAR (1.33) and its parallax to the camera
MIN_LABELS = 5  # in the window; fewer are no proof that beams went there
FAR_M = 15.0  # labels beyond it tell the LiDAR's highest beam: nearer ones stand too high from a camera below it
HIGHEST_SHARE = 0.002  # of the far labels may lie above what is taken for the highest beam


def sky_pixels(labels: FrameLabels, image_size: tuple[int, int], chosen: torch.Tensor, count: int) -> Pixels:
    """Draw pixels whose rays met nothing within the LiDAR's range: what they see of the volume is free.

    A pixel qualifies where all of this holds:

    - its ray rises above the horizontal. Below it every ray meets the ground sooner or later, so a missing
      return only says that something swallowed the beam (a black car, a puddle);
    - its ray is no steeper than the frame's highest beam, read from the elevations of its own far labels seen
      from their cameras: in an open scene that is too low, which is the safe side;
    - its columns (``WINDOW_DEG`` to each side) hold labels, so beams did go there, and the topmost of them is
      ``GAP_DEG`` or more below it. What the LiDAR cannot reach does not matter as long as its range exceeds
      the volume: the rendered alpha only speaks of the volume.

    The cameras must stand roughly upright. What remains wrong: the upper part of a thing that returns nothing
    at all, such as the glass front above a shop, and whatever is thinner than the gap between beams.

    Args:
        labels: of the frame, all of them.
        image_size: width and height in px.
        chosen: bool [C], cameras to draw from.
        count: positions tried; those that qualify are returned, evenly spread over the qualifying area.
    """
    device, (width, height) = labels.uv.device, image_size
    cameras = torch.nonzero(chosen).squeeze(1)
    camera = cameras[torch.randint(len(cameras), (count,), device=device)]
    uv = torch.rand(count, 2, device=device) * torch.tensor([width, height], device=device)
    elevation = elevations(labels, camera, uv)
    far = labels.depth_m > FAR_M
    if not far.any():
        return Pixels(camera[:0], uv[:0])
    known = elevations(labels, labels.camera[far], labels.uv[far])
    highest = known.kthvalue(max(1, math.ceil((1 - HIGHEST_SHARE) * len(known)))).values
    top, labelled = columns(labels, camera, uv[:, 0], width)
    gap_px = labels.Ks[camera, 1, 1] * math.tan(math.radians(GAP_DEG))
    free = (elevation > 0) & (elevation <= highest) & (labelled >= MIN_LABELS) & (uv[:, 1] < top - gap_px)
    return Pixels(camera[free], uv[free])


def elevations(labels: FrameLabels, camera: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Angle [M] in radians of the rays through pixels [M, 2] of cameras [M] above the ego's horizontal plane."""
    pixel = torch.cat((uv, torch.ones_like(uv[:, :1])), dim=1)
    R = labels.T_ego_cam[:, :3, :3] @ torch.linalg.inv(labels.Ks)
    x, y, z = torch.einsum("nij,nj->ni", R[camera], pixel).unbind(1)
    return torch.atan2(z, torch.hypot(x, y))


def columns(
    labels: FrameLabels, camera: torch.Tensor, u: torch.Tensor, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the topmost label (inf where there is none) and number of labels, both [M], around columns u [M].

    Counted in bins of ``WINDOW_DEG`` at the image's centre: that of ``u`` and both its neighbours.
    """
    bin_px = labels.Ks[:, 0, 0] * math.tan(math.radians(WINDOW_DEG))
    bins = math.ceil(width / float(bin_px.min())) + 2  # an empty bin at either end

    def slot(c: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return c * bins + 1 + (x / bin_px[c]).long().clamp(0, bins - 3)

    at = slot(labels.camera, labels.uv[:, 0])
    top = torch.full((len(bin_px) * bins,), math.inf, device=u.device)
    top.scatter_reduce_(0, at, labels.uv[:, 1], "amin")
    labelled = torch.bincount(at, minlength=len(top))
    here = slot(camera, u)
    around = torch.stack((here - 1, here, here + 1))
    return top[around].amin(0), labelled[around].sum(0)
