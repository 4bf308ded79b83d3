"""One sheet a frame: six cameras, prediction and ground truth in the same view, from above, and a legend."""

import math
from dataclasses import replace

import cv2
import numpy as np

from gsrender_core.classes import CLASSES, FREE
from gsrender_core.data.frame import Frame
from gsrender_core.data.occ3d_labels import OCC3D_GRID, Occ3DLabels
from gsrender_core.pictures.voxel_view import BACKGROUND, BIRDS_EYE, THIRD_PERSON, View, render_voxels
from gsrender_core.voxel_grid import OccupancyGrid

WIDTH, GAP, TITLE = 1680, 14, 34  # px
CAMERA_ROWS = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)
_INK, _SOFT = (38, 42, 48), (112, 118, 126)
_FONT = cv2.FONT_HERSHEY_DUPLEX


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
    rows = [_headline(title), *_camera_rows(frame)]
    present = set(np.unique(prediction.semantics).tolist())
    if truth is None:
        rows += _alone(prediction, present)
    else:
        # A network may predict another volume than Occ3D's: each is drawn where it lies.
        volume = prediction.grid if tuple(prediction.grid.shape) == truth.semantics.shape else OCC3D_GRID
        present |= set(np.unique(truth.semantics).tolist())
        rows += _side_by_side(prediction, OccupancyGrid(truth.semantics, None, volume), truth.mask_camera == 0, present)
    return np.concatenate([*rows, _blank(GAP, WIDTH)])


def _alone(prediction: OccupancyGrid, present: set[int]) -> list[np.ndarray]:
    """Rows of one grid: wide from behind, from above, legend below."""
    side = BIRDS_EYE.size[0] + 80
    width = WIDTH - 3 * GAP - side
    # As much of the far end as the narrower view beside a ground truth shows.
    aspect = width / side * THIRD_PERSON.size[1] / THIRD_PERSON.size[0]
    fov_deg = 2 * math.degrees(math.atan(math.tan(math.radians(THIRD_PERSON.fov_deg) / 2) * aspect))
    behind = _draw(prediction, replace(THIRD_PERSON, size=(width, side), fov_deg=fov_deg))
    above = _draw(prediction, replace(BIRDS_EYE, size=(side, side)))
    panels = [_titled(behind, "prediction"), _titled(above, "prediction from above, forward up")]
    return [_row(panels), _row([_legend(WIDTH - 2 * GAP, 3, present)])]


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
        _titled(_draw(prediction, view), "prediction"),
        _titled(_draw(seen, view), "ground truth, where a camera sees it"),
    ]
    above = [
        _titled(_draw(prediction, BIRDS_EYE), "prediction from above, forward up"),
        _titled(_draw(truth, BIRDS_EYE, unseen), "ground truth; pale: no camera sees it"),
    ]
    legend = _legend(WIDTH - 4 * GAP - sum(panel.shape[1] for panel in above), 9, present)
    return [_row(behind), _row([*above, _titled(legend, "classes")])]


def _draw(occupancy: OccupancyGrid, view: View, pale: np.ndarray | None = None) -> np.ndarray:
    """One view; a parallel one shows the whole volume, at least the 80 m of Occ3D's."""
    if view.fov_deg is None:
        extent_m = 2 * max(abs(edge) for edge in (*occupancy.grid.min_m[:2], *occupancy.grid.max_m[:2]))
        view = replace(view, span_m=max(view.span_m, extent_m))
    return render_voxels(occupancy.semantics, occupancy.grid, view, pale=pale)


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)


def _write(image: np.ndarray, text: str, at: tuple[int, int], scale: float, color=_INK) -> None:
    cv2.putText(image, text, at, _FONT, scale, color, 1, cv2.LINE_AA)


def _headline(title: str) -> np.ndarray:
    strip = _blank(46, WIDTH)
    _write(strip, title, (GAP, 33), 0.72)
    return strip


def _titled(panel: np.ndarray, title: str) -> np.ndarray:
    strip = _blank(TITLE, panel.shape[1])
    _write(strip, title, (2, TITLE - 11), 0.6)
    return np.concatenate([strip, panel])


def _row(panels: list[np.ndarray]) -> np.ndarray:
    """Panels side by side with gaps, aligned at the top, on a strip of the sheet's width."""
    strip = _blank(GAP // 2 + max(p.shape[0] for p in panels), WIDTH)
    left = GAP
    for panel in panels:
        strip[GAP // 2 : GAP // 2 + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return strip


def _arrangement(names: tuple[str, ...]) -> list[list[int | None]]:
    """Indices of the cameras in rows of three; nuScenes' names around the car, others in their order."""
    if set(names) <= {name for row in CAMERA_ROWS for name in row}:
        return [[names.index(name) if name in names else None for name in row] for row in CAMERA_ROWS]
    order: list[int | None] = [*range(len(names)), *[None] * (-len(names) % 3)]
    return [order[i : i + 3] for i in range(0, len(order), 3)]


def _camera_rows(frame: Frame) -> list[np.ndarray]:
    width = (WIDTH - 4 * GAP) // 3
    height = round(width * frame.image_size[1] / frame.image_size[0])
    rows = []
    for indices in _arrangement(frame.camera_names):
        panels = []
        for index in indices:
            if index is None:
                panels.append(np.full((height, width, 3), 225, dtype=np.uint8))
                continue
            image = np.ascontiguousarray(frame.images[index].transpose(1, 2, 0))
            panel = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            name = frame.camera_names[index].removeprefix("CAM_").replace("_", " ").lower()
            (text_width, _), _ = cv2.getTextSize(name, _FONT, 0.52, 1)
            panel[4:28, 4 : text_width + 20] //= 3  # readable on sky and on road
            _write(panel, name, (11, 21), 0.52, (255, 255, 255))
            panels.append(panel)
        rows.append(_row(panels))
    return rows


def _legend(width: int, rows: int, present: set[int]) -> np.ndarray:
    """Colour and name of every class, column by column; classes that do not occur are printed pale."""
    columns, step = -(-len(CLASSES) // rows), 34
    legend = _blank(rows * step + 6, width)
    for item, entry in enumerate(CLASSES):
        x, y = (item // rows) * (width // columns), (item % rows) * step + 4
        color = entry.color
        if entry.id not in present:
            color = tuple((c + 2 * b) // 3 for c, b in zip(color, BACKGROUND, strict=True))
        cv2.rectangle(legend, (x, y), (x + 26, y + 20), color, -1)
        cv2.rectangle(legend, (x, y), (x + 26, y + 20), _SOFT, 1)
        _write(legend, entry.name.replace("_", " "), (x + 36, y + 16), 0.52, _INK if entry.id in present else _SOFT)
    return legend
