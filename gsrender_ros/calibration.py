"""Calibration files: intrinsics and mounting of cameras where no topic carries them. Reads and writes; no rclpy.

One YAML document::

    ego_frame: base_link
    cameras:
      cam_front:                     # name of the camera, lower case
        frame_id: cam_front
        width: 1600                  # of the images that K belongs to, pixels
        height: 900
        K: [fx, 0, cx, 0, fy, cy, 0, 0, 1]
        translation_m: [x, y, z]     # of the camera in ego_frame; leave both out where TF carries them
        rotation_xyzw: [x, y, z, w]
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from gsrender_core.geometry import quaternion_from_rotation, transform


@dataclass(frozen=True)
class CameraCalibration:
    """One camera: ``K`` float64 [3, 3] px of images ``width`` x ``height``; ``T_ego_cam`` float64 [4, 4] m or None."""

    camera: str
    frame_id: str
    width: int
    height: int
    K: np.ndarray
    T_ego_cam: np.ndarray | None = None


@dataclass(frozen=True)
class RigCalibration:
    """All cameras of a rig by name, mounted on ``ego_frame``."""

    ego_frame: str
    cameras: dict[str, CameraCalibration]


def write_calibration(path: str | Path, rig: RigCalibration) -> None:
    """Write a rig as YAML."""
    cameras = {}
    for name, camera in rig.cameras.items():
        entry = {
            "frame_id": camera.frame_id,
            "width": int(camera.width),
            "height": int(camera.height),
            "K": [float(v) for v in np.asarray(camera.K).reshape(-1)],
        }
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
    cameras = {}
    for name, entry in document["cameras"].items():
        try:
            cameras[name] = _camera(name, entry)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"calibration file {path}, camera '{name}': {reason}") from error
    return RigCalibration(str(document.get("ego_frame", "base_link")), cameras)


def _camera(name: str, entry: dict) -> CameraCalibration:
    K = np.asarray(entry["K"], dtype=np.float64)
    if K.size != 9 or not np.isfinite(K).all() or K.flat[0] <= 0 or K.flat[4] <= 0:
        raise ValueError(f"K must be 9 finite numbers with positive focal lengths, got {entry['K']}")
    T_ego_cam = None
    if "translation_m" in entry or "rotation_xyzw" in entry:
        x, y, z, w = (float(v) for v in entry["rotation_xyzw"])
        T_ego_cam = transform((w, x, y, z), [float(v) for v in entry["translation_m"]])
    return CameraCalibration(
        name, str(entry.get("frame_id", name)), int(entry["width"]), int(entry["height"]), K.reshape(3, 3), T_ego_cam
    )
