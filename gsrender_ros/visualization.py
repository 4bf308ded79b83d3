"""Occupancy as markers for RViz: one CUBE_LIST a class, as message objects or, much faster, as their CDR bytes.

The bytes equal ``rclpy.serialization.serialize_message`` of the objects but for alignment padding, which
that leaves uninitialised and we fill with zeros. The order of a message's fields could differ in another
distribution: ``MarkerBuilder`` compares both once and falls back to objects.
"""

import struct

import numba
import numpy as np
from geometry_msgs.msg import Point
from rclpy.serialization import serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from gsrender_core.classes import CLASS_COLORS, CLASS_NAMES, FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.occupied_voxels import occupied_index

CDR_LITTLE_ENDIAN = b"\x00\x01\x00\x00"


def cubes_by_class(occupancy: OccupancyGrid) -> list[tuple[int, np.ndarray]]:
    """(class id, voxel centres float64 [N, 3] in the ego frame, m) of every class that occurs, ids ascending."""
    index = occupied_index(occupancy.semantics)
    labels = occupancy.semantics.reshape(-1)[index]
    counts = np.bincount(labels, minlength=FREE)
    ends = np.cumsum(counts)
    centers = np.empty((len(index), 3))
    _fill_centers((index, labels), occupancy.grid.axis_centers(), ends - counts, centers)
    return [(int(id_), centers[ends[id_] - counts[id_] : ends[id_]]) for id_ in np.flatnonzero(counts)]


@numba.njit(nogil=True, cache=True)
def _fill_centers(voxels, axis_centers, begins, centers):
    """Centres of voxels (flat index, label), those of a class from its place in ``begins`` on, which is moved."""
    index, labels = voxels
    xs, ys, zs = axis_centers
    for m in range(len(index)):
        n = begins[labels[m]]
        begins[labels[m]] = n + 1
        column, k = divmod(index[m], len(zs))
        i, j = divmod(column, len(ys))
        centers[n, 0], centers[n, 1], centers[n, 2] = xs[i], ys[j], zs[k]


def markers_from_occupancy(occupancy: OccupancyGrid, frame_id: str) -> MarkerArray:
    """MarkerArray of message objects: DELETEALL, then one CUBE_LIST (ns = class, id 0) of every class that occurs."""
    array = MarkerArray()
    array.markers.append(_marker(occupancy, frame_id, Marker.DELETEALL))
    for class_id, centers in cubes_by_class(occupancy):
        marker = _marker(occupancy, frame_id, Marker.ADD)
        marker.ns, marker.type = CLASS_NAMES[class_id], Marker.CUBE_LIST
        size = float(occupancy.grid.voxel_size_m)
        marker.scale.x = marker.scale.y = marker.scale.z = size
        marker.color.r, marker.color.g, marker.color.b = (float(c) / 255.0 for c in CLASS_COLORS[class_id])
        marker.color.a = 1.0
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in centers.tolist()]
        array.markers.append(marker)
    return array


def _marker(occupancy: OccupancyGrid, frame_id: str, action: int) -> Marker:
    marker = Marker()
    set_stamp(marker.header.stamp, occupancy.stamp_ns)
    marker.header.frame_id = frame_id
    marker.action = action
    marker.pose.orientation.w = 1.0
    return marker


class _CdrWriter:
    """Appends values to a CDR stream: little endian, every value aligned to its own size."""

    def __init__(self):
        self._parts = [CDR_LITTLE_ENDIAN]
        self._size = 0  # of the body; alignment counts from behind the 4 bytes of the header
        self.padding: list[int] = []  # positions of padding bytes in the result

    def _append(self, data: bytes | memoryview, alignment: int) -> None:
        padding = -self._size % alignment
        self.padding.extend(range(4 + self._size, 4 + self._size + padding))
        self._parts += (b"\x00" * padding, data)
        self._size += padding + len(data)

    def uint32(self, value: int) -> None:
        self._append(struct.pack("<I", value), 4)

    def int32(self, *values: int) -> None:
        self._append(struct.pack(f"<{len(values)}i", *values), 4)

    def float32(self, *values: float) -> None:
        self._append(struct.pack(f"<{len(values)}f", *values), 4)

    def float64(self, *values: float) -> None:
        self._append(struct.pack(f"<{len(values)}d", *values), 8)

    def boolean(self, value: bool) -> None:
        self._append(b"\x01" if value else b"\x00", 1)

    def string(self, text: str) -> None:
        data = text.encode() + b"\x00"
        self.uint32(len(data))
        self._append(data, 1)

    def points(self, points: np.ndarray) -> None:
        """A sequence of geometry_msgs/Point [N, 3]."""
        self.uint32(len(points))
        if len(points):  # an empty sequence aligns nothing
            self._append(memoryview(np.ascontiguousarray(points, "<f8")).cast("B"), 8)

    def finish(self) -> bytes:
        return b"".join(self._parts)


def marker_bytes_from_occupancy(occupancy: OccupancyGrid, frame_id: str) -> bytes:
    """The CDR bytes of ``markers_from_occupancy``, without making its objects."""
    return _write_markers(occupancy, frame_id).finish()


def marker_bytes_equal_objects(occupancy: OccupancyGrid, frame_id: str) -> bool:
    """Whether the bytes are those of the serialised objects, padding apart. Slow: it builds both."""
    writer = _write_markers(occupancy, frame_id)
    ours = np.frombuffer(writer.finish(), np.uint8)
    theirs = np.frombuffer(serialize_message(markers_from_occupancy(occupancy, frame_id)), np.uint8).copy()
    if len(ours) != len(theirs):
        return False
    theirs[writer.padding] = 0
    return bool(np.array_equal(ours, theirs))


def _write_markers(occupancy: OccupancyGrid, frame_id: str) -> _CdrWriter:
    cubes = cubes_by_class(occupancy)
    stamp = divmod(int(occupancy.stamp_ns), 1_000_000_000)
    size = float(occupancy.grid.voxel_size_m)
    writer = _CdrWriter()
    writer.uint32(len(cubes) + 1)
    nothing = np.empty((0, 3))
    _write_marker(writer, (stamp, frame_id), ("", Marker.ARROW, Marker.DELETEALL), (0.0, (0.0,) * 4), nothing)
    for class_id, centers in cubes:
        color = (*(float(c) / 255.0 for c in CLASS_COLORS[class_id]), 1.0)
        _write_marker(
            writer,
            (stamp, frame_id),
            (CLASS_NAMES[class_id], Marker.CUBE_LIST, Marker.ADD),
            (size, color),
            centers,
        )
    return writer


def _write_marker(writer: _CdrWriter, header: tuple, kind: tuple, look: tuple, points: np.ndarray) -> None:
    """visualization_msgs/Marker field by field."""
    (seconds, nanoseconds), frame_id = header
    namespace, marker_type, action = kind
    size, color = look
    writer.int32(seconds)
    writer.uint32(nanoseconds)
    writer.string(frame_id)
    writer.string(namespace)
    writer.int32(0, marker_type, action)  # id, type, action
    writer.float64(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)  # pose
    writer.float64(size, size, size)
    writer.float32(*color)
    writer.int32(0, 0)  # lifetime: for ever
    writer.boolean(False)  # frame_locked
    writer.points(points)
    writer.uint32(0)  # colors: all cubes of a list share the marker's
    writer.string("")  # texture_resource
    writer.int32(0, 0)  # texture: stamp, frame_id, format, data
    writer.string("")
    writer.string("")
    writer.uint32(0)
    writer.uint32(0)  # uv_coordinates
    writer.string("")  # text
    writer.string("")  # mesh_resource
    writer.string("")  # mesh_file: filename, data
    writer.uint32(0)
    writer.boolean(False)  # mesh_use_embedded_materials


def empty_markers(frame_id: str) -> MarkerArray:
    """MarkerArray that deletes all markers."""
    marker = Marker()
    marker.header.frame_id, marker.action = frame_id, Marker.DELETEALL
    marker.pose.orientation.w = 1.0
    return MarkerArray(markers=[marker])


class MarkerBuilder:
    """Builds what ``Publisher.publish`` takes for markers: bytes, or objects where the bytes would be wrong.

    Args:
        logger: says loudly when the fast way is not usable.
    """

    def __init__(self, logger):
        self.fast = self.bytes_are_right()
        if not self.fast:
            logger.error(
                "visualization_msgs/MarkerArray is laid out differently in this distribution: markers are built as "
                "message objects, which is some 30 times slower; lower markers.max_rate_hz"
            )

    def __call__(self, occupancy: OccupancyGrid, frame_id: str) -> bytes | MarkerArray:
        """Markers of one grid."""
        build = marker_bytes_from_occupancy if self.fast else markers_from_occupancy
        return build(occupancy, frame_id)

    @staticmethod
    def bytes_are_right() -> bool:
        """Compare bytes and objects on a small grid that holds every class and odd lengths of strings."""
        return all(marker_bytes_equal_objects(every_class(), frame) for frame in ("base_link", "ego", "a"))


def every_class() -> OccupancyGrid:
    """A small grid in which every class occurs, to try outputs on."""
    grid = VoxelGrid((-1.0, 2.0, 0.5), 0.3, (4, 3, 3))
    semantics = (np.arange(grid.size, dtype=np.uint8) % (FREE + 1)).reshape(grid.shape)
    return OccupancyGrid(semantics, None, grid, 1_532_402_927_612_460_123)
