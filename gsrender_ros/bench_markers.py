"""What markers cost to build and publish, through message objects and as bytes; also the cloud."""

import time

import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from visualization_msgs.msg import MarkerArray

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.conversions import cloud_from_occupancy
from gsrender_ros.environment import prepare_environment
from gsrender_ros.outputs import LATCHED
from gsrender_ros.visualization import marker_bytes_equal_objects, marker_bytes_from_occupancy, markers_from_occupancy

CUBES = 30_000


def occupancy_of(cubes: int, seed: int = 0) -> OccupancyGrid:
    """A grid of Occ3D's size with ``cubes`` occupied voxels of all classes."""
    rng = np.random.default_rng(seed)
    grid = VoxelGrid()
    semantics = np.full(grid.size, FREE, np.uint8)
    semantics[rng.choice(grid.size, cubes, replace=False)] = rng.integers(0, FREE, cubes)
    confidence = rng.random(grid.shape, dtype=np.float32)
    return OccupancyGrid(semantics.reshape(grid.shape), confidence, grid, 1_532_402_927_612_460_000)


def bench_markers(quick: bool = False) -> dict:
    """Median milliseconds for 30,000 cubes with a real publisher, and the ratio of both ways in this run.

    Keys: cubes, objects_ms, bytes_ms, ratio, cloud_ms, same_bytes.
    """
    repeats = (3, 15) if quick else (7, 51)
    occupancy = occupancy_of(CUBES)
    prepare_environment()
    context = Context()
    rclpy.init(context=context)
    node = Node("bench_markers", context=context)
    try:
        publisher = node.create_publisher(MarkerArray, "~/markers", LATCHED)
        objects_ms = median_ms(repeats[0], lambda: publisher.publish(markers_from_occupancy(occupancy, "ego")))
        bytes_ms = median_ms(repeats[1], lambda: publisher.publish(marker_bytes_from_occupancy(occupancy, "ego")))
        cloud_ms = median_ms(repeats[1], lambda: cloud_from_occupancy(occupancy, "base_link"))
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    return {
        "cubes": CUBES,
        "objects_ms": objects_ms,
        "bytes_ms": bytes_ms,
        "ratio": objects_ms / bytes_ms,
        "cloud_ms": cloud_ms,
        "same_bytes": marker_bytes_equal_objects(occupancy, "base_link"),
    }


def median_ms(repeats: int, work) -> float:
    """Median of the milliseconds that ``work()`` takes, after a first call that does not count."""
    work()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return float(np.median(durations) * 1e3)
