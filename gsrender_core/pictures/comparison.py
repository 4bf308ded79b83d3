"""Comparison sheets like the paper's Fig. 1 and 6: ground truth beside several predictions, duplicates marked."""

import math
from dataclasses import replace

import cv2
import numpy as np

from gsrender_core.classes import FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import Occ3DLabels, check_semantics, on_grid
from gsrender_core.pictures.extra_voxels import extra_voxels
from gsrender_core.pictures.layout import GAP, arrangement, blank, camera_panel, headline, legend, row, titled, write
from gsrender_core.pictures.voxel_view import BIRDS_EYE, SIGNAL, THIRD_PERSON, View, render_voxels
from gsrender_core.voxel_grid import VoxelGrid

_WIDTH, _COLUMN = 1680, 320  # px of the sheet and the least of a column
_CAMERAS = 6  # a row


def comparison_picture(
    frame: Frame,
    truth: Occ3DLabels | np.ndarray,
    predictions: dict[str, np.ndarray],
    grid: VoxelGrid,
    title: str = "",
) -> np.ndarray:
    """Draw the ground truth and named predictions of one frame in the same views.

    Cameras on top; then a column each for the truth and every prediction: from behind, from above, and the prediction
    in pale colours with its duplicates (``extra_voxels``) in a signal colour.

    Args:
        frame: its images and cameras.
        truth: semantics uint8 [X, Y, Z] on the grid, or labels, which are cropped to it and whose ``mask_camera``
            takes voxels that no camera sees out of the view from behind and makes them pale from above.
        predictions: name (ASCII, short) -> semantics uint8 [X, Y, Z]; in the order of the columns.
        grid: the volume of all of them.
        title: headline; default scene and token.

    Returns:
        uint8 [H, W, 3] BGR, as ``cv2.imwrite`` takes it; W is 1680, or more for more than four predictions.

    Raises:
        ValueError: no predictions, or semantics of another shape, type or with unknown ids.
    """
    if not predictions:
        raise ValueError("a comparison needs at least one prediction")
    unseen = None
    if isinstance(truth, Occ3DLabels):
        labels = on_grid(truth, grid)
        truth, unseen = labels.semantics, labels.mask_camera == 0
    for name, semantics in {"ground truth": truth, **predictions}.items():
        check_semantics(semantics, name, tuple(grid.shape))
    columns = len(predictions) + 1
    width = max(_WIDTH, GAP + columns * (_COLUMN + GAP))
    panel = (width - GAP) // columns - GAP
    behind, above = views(grid, panel)
    visible = truth if unseen is None else np.where(unseen, np.uint8(FREE), truth)
    extra = {name: extra_voxels(frame, truth, semantics, grid) for name, semantics in predictions.items()}
    rows = [headline(title or f"{frame.scene or 'frame'}   {frame.token or frame.stamp_ns}", width)]
    rows += _camera_rows(frame, width)
    first = [
        titled(render_voxels(visible, grid, behind), "ground truth" if unseen is None else "ground truth, as seen")
    ]
    second = [titled(render_voxels(truth, grid, above, pale=unseen), "ground truth from above, forward up")]
    third = [titled(_key(behind.size), "extra voxels")]
    for name, semantics in predictions.items():
        first.append(titled(render_voxels(semantics, grid, behind), name))
        second.append(titled(render_voxels(semantics, grid, above), f"{name} from above"))
        marked = extra[name]
        image = render_voxels(semantics, grid, behind, pale=np.ones_like(marked), marked=marked)
        occupied = max(1, int((semantics != FREE).sum()))
        share = 100 * marked.sum() / occupied
        third.append(titled(image, f"{name}: {marked.sum()} extra of {occupied} ({share:.0f} %)"))
    present = set(np.unique(np.concatenate([np.ravel(s) for s in (truth, *predictions.values())])).tolist())
    rows += [row(panels, width) for panels in (first, second, third)]
    rows += [row([legend(width - 2 * GAP, 3, present)], width), blank(GAP, width)]
    return np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1])


def views(grid: VoxelGrid, width: int) -> tuple[View, View]:
    """The views from behind and from above that show a grid of any size as ``THIRD_PERSON`` shows Occ3D's."""
    extent_m = 2 * max(abs(edge) for edge in (*grid.min_m[:2], *grid.max_m[:2]))
    factor = extent_m / BIRDS_EYE.span_m
    x, y, z = (factor * value for value in THIRD_PERSON.eye_m)
    target = tuple(factor * value for value in THIRD_PERSON.target_m)
    height = round(width * THIRD_PERSON.size[1] / THIRD_PERSON.size[0])
    behind = replace(THIRD_PERSON, eye_m=(x, y, max(z, grid.max_m[2] + 2)), target_m=target, size=(width, height))
    return behind, replace(BIRDS_EYE, size=(width, width), span_m=extent_m)


def _camera_rows(frame: Frame, width: int) -> list[np.ndarray]:
    """All cameras, six a row."""
    order = [index for indices in arrangement(frame.camera_names) for index in indices if index is not None]
    count = min(_CAMERAS, max(3, len(order)))
    panel = (width - GAP) // count - GAP
    panels = [camera_panel(frame, index, panel) for index in order]
    return [row(panels[n : n + count], width) for n in range(0, len(panels), count)]


def _key(size: tuple[int, int]) -> np.ndarray:
    """What the signal colour means."""
    image = blank(size[1], size[0])
    scale = min(0.56, size[0] / 900)
    step = math.ceil(46 * scale)
    cv2.rectangle(image, (2, 10), (2 + step, 10 + step // 2 + 4), SIGNAL, -1)
    lines = (
        "occupied in the prediction,",
        "more than two voxels from anything true,",
        "before or behind something true",
        "along the ray of a camera",
    )
    for n, text in enumerate(lines):
        write(image, text, (step + 14, 10 + step // 2 + n * step), scale)
    return image
