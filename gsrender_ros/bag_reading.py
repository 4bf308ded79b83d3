"""Opening rosbag2 folders, with one line of explanation where that fails; no rclpy."""

import importlib
from pathlib import Path

from rosbags.rosbag2 import Reader, ReaderError


class BagError(ValueError):
    """The bag cannot be read; the text says why in one line."""


def first_line(error: Exception) -> str:
    """What an error says, without the lines that only illustrate it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
        if not path.is_dir():
            raise BagError(f"{path} does not exist")
        if any(folder.is_dir() for folder in path.glob("v1.0-*")):
            raise BagError(f"{path} is no bag; this is a nuScenes-schema folder: `gsrender to-bag` makes a bag of it")
        raise BagError(f"{path} holds no metadata.yaml (was the recording ended?): {_repair(path)}")
    try:
        reader = Reader(path)
        reader.open()
    except (ReaderError, OSError, ValueError, KeyError, TypeError) as error:
        malformed = isinstance(error, TypeError) or isinstance(error.__cause__, TypeError)
        what = "its metadata.yaml is empty or no description of a bag" if malformed else first_line(error).rstrip(".")
        raise BagError(f"{path} cannot be read: {what}; {_repair(path)}") from error
    if not reader.message_count:
        reader.close()
        raise BagError(f"{path} holds no message")
    return reader


def _repair(path: Path) -> str:
    return f"record or copy it again, or run `ros2 bag reindex {path}`"
