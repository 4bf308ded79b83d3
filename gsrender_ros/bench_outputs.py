"""What comes after the network: a grid of 60,000 occupied voxels to published messages, debug images, a self-check."""

import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid as OccupancyMap
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gsrender_core.data.frame import Frame
from gsrender_core.geometry import transform
from gsrender_core.metrics.lidar_rays import LidarRayAgreement
from gsrender_ros.bench_markers import median_ms, occupancy_of
from gsrender_ros.conversions import cloud_from_occupancy
from gsrender_ros.debug_images import CameraView
from gsrender_ros.environment import prepare_environment
from gsrender_ros.occupancy_projection import MapBand, map_from_occupancy
from gsrender_ros.outputs import LATCHED
from gsrender_ros.prediction import Prediction
from gsrender_ros.visualization import marker_bytes_from_occupancy

CUBES = 60_000
CAMERAS, SIZE, SHRINK = 6, (704, 256), 2
RAYS = 20_000


def bench_outputs(quick: bool = False) -> dict:
    """Median milliseconds, with real publishers. Voxels are strewn at random, which no cache likes.

    Keys: cubes, cloud_ms, markers_ms, map_ms and their sum total_ms (what the worker waits for); debug_images_ms (six
    cameras at half the network's size) and self_check_ms (20,000 rays), which run in threads of their own.
    """
    repeats = 15 if quick else 51
    occupancy = occupancy_of(CUBES)
    band = MapBand(0.2, 2.2, ("driveable_surface",))
    prepare_environment()
    context = Context()
    rclpy.init(context=context)
    node = Node("bench_outputs", context=context)
    try:
        clouds = node.create_publisher(PointCloud2, "~/cloud", LATCHED)
        markers = node.create_publisher(MarkerArray, "~/markers", LATCHED)
        maps = node.create_publisher(OccupancyMap, "~/map", LATCHED)
        row = {
            "cubes": CUBES,
            "cloud_ms": median_ms(repeats, lambda: clouds.publish(cloud_from_occupancy(occupancy, "ego"))),
            "markers_ms": median_ms(repeats, lambda: markers.publish(marker_bytes_from_occupancy(occupancy, "ego"))),
            "map_ms": median_ms(repeats, lambda: maps.publish(map_from_occupancy(occupancy, "ego", band))),
        }
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    row["total_ms"] = row["cloud_ms"] + row["markers_ms"] + row["map_ms"]
    prediction = Prediction(occupancy, _frame(), (0,) * CAMERAS, ("camera",) * CAMERAS)
    row["debug_images_ms"] = median_ms(5, lambda: _draw(prediction))
    points = np.random.default_rng(1).uniform(occupancy.grid.min_m, occupancy.grid.max_m, (RAYS, 3))
    origin = np.array([0.9, 0.0, 1.8])
    row["self_check_ms"] = median_ms(
        5, lambda: LidarRayAgreement(occupancy.grid).update(occupancy.semantics, origin, points)
    )
    return row


def _frame() -> Frame:
    """Six level cameras all around."""
    K = np.array([[560.0, 0, 352], [0, 560.0, 128], [0, 0, 1]])
    turns = [np.pi / 3 * camera for camera in range(CAMERAS)]
    # ego <- optical, turned about the ego's z axis
    rotations = [np.array([[np.sin(a), 0, np.cos(a)], [-np.cos(a), 0, np.sin(a)], [0.0, -1.0, 0.0]]) for a in turns]
    T_ego_cam = np.stack([transform(rotation, (1.0, 0.0, 1.5)) for rotation in rotations])
    images = np.zeros((CAMERAS, 3, SIZE[1], SIZE[0]), np.uint8)
    names = tuple(f"camera {camera}" for camera in range(CAMERAS))
    return Frame(images, np.stack([K] * CAMERAS), T_ego_cam, np.eye(4), 0, names)


def _draw(prediction: Prediction) -> None:
    for camera in range(CAMERAS):
        view = CameraView(prediction, camera, SHRINK)
        view.semantic_message(0.5)
        view.depth_message()
