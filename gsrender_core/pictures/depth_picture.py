"""One sheet a frame: every camera's image, rendered depth before and after training, and LiDAR depth."""

import cv2
import numpy as np

from gsrender_core.data.frame import Frame
from gsrender_core.pictures.axes import write

NEAR_M, FAR_M = 1.0, 60.0  # ends of the colour scale, which is logarithmic
PANEL = 352  # width of an image, px
_GAP, _LINE = 6, 26
_TICKS_M = (1, 2, 5, 10, 20, 40, 60)


def depth_colors(depth_m: np.ndarray) -> np.ndarray:
    """Colours uint8 [..., 3] BGR of depths [...] m: red near, blue far, on a logarithmic scale; black for 0 and less.

    Depths beyond the scale's ends take the colour of the end.
    """
    depth_m = np.asarray(depth_m, dtype=np.float32)
    position = np.log(np.clip(depth_m, NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    table = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO).reshape(256, 3)
    colors = table[np.round(255 * (1 - position)).astype(np.uint8)]
    colors[depth_m <= 0] = 0
    return colors


def depth_picture(frame: Frame, before_m: np.ndarray, after_m: np.ndarray, title: str) -> np.ndarray:
    """Draw a row a camera: image, depth before, depth after, labelled points over the darkened image.

    Args:
        frame: with the labels to show.
        before_m, after_m: float32 [C, h, w] m, rendered depth, 0 where nothing is.
        title: headline.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    width = PANEL
    height = round(width * frame.image_size[1] / frame.image_size[0])
    sheet = 4 * width + 5 * _GAP
    columns = ("image", "rendered depth before", "rendered depth after", "LiDAR points held out")
    rows = [
        _line(sheet, [(_GAP, title)]),
        _line(sheet, [(_GAP + n * (width + _GAP), t) for n, t in enumerate(columns)]),
    ]
    for camera, name in enumerate(frame.camera_names):
        image = cv2.resize(frame.images[camera].transpose(1, 2, 0)[:, :, ::-1], (width, height))
        maps = [cv2.resize(depth_colors(m[camera]), (width, height), interpolation=cv2.INTER_NEAREST)
                for m in (before_m, after_m)]  # fmt: skip
        points = image // 4
        mine = frame.labels.select(frame.labels.camera == camera)
        scale = width / frame.image_size[0]
        order = np.argsort(-mine.depth_m)  # near ones last, on top
        for (u, v), color in zip(mine.uv[order] * scale, depth_colors(mine.depth_m[order]).tolist(), strict=True):
            cv2.circle(points, (int(u), int(v)), 1, color, -1)
        write(image, name, (6, 16), color=(255, 255, 255))
        gap = np.full((height, _GAP, 3), 255, np.uint8)
        panels = [gap]
        for panel in (image, *maps, points):
            panels += [panel, gap]
        rows += [np.concatenate(panels, axis=1), np.full((_GAP, sheet, 3), 255, np.uint8)]
    rows.append(_scale(sheet))
    return np.concatenate(rows)[:, :, ::-1]


def _line(width: int, texts: list[tuple[int, str]]) -> np.ndarray:
    line = np.full((_LINE, width, 3), 255, np.uint8)
    for x, text in texts:
        write(line, text, (x, _LINE - 9))
    return line


def _scale(width: int) -> np.ndarray:
    """The colour scale with its ticks in metres."""
    band = np.full((2 * _LINE, width, 3), 255, np.uint8)
    left, right = 60, width - 60
    metres = np.geomspace(NEAR_M, FAR_M, right - left).astype(np.float32)
    band[4:_LINE, left:right] = depth_colors(metres)[None]
    for metre in _TICKS_M:
        x = left + (right - left) * np.log(metre / NEAR_M) / np.log(FAR_M / NEAR_M)
        write(band, f"{metre} m", (int(x) - 10, 2 * _LINE - 8))
    return band
