"""What the files of a bag have in common for whoever reads them: messages in file order, and one message again.

A bag is a rosbag2 folder (mcap or sqlite3, split, compressed by file or message), a single ``.mcap`` or ``.db3``, a
folder whose recording was never ended, or a ROS 1 bag. Damage is survived: what cannot be read is named in
``problems`` and left out, never made up. No rclpy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import yaml

from gsrender_ros.bag_messages import TYPESTORE
from gsrender_ros.bag_reading import BagError

SUFFIXES = (".mcap", ".db3", ".bag")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# ROS 1's older name of the same message.
_RENAMED = {"tf/msg/tfMessage": "tf2_msgs/msg/TFMessage"}


@dataclass(frozen=True)
class Channel:
    """A topic of one file, and the ROS 2 name of its type."""

    topic: str
    msgtype: str


class Record(NamedTuple):
    """One message: ``channel`` of its file, log time, where ``read`` finds it again, and its CDR bytes."""

    channel: int
    log_ns: int
    position: tuple[int, int]
    data: bytes


class BagFile(Protocol):
    """One storage file. ``channels`` is complete after ``records`` has run through."""

    channels: dict[int, Channel]
    problems: list[str]

    def records(self) -> Iterator[Record]:
        """All messages that can be read, in the order of the file."""

    def read(self, position: tuple[int, int], channel: Channel) -> bytes:
        """CDR bytes of one message.

        Raises:
            BagError: it cannot be read (any more).
        """

    def close(self) -> None:
        """Close the file."""


def is_bag(path: str | Path) -> bool:
    """Whether a path looks like a bag: a storage file, or a folder with metadata.yaml or storage files."""
    path = Path(path)
    if path.is_file():
        return path.suffix in SUFFIXES
    return path.is_dir() and ((path / "metadata.yaml").is_file() or bool(_loose_files(path)))


def storage_files(path: str | Path) -> tuple[list[Path], list[str]]:
    """The storage files of a bag in their order, and what is wrong with their list.

    Raises:
        BagError: no bag, or none of its files is there.
    """
    path = Path(path)
    if path.is_file() and path.suffix in SUFFIXES:
        return [path], []
    if not path.is_dir():
        raise BagError(f"{path} is no bag: " + ("not a .mcap, .db3 or .bag file" if path.exists() else "not there"))
    if not (path / "metadata.yaml").is_file():
        found = _loose_files(path)
        if not found:
            raise BagError(f"{path} is no bag: it holds neither metadata.yaml nor a .mcap, .db3 or .bag file")
        return found, ["no metadata.yaml (the recording was not ended): its storage files are read as they are"]
    try:
        information = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        listed = [path / Path(name).name for name in information["relative_file_paths"]]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        found = _loose_files(path)
        if not found:
            raise BagError(f"{path}/metadata.yaml is damaged and no storage file lies beside it") from error
        return found, ["metadata.yaml is damaged: the storage files beside it are read as they are"]
    there = [file for file in listed if file.is_file()]
    if not there:
        raise BagError(f"{path}: none of the files that metadata.yaml lists is there, first {listed[:1]}")
    return there, [f"{file.name}: listed in metadata.yaml, but not there" for file in listed if file not in there]


def ros2_type(msgtype: str) -> str:
    """Today's name of a message type."""
    return _RENAMED.get(msgtype, msgtype)


def to_cdr(data: bytes, msgtype: str) -> bytes:
    """CDR bytes of a ROS 1 message of a known type; of an unknown type the bytes as they are."""
    known = msgtype in TYPESTORE.fielddefs
    return bytes(TYPESTORE.ros1_to_cdr(data, msgtype)) if known else bytes(data)


def _loose_files(folder: Path) -> list[Path]:
    found = [
        file
        for file in folder.iterdir()
        if file.suffix in SUFFIXES or (file.suffix == ".zstd" and file.with_suffix("").suffix in SUFFIXES)
    ]
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple:
    """Split files are numbered without leading zeros: _10 comes after _9."""
    head, _, number = path.name.split(".")[0].rpartition("_")
    return (head, int(number)) if number.isdigit() else (path.name, -1)
