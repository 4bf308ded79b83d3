"""The sensor rig: nuScenes' own calibration and trigger offsets.

Source of every number: the tables of nuScenes scene-0061, first keyframe
(token ca9a282c9e77460f8360f564131a8af5), 1600x900 images, rounded to 0.1 mm and 1e-6.
"""

from dataclasses import dataclass

import numpy as np

from gsrender_core.geometry import resize_crop_intrinsics

NATIVE_WIDTH, NATIVE_HEIGHT = 1600, 900


@dataclass(frozen=True)
class CameraMount:
    """One camera: ``T_ego_cam`` as translation [m] and quaternion wxyz, focal length and principal
    point of the 1600x900 image [px], and how long before the LiDAR's stamp it fires [us]."""

    channel: str
    translation: tuple[float, float, float]
    rotation: tuple[float, float, float, float]
    focal_px: float
    center_px: tuple[float, float]
    lead_us: int


CAMERAS: tuple[CameraMount, ...] = (
    CameraMount(
        "CAM_FRONT",
        (1.7008, 0.0159, 1.5110),
        (0.499802, -0.503032, 0.499780, -0.497371),
        1266.4172,
        (816.2670, 491.5071),
        35491,
    ),
    CameraMount(
        "CAM_FRONT_RIGHT",
        (1.5508, -0.4934, 1.4957),
        (0.206035, -0.202694, 0.682451, -0.671361),
        1260.8474,
        (807.9682, 495.3344),
        27612,
    ),
    CameraMount(
        "CAM_FRONT_LEFT",
        (1.5239, 0.4946, 1.5093),
        (0.675727, -0.673627, 0.212140, -0.211228),
        1272.5979,
        (826.6155, 479.7517),
        43107,
    ),
    CameraMount(
        "CAM_BACK",
        (0.0283, 0.0035, 1.5791),
        (0.503787, -0.497402, -0.494185, 0.504550),
        809.2210,
        (829.2196, 481.7784),
        10426,
    ),
    CameraMount(
        "CAM_BACK_LEFT",
        (1.0357, 0.4848, 1.5910),
        (0.692419, -0.703162, -0.116483, 0.112033),
        1256.7415,
        (792.1126, 492.7757),
        528,
    ),
    CameraMount(
        "CAM_BACK_RIGHT",
        (1.0149, -0.4806, 1.5624),
        (0.122810, -0.132401, -0.700430, 0.690496),
        1259.5137,
        (807.2529, 501.1958),
        20058,
    ),
)

LIDAR_CHANNEL = "LIDAR_TOP"
LIDAR_TRANSLATION = (0.9437, 0.0, 1.8402)  # m, in the ego frame
LIDAR_ROTATION = (0.707796, -0.006492, 0.010646, -0.706307)  # wxyz: LiDAR x right, y forward, z up
LIDAR_BEAMS = 32
LIDAR_COLUMNS = 1084
LIDAR_ELEVATION_DEG = (-30.67, 10.67)  # ring 0 is the lowest beam
LIDAR_RANGE_NOISE_M = 0.02

KEYFRAME_PERIOD_US = 500_000  # 2 Hz
CAMERA_PERIOD_US = 83_333  # 12 Hz
LIDAR_PERIOD_US = 50_000  # 20 Hz


def intrinsics(camera: CameraMount, image_size: tuple[int, int]) -> np.ndarray:
    """Pinhole matrix float64 [3, 3] px of a camera at ``image_size`` (width, height).

    The native image is scaled to the width; a height below 9/16 of the width keeps the bottom rows,
    as nuScenes training does (704x256: scale 0.44, the top 140 of 396 rows dropped).

    Raises:
        ValueError: the size is empty, larger than 1600x900, or taller than 16:9.
    """
    width, height = image_size
    scale = width / NATIVE_WIDTH
    crop_top = round(NATIVE_HEIGHT * scale) - height
    if width < 16 or height < 16 or width > NATIVE_WIDTH or crop_top < 0:
        raise ValueError(
            f"image size {width}x{height} is not possible: width 16 to {NATIVE_WIDTH}, "
            f"height 16 to {round(NATIVE_HEIGHT * scale)} for this width"
        )
    K = np.array([[camera.focal_px, 0, camera.center_px[0]], [0, camera.focal_px, camera.center_px[1]], [0, 0, 1]])
    return resize_crop_intrinsics(K, (scale, scale), (0, crop_top))
