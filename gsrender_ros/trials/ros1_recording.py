"""A rosbag2 as a ROS 1 bag whose messages are laid out as ROS 1 knows them, which a plain conversion does not do.

A type that has gained fields since (visualization_msgs/Marker) is another type to ROS 1, and its subscribers refuse it.
"""

from pathlib import Path

from rosbags.highlevel import AnyReader
from rosbags.interfaces import Nodetype, QosDurability
from rosbags.rosbag1 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from gsrender_ros.image_conversions import stamp_to_ns


def write_ros1_bag(recording: Path, bag: Path) -> None:
    """Convert a recording; every message is written at its own stamp where it has one, for that is what /clock shows.

    Raises:
        FileNotFoundError: no such recording.
        ValueError: a type of which ROS 1 knows nothing, or no transforms.
    """
    store = ros1_types()
    if not recording.exists():
        raise FileNotFoundError(f"recording {recording} does not exist")
    with AnyReader([recording]) as reader, Writer(bag) as writer:
        if not any(connection.topic.rsplit("/", 1)[-1] == "tf" for connection in reader.connections):
            raise ValueError(f"{recording} holds no /tf, so RViz could place nothing: record /tf and /tf_static too")
        entries = []
        for connection, at_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            entries.append((_stamp_ns(message) or at_ns, connection, message))
        connections = {}
        for at_ns, connection, message in sorted(entries, key=lambda entry: entry[0]):
            kind = connection.msgtype
            if kind not in store.types:
                raise ValueError(f"{connection.topic} carries {kind}, which ROS 1 does not know: record without it")
            if connection.topic not in connections:
                connections[connection.topic] = writer.add_connection(
                    connection.topic, kind, typestore=store, latching=int(_is_latched(connection))
                )
            raw = store.serialize_ros1(as_ros1(message, kind, store), kind)
            writer.write(connections[connection.topic], at_ns, raw)


def _is_latched(connection) -> bool:
    """Whether late subscribers get the last message."""
    return any(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in connection.ext.offered_qos_profiles)


def ros1_types():
    """The type store of ROS 1, with the transforms that rosbags leaves out."""
    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage"))
    return store


def as_ros1(message, kind: str, store):
    """A message as an object of ``store``'s type of the same name: its fields by name, what is new left out."""
    values = {}
    for name, description in store.fielddefs[kind][1]:
        if name == "seq" and not hasattr(message, name):
            values[name] = 0  # of a header; ROS 2 has dropped it
        else:
            values[name] = _value(getattr(message, name), description, store)
    return store.types[kind](**values)


def _value(value, description, store):
    form, inner = description
    if form == Nodetype.NAME:
        return as_ros1(value, inner, store)
    if form in (Nodetype.ARRAY, Nodetype.SEQUENCE) and inner[0][0] == Nodetype.NAME:
        return [as_ros1(element, inner[0][1], store) for element in value]
    return value


def _stamp_ns(message) -> int:
    """The stamp of a message, or of the first that it holds; 0 where there is none."""
    for name in ("transforms", "markers"):
        if elements := getattr(message, name, None):
            return max(stamp_to_ns(element.header.stamp) for element in elements)
    return stamp_to_ns(message.header.stamp) if hasattr(message, "header") else 0
