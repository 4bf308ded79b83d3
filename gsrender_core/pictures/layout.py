"""Parts that the sheets share: titled panels in rows, camera images, the legend of classes. Everything is RGB."""

import cv2
import numpy as np

from gsrender_core.classes import CLASSES
from gsrender_core.data.frame import Frame
from gsrender_core.pictures.voxel_view import BACKGROUND

GAP, TITLE = 14, 34  # px
CAMERA_ROWS = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)
_INK, _SOFT = (38, 42, 48), (112, 118, 126)
_FONT = cv2.FONT_HERSHEY_DUPLEX


def blank(height: int, width: int) -> np.ndarray:
    """Background uint8 [height, width, 3]."""
    return np.full((height, width, 3), BACKGROUND, dtype=np.uint8)


def write(image: np.ndarray, text: str, at: tuple[int, int], scale: float, color=_INK) -> None:
    """Write ASCII text; ``at`` is the left end of its base line."""
    cv2.putText(image, text, at, _FONT, scale, color, 1, cv2.LINE_AA)


def headline(title: str, width: int) -> np.ndarray:
    """A strip with the sheet's title."""
    strip = blank(46, width)
    write(strip, title, (GAP, 33), 0.72)
    return strip


def titled(panel: np.ndarray, title: str) -> np.ndarray:
    """The panel below a strip with its title, written smaller where it would not fit."""
    strip = blank(TITLE, panel.shape[1])
    scale = 0.6
    while scale > 0.36 and cv2.getTextSize(title, _FONT, scale, 1)[0][0] > panel.shape[1] - 4:
        scale -= 0.04
    write(strip, title, (2, TITLE - 11), scale)
    return np.concatenate([strip, panel])


def row(panels: list[np.ndarray], width: int) -> np.ndarray:
    """Panels side by side with gaps, aligned at the top, on a strip of the sheet's width."""
    strip = blank(GAP // 2 + max(p.shape[0] for p in panels), width)
    left = GAP
    for panel in panels:
        strip[GAP // 2 : GAP // 2 + panel.shape[0], left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return strip


def arrangement(names: tuple[str, ...]) -> list[list[int | None]]:
    """Indices of the cameras in rows of three; nuScenes' names around the car, others in their order."""
    if set(names) <= {name for row in CAMERA_ROWS for name in row}:
        return [[names.index(name) if name in names else None for name in row] for row in CAMERA_ROWS]
    order: list[int | None] = [*range(len(names)), *[None] * (-len(names) % 3)]
    return [order[i : i + 3] for i in range(0, len(order), 3)]


def camera_panel(frame: Frame, index: int | None, width: int) -> np.ndarray:
    """A camera's image at a width with its name in the corner; an empty panel for None."""
    height = round(width * frame.image_size[1] / frame.image_size[0])
    if index is None:
        return np.full((height, width, 3), 225, dtype=np.uint8)
    image = np.ascontiguousarray(frame.images[index].transpose(1, 2, 0))
    panel = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    name = frame.camera_names[index].removeprefix("CAM_").replace("_", " ").lower()
    (text_width, _), _ = cv2.getTextSize(name, _FONT, 0.52, 1)
    panel[4:28, 4 : text_width + 20] //= 3  # readable on sky and on road
    write(panel, name, (11, 21), 0.52, (255, 255, 255))
    return panel


def legend(width: int, rows: int, present: set[int]) -> np.ndarray:
    """Colour and name of every class, column by column; classes that do not occur are printed pale."""
    columns, step = -(-len(CLASSES) // rows), 34
    image = blank(rows * step + 6, width)
    for item, entry in enumerate(CLASSES):
        x, y = (item // rows) * (width // columns), (item % rows) * step + 4
        color = entry.color
        if entry.id not in present:
            color = tuple((c + 2 * b) // 3 for c, b in zip(color, BACKGROUND, strict=True))
        cv2.rectangle(image, (x, y), (x + 26, y + 20), color, -1)
        cv2.rectangle(image, (x, y), (x + 26, y + 20), _SOFT, 1)
        write(image, entry.name.replace("_", " "), (x + 36, y + 16), 0.52, _INK if entry.id in present else _SOFT)
    return image
