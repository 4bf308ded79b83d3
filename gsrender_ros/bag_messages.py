"""Sensor records of a data set as ROS 2 messages for a bag: built with ``rosbags``, no rclpy."""

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.typesys import Stores, get_typestore

from gsrender_core.classes import IGNORE
from gsrender_core.geometry import quaternion_from_rotation

# Of all distributions we write for, the definitions of these messages agree; their type hashes do too.
TYPESTORE = get_typestore(Stores.ROS2_HUMBLE)

_TYPES = TYPESTORE.types
_Time = _TYPES["builtin_interfaces/msg/Time"]
_Header = _TYPES["std_msgs/msg/Header"]
_Vector3 = _TYPES["geometry_msgs/msg/Vector3"]
_Quaternion = _TYPES["geometry_msgs/msg/Quaternion"]
_Point = _TYPES["geometry_msgs/msg/Point"]
_PointField = _TYPES["sensor_msgs/msg/PointField"]

# What a bag says of a topic whose last message is for those who come late, as /tf_static.
_ENDLESS = QosTime(sec=9223372036, nsec=854775807)
LATCHED = Qos(
    history=QosHistory.KEEP_LAST,
    depth=1,
    reliability=QosReliability.RELIABLE,
    durability=QosDurability.TRANSIENT_LOCAL,
    deadline=_ENDLESS,
    lifespan=_ENDLESS,
    liveliness=QosLiveliness.AUTOMATIC,
    liveliness_lease_duration=_ENDLESS,
    avoid_ros_namespace_conventions=False,
)

# One LiDAR point: 20 bytes, as fields() below names them; the last byte pads to a multiple of four.
_POINT = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "ring", "label"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u2", "u1"],
        "offsets": [0, 4, 8, 12, 16, 18],
        "itemsize": 20,
    }
)
_POINT_FIELD_TYPE = {"f4": 7, "u2": 4, "u1": 2}  # PointField's FLOAT32, UINT16, UINT8
# Odometry of a recording carries no velocity: this variance (m^2/s^2) says that the zeros are no measurement.
UNKNOWN_VARIANCE = 1e6


def header(stamp_ns: int, frame_id: str):
    """std_msgs/Header."""
    return _Header(stamp=_Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9), frame_id=frame_id)


def transform_stamped(T_parent_child: np.ndarray, stamp_ns: int, parent: str, child: str):
    """geometry_msgs/TransformStamped of a float64 [4, 4] in metres."""
    return _TYPES["geometry_msgs/msg/TransformStamped"](
        header=header(stamp_ns, parent),
        child_frame_id=child,
        transform=_TYPES["geometry_msgs/msg/Transform"](
            translation=_Vector3(*(float(v) for v in T_parent_child[:3, 3])), rotation=_quaternion(T_parent_child)
        ),
    )


def tf_message(transforms: list):
    """tf2_msgs/TFMessage."""
    return _TYPES["tf2_msgs/msg/TFMessage"](transforms=transforms)


def odometry(T_global_ego: np.ndarray, stamp_ns: int, frame_id: str, child_frame_id: str):
    """nav_msgs/Odometry: the pose, and a twist marked as unknown by its covariance."""
    zero = _Vector3(0.0, 0.0, 0.0)
    pose = _TYPES["geometry_msgs/msg/Pose"](
        position=_Point(*(float(v) for v in T_global_ego[:3, 3])), orientation=_quaternion(T_global_ego)
    )
    return _TYPES["nav_msgs/msg/Odometry"](
        header=header(stamp_ns, frame_id),
        child_frame_id=child_frame_id,
        pose=_TYPES["geometry_msgs/msg/PoseWithCovariance"](pose=pose, covariance=np.zeros(36)),
        twist=_TYPES["geometry_msgs/msg/TwistWithCovariance"](
            twist=_TYPES["geometry_msgs/msg/Twist"](linear=zero, angular=zero),
            covariance=np.diag(np.full(6, UNKNOWN_VARIANCE)).reshape(-1),
        ),
    )


def compressed_image(data: bytes, image_format: str, stamp_ns: int, frame_id: str):
    """sensor_msgs/CompressedImage of a file's bytes, unchanged."""
    return _TYPES["sensor_msgs/msg/CompressedImage"](
        header=header(stamp_ns, frame_id), format=image_format, data=np.frombuffer(data, np.uint8)
    )


def raw_image(image: np.ndarray, encoding: str, stamp_ns: int, frame_id: str):
    """sensor_msgs/Image of uint8 [H, W, 3] whose channels are in the order that ``encoding`` says."""
    height, width, channels = image.shape
    return _TYPES["sensor_msgs/msg/Image"](
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=width * channels,
        data=np.ascontiguousarray(image).reshape(-1),
    )


def camera_info(K: np.ndarray, size: tuple[int, int], stamp_ns: int, frame_id: str):
    """sensor_msgs/CameraInfo of a rectified pinhole camera: ``K`` [3, 3] px, ``size`` width and height."""
    P = np.zeros((3, 4))
    P[:, :3] = K
    return _TYPES["sensor_msgs/msg/CameraInfo"](
        header=header(stamp_ns, frame_id),
        height=size[1],
        width=size[0],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.asarray(K, dtype=np.float64).reshape(-1),
        r=np.eye(3).reshape(-1),
        p=P.reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=_TYPES["sensor_msgs/msg/RegionOfInterest"](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def point_cloud(points: np.ndarray, labels: np.ndarray | None, stamp_ns: int, frame_id: str):
    """sensor_msgs/PointCloud2 of one sweep.

    Args:
        points: float32 [N, 5]: x, y, z (m, LiDAR frame), intensity, ring.
        labels: uint8 [N], class id 0..16 or ``IGNORE``; None: no point has a class.
    """
    packed = np.zeros(len(points), _POINT)
    for column, name in enumerate(("x", "y", "z", "intensity", "ring")):
        packed[name] = points[:, column]
    packed["label"] = IGNORE if labels is None else labels
    fields = [
        _PointField(name=name, offset=_POINT.fields[name][1], datatype=_POINT_FIELD_TYPE[kind.str[1:]], count=1)
        for name, kind in ((name, _POINT.fields[name][0]) for name in _POINT.names)
    ]
    return _TYPES["sensor_msgs/msg/PointCloud2"](
        header=header(stamp_ns, frame_id),
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=_POINT.itemsize,
        row_step=_POINT.itemsize * len(points),
        data=packed.view(np.uint8),
        is_dense=True,
    )


def _quaternion(T: np.ndarray):
    w, x, y, z = (float(v) for v in quaternion_from_rotation(T[:3, :3]))
    return _Quaternion(x=x, y=y, z=z, w=w)
