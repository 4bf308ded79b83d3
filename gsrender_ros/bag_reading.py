"""Opening rosbag2 folders, with one line of explanation where that fails; no rclpy."""

import importlib
from pathlib import Path

from rosbags.rosbag2 import Reader, ReaderError


class BagError(Exception):
    """The bag cannot be read; the text says why in one line."""


def message_class(type_name: str):
    """The Python class of a message type such as "sensor_msgs/msg/Image".

    Raises:
        ImportError, AttributeError: its package is not installed or lacks the type.
    """
    package, kind, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), name)


def open_bag(path: str | Path) -> Reader:
    """Open a rosbag2 folder for reading.

    Raises:
        BagError: no such bag, no or damaged metadata, truncated storage, a ROS 1 bag, or no message inside.
    """
    path = Path(path)
    if path.is_file():
        hint = "convert it with rosbags-convert" if path.suffix == ".bag" else f"name its folder, {path.parent}"
        raise BagError(f"{path} is a file, a rosbag2 is a folder with metadata.yaml: {hint}")
    if not (path / "metadata.yaml").is_file():
        what = "holds no metadata.yaml (was the recording ended?)" if path.is_dir() else "does not exist"
        raise BagError(f"{path} {what}")
    try:
        reader = Reader(path)
        reader.open()
    except (ReaderError, OSError, ValueError, KeyError) as error:
        raise BagError(f"{path} cannot be read: {error}") from error
    if not reader.message_count:
        reader.close()
        raise BagError(f"{path} holds no message")
    return reader
