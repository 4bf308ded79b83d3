"""Contact sheet of one keyframe: six images, the same with LiDAR points by class, and the labels from above."""

import json
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.classes import CLASS_COLORS, FREE, IGNORE, lidarseg_lookup
from gsrender_core.geometry import apply, inverse, project, transform

ROWS = (("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"), ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"))
TOP_PX = 4  # pixels a voxel in the top view


def top_view(semantics: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Highest label of each column by class colour, uint8 RGB [800, 800, 3], ego's forward up.

    Voxels outside ``mask`` are drawn dark.
    """
    occupied = semantics != FREE
    height = np.where(occupied.any(axis=2), 15 - occupied[:, :, ::-1].argmax(axis=2), 0)
    label = np.take_along_axis(semantics, height[..., None], axis=2)[..., 0]
    colors = np.concatenate([CLASS_COLORS, np.zeros((1, 3), np.uint8)])[label].astype(np.float64)
    colors *= (0.6 + 0.4 * height / 15)[..., None]
    if mask is not None:
        seen = np.take_along_axis(mask, height[..., None], axis=2)[..., 0] > 0
        colors *= np.where(seen, 1.0, 0.35)[..., None]
    image = colors.astype(np.uint8)[::-1, ::-1]  # x up, y left
    return np.repeat(np.repeat(image, TOP_PX, axis=0), TOP_PX, axis=1)


def draw_contact_sheet(data: Path, sample_token: str, out: Path) -> None:
    """Write a PNG that shows one keyframe of a nuScenes-schema folder with lidarseg and ``gts/``.

    Raises:
        FileNotFoundError: a table, image or label is missing.
        ValueError: the sample is not in the tables, or the PNG cannot be written.
    """
    data = Path(data)
    version = next(iter(sorted(data.glob("v1.0-*"))), None)
    if version is None:
        raise FileNotFoundError(f"{data} holds no version folder v1.0-*")
    read = {
        n: json.loads((version / f"{n}.json").read_text())
        for n in ("sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "scene", "lidarseg")
    }
    index = {n: {row["token"]: row for row in rows} for n, rows in read.items()}
    if sample_token not in index["sample"]:
        raise ValueError(f"sample {sample_token} is not in {version}; it has {len(read['sample'])} samples")
    frames = {}
    for row in read["sample_data"]:
        if row["sample_token"] == sample_token and row["is_key_frame"]:
            calibrated = index["calibrated_sensor"][row["calibrated_sensor_token"]]
            frames[index["sensor"][calibrated["sensor_token"]]["channel"]] = (
                row,
                calibrated,
                index["ego_pose"][row["ego_pose_token"]],
            )
    row, calibrated, ego = frames["LIDAR_TOP"]
    points = np.fromfile(data / row["filename"], np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    seg_file = next(r["filename"] for r in read["lidarseg"] if r["sample_data_token"] == row["token"])
    labels = lidarseg_lookup()[np.fromfile(data / seg_file, np.uint8)]
    in_global = apply(
        transform(ego["rotation"], ego["translation"]) @ transform(calibrated["rotation"], calibrated["translation"]),
        points,
    )
    plain, marked = [], []
    for channels in ROWS:
        images = [_draw_camera(data, frames[c], in_global, labels) for c in channels]
        plain.append(np.hstack([a for a, _ in images]))
        marked.append(np.hstack([b for _, b in images]))
    scene = index["scene"][index["sample"][sample_token]["scene_token"]]["name"]
    with np.load(data / "gts" / scene / sample_token / "labels.npz") as gt:
        views = [
            top_view(gt["semantics"]),
            top_view(gt["semantics"], gt["mask_camera"]),
            top_view(gt["semantics"], gt["mask_lidar"]),
        ]
    sheet = np.vstack(plain + marked)
    top = np.hstack(views)
    top = cv2.resize(
        top, (sheet.shape[1], round(top.shape[0] * sheet.shape[1] / top.shape[1])), interpolation=cv2.INTER_AREA
    )
    if not cv2.imwrite(str(out), np.vstack([sheet, top])[:, :, ::-1]):
        raise ValueError(f"could not write {out}; does its folder exist?")


def _draw_camera(data: Path, frame, points_global: np.ndarray, labels: np.ndarray):
    row, calibrated, ego = frame
    image = cv2.imread(str(data / row["filename"]))
    if image is None:
        raise FileNotFoundError(f"image {data / row['filename']} is missing or damaged")
    image = np.ascontiguousarray(image[:, :, ::-1])
    T_global_cam = transform(ego["rotation"], ego["translation"]) @ transform(
        calibrated["rotation"], calibrated["translation"]
    )
    pixels, depth = project(np.array(calibrated["camera_intrinsic"]), apply(inverse(T_global_cam), points_global))
    marked = image // 2
    inside = (
        (depth > 0.5)
        & (labels != IGNORE)
        & (pixels >= 0).all(axis=1)
        & (pixels < [row["width"], row["height"]]).all(axis=1)
    )
    for n in np.flatnonzero(inside)[np.argsort(-depth[inside])]:
        u, v = (int(p) for p in pixels[n])
        cv2.rectangle(marked, (u - 1, v - 1), (u + 1, v + 1), tuple(int(c) for c in CLASS_COLORS[labels[n]]), -1)
    return image, marked
