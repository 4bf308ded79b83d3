"""PointCloud2 messages to points, whatever their layout: fields by name, organised, with NaN, with per-point times."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.classes import IGNORE
from gsrender_ros.image_conversions import stamp_to_ns

_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # by PointField.datatype
# Names that drivers give the time of a point: Ouster, Velodyne, Hesai, Livox, Robosense.
TIME_FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time", "time_offset", "point_time_offset")
LONGEST_SWEEP_S = 1.0


class CloudError(ValueError):
    """The cloud cannot be used; the text says why."""


@dataclass(frozen=True)
class Cloud:
    """Finite points of one message.

    Attributes:
        points: float64 [N, 3], m, in ``frame``.
        fields: every scalar field of the message by name, [N].
        times_ns: int64 [N], when each point was measured; None where the message does not say.
        stamp_ns: of the header.
        frame: its frame_id.
        dropped: points that were not finite.
    """

    points: np.ndarray
    fields: dict[str, np.ndarray]
    times_ns: np.ndarray | None
    stamp_ns: int
    frame: str
    dropped: int = 0


def read_cloud(message, point_times: str = "auto") -> Cloud:
    """The points of a PointCloud2, of rclpy or of rosbags.

    Args:
        message: the cloud.
        point_times: field with the points' times, "auto" for the first of ``TIME_FIELDS`` that is there, or "none".

    Raises:
        CloudError: no x, y, z, data that do not fill the stated size, no finite point, or times that make no sense.
    """
    order = ">" if message.is_bigendian else "<"
    layout = {f.name: (order + _NUMPY_TYPES[f.datatype], f.offset) for f in message.fields if f.count in (0, 1)}
    missing = [axis for axis in "xyz" if axis not in layout]
    if missing:
        raise CloudError(f"the cloud has no field {', '.join(missing)}; it has {[f.name for f in message.fields]}")
    count, step = message.width * message.height, message.point_step
    formats, offsets = zip(*layout.values(), strict=True)
    row = message.row_step or step * message.width
    data = np.frombuffer(bytes(message.data), np.uint8)
    ends = [offset + np.dtype(kind).itemsize for kind, offset in layout.values()]
    if count == 0 or max(ends) > step or row < step * message.width or data.size < row * message.height:
        raise CloudError(
            f"a cloud of {message.width}x{message.height} points of {step} bytes carries {data.size} bytes of data"
        )
    data = np.ascontiguousarray(data[: row * message.height].reshape(message.height, row)[:, : step * message.width])
    dtype = np.dtype({"names": list(layout), "formats": formats, "offsets": offsets, "itemsize": step})
    packed = data.reshape(-1).view(dtype)
    points = np.stack([packed[axis] for axis in "xyz"], axis=1).astype(np.float64)
    finite = np.isfinite(points).all(axis=1)
    # Drivers that may not leave a beam out put it at the origin.
    finite &= np.abs(points).max(axis=1) > 0
    if not finite.any():
        raise CloudError(f"none of the cloud's {count} points is finite and away from the origin")
    fields = {name: np.ascontiguousarray(packed[name][finite]) for name in layout if name not in "xyz"}
    stamp_ns = stamp_to_ns(message.header.stamp)
    times_ns = _times(fields, point_times, stamp_ns)
    frame = message.header.frame_id.lstrip("/")
    return Cloud(points[finite], fields, times_ns, stamp_ns, frame, int(count - finite.sum()))


def is_labelled(message, field: str = "label") -> int:
    """1 where a cloud's label field holds a class, 0 where all of it is unknown (255), -1 without such a field."""
    found = next((f for f in message.fields if f.name == field and f.count in (0, 1)), None)
    if found is None or message.point_step < 1:
        return -1
    kind = np.dtype((">" if message.is_bigendian else "<") + _NUMPY_TYPES[found.datatype])
    data = np.frombuffer(message.data, np.uint8)
    data = data[: len(data) // message.point_step * message.point_step].reshape(-1, message.point_step)
    values = np.ascontiguousarray(data[:, found.offset : found.offset + kind.itemsize]).view(kind)
    return int((values != IGNORE).any())


def _times(fields: dict[str, np.ndarray], wanted: str, stamp_ns: int) -> np.ndarray | None:
    """Absolute times: integers are ns, floats s; small values count from the stamp, large ones are absolute."""
    if wanted == "none":
        return None
    name = next((n for n in TIME_FIELDS if n in fields), None) if wanted == "auto" else wanted
    if name is None:
        return None
    if name not in fields:
        raise CloudError(f"the cloud has no field {name!r} (bag.point_times); it has {', '.join(fields)}")
    values = fields[name]
    if not np.isfinite(values).all():
        raise CloudError(f"the cloud's times ({name}) are not all finite")
    offsets = values.astype(np.float64)
    if values.dtype.kind == "f":
        largest = float(np.abs(offsets).max())
        if largest > 1e12:  # absolute nanoseconds as float64 (Livox)
            return np.round(offsets).astype(np.int64)
        if largest > 1e6:  # absolute seconds
            return np.round((offsets - stamp_ns / 1e9) * 1e9).astype(np.int64) + stamp_ns
        offsets = offsets * 1e9
    elif values.dtype.itemsize == 8 and float(offsets.max()) > 1e15:
        return values.astype(np.int64)
    if float(np.abs(offsets).max()) > LONGEST_SWEEP_S * 1e9:
        low, high = offsets.min() / 1e9, offsets.max() / 1e9
        raise CloudError(
            f"the cloud's times ({name}) reach from {low:.3f} to {high:.3f} s about its stamp: no sweep lasts longer "
            f"than {LONGEST_SWEEP_S:g} s; name another field in bag.point_times, or none"
        )
    return stamp_ns + np.round(offsets).astype(np.int64)
