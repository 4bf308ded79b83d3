"""Calibration files: intrinsics and mounting of cameras where no topic carries them. Reads and writes; no rclpy.

One YAML document::

    ego_frame: base_link             # what the cameras are mounted on; base_link where it is left out
    cameras:
      cam_front:                     # name of the camera, as in the parameter `cameras`
        frame_id: cam_front          # for readers; the node needs no frame of a camera that is mounted here
        # Intrinsics: all three, or none where CameraInfo topics carry them.
        width: 1600                  # of the images that K belongs to, pixels
        height: 900
        K: [fx, 0, cx, 0, fy, cy, 0, 0, 1]
        # The lens, where images are not rectified; D as in CameraInfo.
        distortion_model: plumb_bob  # or rational_polynomial, equidistant (fisheye)
        D: [k1, k2, p1, p2, k3]
        # Mounting: both, or none where TF carries it.
        translation_m: [x, y, z]     # of the camera in ego_frame
        rotation_xyzw: [x, y, z, w]  # camera axes: x right, y down, z forward
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from gsrender_core.geometry import quaternion_from_rotation, transform
from gsrender_ros.lens import Distortion, distortion_of

_INTRINSICS = ("width", "height", "K")
_MOUNTING = ("translation_m", "rotation_xyzw")
_KEYS = ("frame_id", *_INTRINSICS, "distortion_model", "D", *_MOUNTING)
# Quaternions written with four digits are still rotations; a forgotten minus or a swapped number is none.
_NORM_LIMIT = 1e-2


CALIBRATION_FILE = "calibration.yaml"  # what `gsrender to-bag` leaves beside a bag's data


@dataclass(frozen=True)
class CameraCalibration:
    """One camera: ``K`` float64 [3, 3] px of images ``width`` x ``height``, or None (then both are 0); ``T_ego_cam``
    float64 [4, 4] m or None; ``distortion`` of its lens or None.
    """

    camera: str
    frame_id: str
    width: int
    height: int
    K: np.ndarray | None
    T_ego_cam: np.ndarray | None = None
    distortion: Distortion | None = None


@dataclass(frozen=True)
class RigCalibration:
    """All cameras of a rig by name, mounted on ``ego_frame``."""

    ego_frame: str
    cameras: dict[str, CameraCalibration]


def write_calibration(path: str | Path, rig: RigCalibration) -> None:
    """Write a rig as YAML."""
    cameras = {}
    for name, camera in rig.cameras.items():
        entry: dict = {"frame_id": camera.frame_id}
        if camera.K is not None:
            entry |= {"width": int(camera.width), "height": int(camera.height)}
            entry["K"] = [float(v) for v in np.asarray(camera.K).reshape(-1)]
        if camera.distortion is not None:
            entry |= {"distortion_model": camera.distortion.model, "D": list(camera.distortion.coefficients)}
        if camera.T_ego_cam is not None:
            w, x, y, z = (float(v) for v in quaternion_from_rotation(camera.T_ego_cam[:3, :3]))
            entry["translation_m"] = [float(v) for v in camera.T_ego_cam[:3, 3]]
            entry["rotation_xyzw"] = [x, y, z, w]
        cameras[name] = entry
    document = {"ego_frame": rig.ego_frame, "cameras": cameras}
    Path(path).write_text(yaml.safe_dump(document, sort_keys=False, default_flow_style=None), encoding="utf-8")


def read_calibration(path: str | Path) -> RigCalibration:
    """Read a rig from YAML.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a calibration file; the text names camera and key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"calibration file {path} does not exist")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"calibration file {path} is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(document, dict) or not isinstance(document.get("cameras"), dict):
        raise ValueError(f"calibration file {path} holds no mapping 'cameras'")
    unknown = sorted(str(key) for key in set(document) - {"ego_frame", "cameras"})
    if unknown:
        raise ValueError(f"calibration file {path}: key '{unknown[0]}' is unknown; known: ego_frame, cameras")
    cameras = {}
    for name, entry in document["cameras"].items():
        try:
            cameras[name] = _camera(name, entry)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"calibration file {path}, camera '{name}': {reason}") from error
    return RigCalibration(str(document.get("ego_frame", "base_link")), cameras)


def unused_cameras(rig: RigCalibration, cameras: tuple[str, ...]) -> list[str]:
    """One line for every camera of a file that is none of ``cameras``: mostly a name spelt differently."""
    lines = []
    for name in rig.cameras:
        if name not in cameras:
            same = [camera for camera in cameras if camera.lower() == name.lower()]
            near = same or difflib.get_close_matches(name, cameras, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"cameras: {', '.join(cameras)}"
            lines.append(f"calibration_file holds a camera '{name}' that is not used; {hint}")
    return lines


def _camera(name: str, entry: dict) -> CameraCalibration:
    if not isinstance(entry, dict):
        raise ValueError(f"expected a mapping of {', '.join(_KEYS)}, got {entry!r} (is the file complete?)")
    unknown = sorted(str(key) for key in set(entry) - set(_KEYS))
    if unknown:
        raise ValueError(f"key '{unknown[0]}' is unknown; known: {', '.join(_KEYS)}")
    width, height, K, lens, T_ego_cam = 0, 0, None, None, None
    if any(key in entry for key in (*_INTRINSICS, "distortion_model", "D")):
        width, height = (_size(entry, key) for key in ("width", "height"))
        K = _numbers(entry, "K", 9).reshape(3, 3)
        if K[0, 0] <= 0 or K[1, 1] <= 0 or K[2].tolist() != [0, 0, 1]:
            raise ValueError(f"K must be 9 numbers, focal lengths positive, the last row 0, 0, 1, got {entry['K']}")
    if "distortion_model" in entry or "D" in entry:
        lens = distortion_of(str(entry["distortion_model"]), _numbers(entry, "D", len(entry["D"])))
    if any(key in entry for key in _MOUNTING):
        x, y, z, w = _numbers(entry, "rotation_xyzw", 4)
        norm = float(np.linalg.norm((x, y, z, w)))
        if abs(norm - 1) > _NORM_LIMIT:
            raise ValueError(
                f"rotation_xyzw {entry['rotation_xyzw']} is no rotation: its norm is {norm:.4f}, expected 1"
            )
        T_ego_cam = transform((w, x, y, z), _numbers(entry, "translation_m", 3))
    if K is None and T_ego_cam is None:
        raise ValueError("neither intrinsics (width, height, K) nor a mounting (translation_m, rotation_xyzw)")
    return CameraCalibration(name, str(entry.get("frame_id", name)), width, height, K, T_ego_cam, lens)


def _size(entry: dict, key: str) -> int:
    value = entry[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} must be a positive number of pixels, got {value!r}")
    return value


def _numbers(entry: dict, key: str, count: int) -> np.ndarray:
    values = np.asarray(entry[key], dtype=np.float64).reshape(-1)
    if values.size != count or not np.isfinite(values).all():
        raise ValueError(f"{key} must be {count} finite numbers, got {entry[key]}")
    return values
