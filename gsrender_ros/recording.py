"""What the node published, read back from a recording: grids out of PointCloud2, and its last diagnostics."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.typesys import Stores, get_typestore

from gsrender_core.classes import FREE, NUM_CLASSES
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid

_CLOUD_TYPE, _DIAGNOSTICS_TYPE = "sensor_msgs/msg/PointCloud2", "diagnostic_msgs/msg/DiagnosticArray"
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # by PointField.datatype
_WANTED = ("x", "y", "z", "label", "confidence")
# float32 centres of a grid of some hundred metres are exact to micrometres.
_OFF_CENTER_LIMIT = 0.01  # voxels


@dataclass
class Recording:
    """Content of a recording of the node.

    Attributes:
        grids: by stamp in ns, in the order of the messages.
        diagnostics: values of the node's last DiagnosticStatus, as text; empty where none was recorded.
        message: its summary.
        counts: messages a topic.
    """

    grids: dict[int, OccupancyGrid] = field(default_factory=dict)
    diagnostics: dict[str, str] = field(default_factory=dict)
    message: str = ""
    counts: dict[str, int] = field(default_factory=dict)


def occupancy_from_cloud(message, grid: VoxelGrid) -> OccupancyGrid:
    """The grid that ``conversions.cloud_from_occupancy`` was given.

    Args:
        message: a PointCloud2, of rclpy or of rosbags.
        grid: the volume that the sender predicts.

    Raises:
        ValueError: fields are missing, or a point is no voxel centre of ``grid``, doubled, or of an unknown class.
    """
    order = ">" if message.is_bigendian else "<"
    fields = {f.name: (order + _NUMPY_TYPES[f.datatype], f.offset) for f in message.fields if f.name in _WANTED}
    missing = [name for name in _WANTED if name not in fields]
    if missing:
        raise ValueError(f"cloud lacks the fields {', '.join(missing)}; it has {[f.name for f in message.fields]}")
    formats, offsets = zip(*(fields[name] for name in _WANTED), strict=True)
    layout = np.dtype({"names": _WANTED, "formats": formats, "offsets": offsets, "itemsize": message.point_step})
    points = np.frombuffer(bytes(message.data), layout, count=message.width * message.height)
    at = np.stack([points["x"], points["y"], points["z"]], axis=1).astype(np.float64)
    position = (at - np.array(grid.min_m)) / grid.voxel_size_m - 0.5
    index = np.round(position).astype(np.int64)
    off = np.abs(position - index).max(initial=0.0)
    if off > _OFF_CENTER_LIMIT or (index < 0).any() or (index >= np.array(grid.shape)).any():
        raise ValueError(f"cloud points are no voxel centres of {grid} (off by up to {off:.3f} voxels)")
    labels = points["label"]
    if (labels >= NUM_CLASSES).any():
        raise ValueError(f"cloud holds class id {int(labels.max())}; ids are 0..{NUM_CLASSES - 1}")
    flat = np.ravel_multi_index(tuple(index.T), grid.shape)
    if len(np.unique(flat)) != len(flat):
        raise ValueError(f"cloud holds {len(flat) - len(np.unique(flat))} voxels twice")
    semantics = np.full(grid.size, FREE, dtype=np.uint8)
    confidence = np.zeros(grid.size, dtype=np.float32)
    semantics[flat], confidence[flat] = labels, points["confidence"]
    stamp = message.header.stamp
    stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
    return OccupancyGrid(semantics.reshape(grid.shape), confidence.reshape(grid.shape), grid, stamp_ns)


def read_recording(bag: str | Path, grid: VoxelGrid) -> Recording:
    """Read a recording of the node's topics.

    Raises:
        ValueError: no readable rosbag2, or a cloud that is no grid.
    """
    recording, store = Recording(), get_typestore(Stores.ROS2_HUMBLE)
    try:
        with Reader(Path(bag)) as reader:
            recording.counts = {c.topic: c.msgcount for c in reader.connections}
            for connection, _, data in reader.messages():
                if connection.msgtype == _CLOUD_TYPE:
                    occupancy = occupancy_from_cloud(store.deserialize_cdr(data, connection.msgtype), grid)
                    recording.grids[occupancy.stamp_ns] = occupancy
                elif connection.msgtype == _DIAGNOSTICS_TYPE:
                    for status in store.deserialize_cdr(data, connection.msgtype).status:
                        if status.name.endswith(": occupancy"):
                            recording.diagnostics = {pair.key: pair.value for pair in status.values}
                            recording.message = status.message
    except (ReaderError, OSError) as error:
        raise ValueError(f"recording {bag} cannot be read: {error}") from error
    return recording
