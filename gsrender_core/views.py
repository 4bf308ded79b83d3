"""What a training step looks at: frames placed around the current one, and the pixels of their cameras it renders."""

from dataclasses import dataclass

import torch

from gsrender_core.config import TrainConfig
from gsrender_core.render import Cameras, Pixels
from gsrender_core.training_frames import FrameLabels
from gsrender_core.voxel_grid import VoxelGrid
from gsrender_core.voxel_index import flat_index


@dataclass
class Adjacent:
    """A frame whose labels supervise the current one: those labels and ``T_curr_adj`` float32 [4, 4], metres.

    The current frame itself has the identity there.
    """

    labels: FrameLabels
    T_curr_adj: torch.Tensor


@dataclass
class View:
    """What is rendered of a frame: M of its labels, its cameras, and which take part.

    ``index`` int64 [M] of the labels, ``chosen`` bool [C]; the cameras' poses are those of the mirrored volume.
    """

    labels: FrameLabels
    index: torch.Tensor
    cameras: Cameras
    chosen: torch.Tensor

    @property
    def pixels(self) -> Pixels:
        """The M labelled positions."""
        return Pixels(self.labels.camera[self.index], self.labels.uv[self.index])


def inside_volume(frame: Adjacent, grid: VoxelGrid) -> torch.Tensor:
    """Which labels of a frame, bool [M], show something that the Gaussians of its view can stand for.

    A point beyond the volume has no Gaussian: asked for its depth and class, those before it would have to lie. In an
    adjacent frame both volumes must hold it, as Ray Compensation leaves what lies outside the current one empty.
    """
    points, _ = frame.labels.points_and_origins(torch.arange(len(frame.labels.camera), device=frame.T_curr_adj.device))
    _, in_own = flat_index(points, grid)
    _, in_current = flat_index(points @ frame.T_curr_adj[:3, :3].T + frame.T_curr_adj[:3, 3], grid)
    return in_own & in_current


def draw_view(
    labels: FrameLabels,
    config: TrainConfig,
    mirror: torch.Tensor,
    allowed: torch.Tensor | None = None,
) -> View:
    """Draw the cameras and labelled pixels of a frame that this step renders.

    Cameras without a label teach nothing and are drawn only when too few others exist.

    Args:
        labels: of the frame.
        config: ``render_cameras`` and ``pixels``.
        mirror: [4, 4], reflection of the volume, see ``Objective``.
        allowed: bool [M], labels that may be drawn; default all.
    """
    count, device = len(labels.Ks), labels.Ks.device
    if allowed is None:
        allowed = torch.ones(len(labels.camera), dtype=torch.bool, device=device)
    chosen = torch.ones(count, dtype=torch.bool, device=device)
    if 0 < config.render_cameras < count:
        labelled = torch.bincount(labels.camera[allowed], minlength=count) > 0
        order = torch.randperm(count).to(device)
        order = torch.cat((order[labelled[order]], order[~labelled[order]]))
        chosen[order[config.render_cameras :]] = False
    width, height = config.model.image_size
    cameras = Cameras(torch.linalg.inv(labels.T_ego_cam) @ mirror, labels.Ks, width, height)
    return View(labels, labels.sample(config.pixels, allowed & chosen[labels.camera]), cameras, chosen)
