"""Camera images and LiDAR sweeps as nuScenes stores them."""

from pathlib import Path

import cv2
import numpy as np

from gsrender_core.data.nuscenes_tables import SensorRecord

_SWEEP_COLUMNS = 5  # x, y, z (m, LiDAR frame), intensity, ring


def read_image(record: SensorRecord) -> np.ndarray:
    """Read a camera image, uint8 [H, W, 3] RGB, at the size the tables state.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image, cut off, or of another size (the intrinsics would not fit).
    """
    path = record.filename
    if not path.is_file():
        raise FileNotFoundError(f"image {path} of {record.channel} is missing. Unpack the archive that holds it.")
    data = path.read_bytes()
    # OpenCV fills the missing part of a cut-off JPEG with grey and says nothing.
    if data.startswith(b"\xff\xd8") and b"\xff\xd9" not in data[-4096:]:
        raise ValueError(f"image {path} is cut off: {len(data)} bytes without a JPEG end marker. Copy it again.")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise ValueError(f"image {path} cannot be decoded ({len(data)} bytes). Copy it again.")
    if image.shape[1::-1] != record.size:
        raise ValueError(
            f"image {path} is {image.shape[1]}x{image.shape[0]}, sample_data states {record.size[0]}x{record.size[1]}; "
            "the intrinsics belong to the stated size. Use the original images."
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_sweep(path: Path) -> np.ndarray:
    """Read a LiDAR sweep, float32 [N, 5]: x, y, z in metres (LiDAR frame), intensity, ring.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut off (not whole points), empty, or coordinates that are not finite.
    """
    if not path.is_file():
        raise FileNotFoundError(f"LiDAR sweep {path} is missing. Unpack the archive that holds it.")
    size, point = path.stat().st_size, 4 * _SWEEP_COLUMNS
    if size == 0 or size % point:
        raise ValueError(
            f"LiDAR sweep {path} has {size} bytes, expected a positive multiple of {point}. Copy it again."
        )
    points = np.fromfile(path, dtype=np.float32).reshape(-1, _SWEEP_COLUMNS)
    bad = ~np.isfinite(points[:, :3]).all(axis=1)
    if bad.any():
        raise ValueError(f"LiDAR sweep {path}: {int(bad.sum())} of {len(points)} points are not finite. Copy it again.")
    return points
