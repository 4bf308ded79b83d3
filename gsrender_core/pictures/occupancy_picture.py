"""One sheet a frame: six cameras, prediction and ground truth in the same view, from above, and a legend."""

import math
from dataclasses import replace

import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import OCC3D_GRID, Occ3DLabels
from gsrender_core.pictures.layout import GAP, arrangement, blank, camera_panel, headline, legend, row, titled
from gsrender_core.pictures.voxel_view import BIRDS_EYE, THIRD_PERSON, View, render_voxels
from gsrender_core.voxel_grid import OccupancyGrid

WIDTH = 1680  # px


def occupancy_picture(
    frame: Frame,
    prediction: OccupancyGrid,
    truth: Occ3DLabels | None = None,
    title: str = "",
) -> np.ndarray:
    """Draw cameras, prediction and, where known, ground truth.

    Args:
        frame: its images are shown as the network takes them; nuScenes' camera names decide the arrangement.
        prediction: drawn whole.
        truth: drawn beside in the same view.
        title: headline; default scene and token.

    Returns:
        uint8 [H, 1680, 3] RGB.
    """
    title = title or f"{frame.scene or 'frame'}   {frame.token or frame.stamp_ns}"
    rows = [headline(title, WIDTH)]
    width = (WIDTH - 4 * GAP) // 3
    for indices in arrangement(frame.camera_names):
        rows.append(row([camera_panel(frame, index, width) for index in indices], WIDTH))
    present = set(np.unique(prediction.semantics).tolist())
    if truth is None:
        rows += _alone(prediction, present)
    else:
        # A network may predict another volume than Occ3D's: each is drawn where it lies.
        volume = prediction.grid if tuple(prediction.grid.shape) == truth.semantics.shape else OCC3D_GRID
        present |= set(np.unique(truth.semantics).tolist())
        rows += _side_by_side(prediction, OccupancyGrid(truth.semantics, None, volume), truth.mask_camera == 0, present)
    return np.concatenate([*rows, blank(GAP, WIDTH)])


def _alone(prediction: OccupancyGrid, present: set[int]) -> list[np.ndarray]:
    """Rows of one grid: wide from behind, from above, legend below."""
    side = BIRDS_EYE.size[0] + 80
    width = WIDTH - 3 * GAP - side
    # As much of the far end as the narrower view beside a ground truth shows.
    aspect = width / side * THIRD_PERSON.size[1] / THIRD_PERSON.size[0]
    fov_deg = 2 * math.degrees(math.atan(math.tan(math.radians(THIRD_PERSON.fov_deg) / 2) * aspect))
    behind = _draw(prediction, replace(THIRD_PERSON, size=(width, side), fov_deg=fov_deg))
    above = _draw(prediction, replace(BIRDS_EYE, size=(side, side)))
    panels = [titled(behind, "prediction"), titled(above, "prediction from above, forward up")]
    return [row(panels, WIDTH), row([legend(WIDTH - 2 * GAP, 3, present)], WIDTH)]


def _side_by_side(
    prediction: OccupancyGrid, truth: OccupancyGrid, unseen: np.ndarray, present: set[int]
) -> list[np.ndarray]:
    """Rows of prediction and truth: both from behind, both from above and the legend.

    Truth that no camera sees, which no prediction could know, is left out from behind, where it would hide the rest,
    and pale from above.
    """
    view = replace(THIRD_PERSON, size=((WIDTH - 3 * GAP) // 2, THIRD_PERSON.size[1]))
    seen = replace(truth, semantics=np.where(unseen, np.uint8(FREE), truth.semantics))
    behind = [
        titled(_draw(prediction, view), "prediction"),
        titled(_draw(seen, view), "ground truth, where a camera sees it"),
    ]
    above = [
        titled(_draw(prediction, BIRDS_EYE), "prediction from above, forward up"),
        titled(_draw(truth, BIRDS_EYE, unseen), "ground truth; pale: no camera sees it"),
    ]
    classes = legend(WIDTH - 4 * GAP - sum(panel.shape[1] for panel in above), 9, present)
    return [row(behind, WIDTH), row([*above, titled(classes, "classes")], WIDTH)]


def _draw(occupancy: OccupancyGrid, view: View, pale: np.ndarray | None = None) -> np.ndarray:
    """One view; a parallel one shows the whole volume, at least the 80 m of Occ3D's."""
    if view.fov_deg is None:
        extent_m = 2 * max(abs(edge) for edge in (*occupancy.grid.min_m[:2], *occupancy.grid.max_m[:2]))
        view = replace(view, span_m=max(view.span_m, extent_m))
    return render_voxels(occupancy.semantics, occupancy.grid, view, pale=pale)
