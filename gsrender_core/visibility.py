"""Which voxels a view's cameras may see, as far as that is known before the head has looked at them.

A few planes are compared for every voxel and camera. On the CPU a kernel does it in one pass over the voxels; the
same in torch, which reads and writes some twenty arrays a camera, is the reference and the path for other devices.
"""

import numba
import numpy as np
import torch

from gsrender_core.numba_threads import numba_threads
from gsrender_core.views import View

_NEAREST_M = np.float32(0.1)
_CHUNK = 8192  # voxels a task looks at


def visible_voxels(centers: torch.Tensor, view: View, reach_m: float) -> torch.Tensor:
    """Voxels that may show in a view's cameras: flat indices int64 [N] of ``centers`` [V, 3] (m).

    A voxel counts where its Gaussian may reach into the image, wherever its mean and scale end up: anything
    within ``reach_m`` of its centre.
    """
    if centers.device.type != "cpu" or centers.dtype != torch.float32:
        return visible_voxels_reference(centers, view, reach_m)
    visible = np.empty(len(centers), np.bool_)
    with numba_threads():
        _mark_visible(centers.contiguous().numpy(), _frusta(view, reach_m), np.float32(reach_m), visible)
    return torch.from_numpy(np.flatnonzero(visible))


def visible_voxels_reference(centers: torch.Tensor, view: View, reach_m: float) -> torch.Tensor:
    """``visible_voxels``, readable."""
    width, height = view.cameras.width, view.cameras.height
    visible = torch.zeros(len(centers), dtype=torch.bool, device=centers.device)
    for camera in torch.nonzero(view.chosen).squeeze(1).tolist():
        T, K = view.cameras.viewmats[camera], view.cameras.Ks[camera]
        x, y, z = (centers @ T[:3, :3].T + T[:3, 3]).unbind(1)
        ahead = z + reach_m > 0
        z = z.clamp(min=float(_NEAREST_M))
        seen = ahead
        for along, axis, size in ((x, 0, width), (y, 1, height)):
            focal, left = K[axis, axis], K[axis, 2]
            right = size - left
            # The image's borders are planes through the camera: a distance from them is not one along the axis.
            before, behind = (reach_m * torch.hypot(focal, edge) for edge in (left, right))
            seen = seen & (along * focal > -(left * z + before)) & (along * focal < right * z + behind)
        visible |= seen
    return torch.nonzero(visible).squeeze(1)


def _frusta(view: View, reach_m: float) -> np.ndarray:
    """The chosen cameras, float32 [C, 20].

    For x and y: focal length times the axis's row of the pose (4), then the borders' slopes and distances as in the
    reference: along > -(left z + before), along < right z + behind; then z's row of the pose.
    """
    viewmats, Ks = (a[view.chosen].double().numpy() for a in (view.cameras.viewmats, view.cameras.Ks))
    columns = []
    for axis, size in ((0, view.cameras.width), (1, view.cameras.height)):
        focal, left = Ks[:, axis, axis], Ks[:, axis, 2]
        right = size - left
        before, behind = (reach_m * np.hypot(focal, edge) for edge in (left, right))
        columns += [focal[:, None] * viewmats[:, axis], np.stack((left, before, right, behind), axis=1)]
    return np.concatenate((*columns, viewmats[:, 2]), axis=1).astype(np.float32)


@numba.njit(cache=True, inline="always")
def _along(row, first, x, y, z):
    return row[first] * x + row[first + 1] * y + row[first + 2] * z + row[first + 3]


@numba.njit(cache=True, parallel=True)
def _mark_visible(centers, frusta, reach_m, visible):
    for chunk in numba.prange((len(centers) + _CHUNK - 1) // _CHUNK):
        for n in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(centers))):
            x, y, z = centers[n, 0], centers[n, 1], centers[n, 2]
            seen = False
            for c in range(len(frusta)):
                row = frusta[c]
                ahead = _along(row, 16, x, y, z)
                near = max(ahead, _NEAREST_M)
                u, v = _along(row, 0, x, y, z), _along(row, 8, x, y, z)
                seen |= (
                    (ahead + reach_m > 0)
                    & (u > -(row[4] * near + row[5]))
                    & (u < row[6] * near + row[7])
                    & (v > -(row[12] * near + row[13]))
                    & (v < row[14] * near + row[15])
                )
            visible[n] = seen
