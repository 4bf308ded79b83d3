import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gsrender_core.classes import FREE
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros import bag_messages as messages
from gsrender_ros.trials.ros1_recording import write_ros1_bag
from gsrender_ros.visualization import marker_bytes_from_occupancy

START_NS = 1_700_000_000_000_000_000
LATE_NS = 90_000_000_000  # a slow machine: recorded long after
MARKERS, TF = "visualization_msgs/msg/MarkerArray", "tf2_msgs/msg/TFMessage"
# What `rosmsg md5` says of ROS 1's types: a subscriber of another refuses the connection.
MD5 = {MARKERS: "d155b9ce5188fbaf89745847fd5882d7", TF: "94810edda583a504dfda3829e70d7eec"}


def write_recording(path, with_state: bool = False, tf: str = "/tf") -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    semantics = np.full((2, 2, 1), FREE, np.uint8)
    semantics[1, 0, 0] = 4
    occupancy = OccupancyGrid(semantics, None, VoxelGrid((-1.0, -1.0, 0.0), 1.0, (2, 2, 1)), START_NS + 5)
    pose = messages.transform_stamped(np.eye(4), START_NS, "map", "base_link")
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        markers = writer.add_connection("/markers", MARKERS, typestore=store, offered_qos_profiles=[messages.LATCHED])
        writer.write(markers, START_NS + LATE_NS, marker_bytes_from_occupancy(occupancy, "base_link"))
        transforms = writer.add_connection(tf, TF, typestore=messages.TYPESTORE)
        data = messages.TYPESTORE.serialize_cdr(messages.tf_message([pose]), TF)
        writer.write(transforms, START_NS + LATE_NS + 1, data)
        if with_state:
            kind = "lifecycle_msgs/msg/State"
            state = writer.add_connection("/state", kind, typestore=store)
            writer.write(state, START_NS, store.serialize_cdr(store.types[kind](id=1, label="active"), kind))


def test_markers_and_transforms_become_those_of_ros_1(tmp_path):
    write_recording(tmp_path / "recording")
    write_ros1_bag(tmp_path / "recording", tmp_path / "ros1.bag")
    with AnyReader([tmp_path / "ros1.bag"]) as reader:
        assert {c.msgtype: c.digest for c in reader.connections} == MD5
        assert {c.topic: bool(c.ext.latching) for c in reader.connections} == {"/markers": True, "/tf": False}
        (tf_at_ns, tf), (at_ns, array) = [
            (at, reader.deserialize(data, c.msgtype)) for c, at, data in reader.messages()
        ]  # at their own stamps, in their order
    assert (tf_at_ns, at_ns) == (START_NS, START_NS + 5)
    assert (tf.transforms[0].child_frame_id, tf.transforms[0].transform.rotation.w) == ("base_link", 1.0)
    delete_all, car = array.markers
    assert (delete_all.action, car.ns, car.type, car.scale.x, car.color.a) == (3, "car", 6, 1.0, 1.0)
    assert [(p.x, p.y, p.z) for p in car.points] == [(0.5, -0.5, 0.5)]
    assert (car.header.frame_id, car.header.stamp.nanosec) == ("base_link", 5)


def test_what_ros_1_does_not_know_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        write_ros1_bag(tmp_path / "none", tmp_path / "ros1.bag")
    write_recording(tmp_path / "recording", with_state=True)
    with pytest.raises(ValueError, match="/state carries lifecycle_msgs/msg/State, which ROS 1 does not know"):
        write_ros1_bag(tmp_path / "recording", tmp_path / "ros1.bag")


def test_without_transforms_rviz_would_stay_empty(tmp_path):
    write_recording(tmp_path / "recording", tf="/tf_static")
    with pytest.raises(ValueError, match="holds no /tf, so RViz could place nothing"):
        write_ros1_bag(tmp_path / "recording", tmp_path / "ros1.bag")
