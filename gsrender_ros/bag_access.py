"""Reading single messages of indexed bags, with few files open at a time. No rclpy."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from gsrender_ros.bag_contents import BagIndex, TopicIndex
from gsrender_ros.bag_messages import TYPESTORE
from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import BagFile, Channel
from gsrender_ros.chunk_cache import ChunkCache
from gsrender_ros.mcap_file import McapFile
from gsrender_ros.ros1_file import Ros1File
from gsrender_ros.sqlite_file import SqliteFile

KINDS = {".mcap": McapFile, ".db3": SqliteFile, ".bag": Ros1File}
# A drive may be split into thousands of files, a process may open about a thousand.
MOST_OPEN = 32


class OpenFiles:
    """The open storage files of any number of bags: opened when first read, the least recently used one closed.

    Their decompressed chunks share one bounded memory. Can be pickled; the copy opens files of its own. For one
    thread.

    Args:
        most: files that are open at a time.
    """

    def __init__(self, most: int = MOST_OPEN):
        self.most = most
        self.chunks = ChunkCache()
        self._open: OrderedDict[Path, BagFile] = OrderedDict()

    def __getstate__(self):
        return {"most": self.most}

    def __setstate__(self, state):
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self._open)

    def read(self, path: Path, position: tuple[int, int], channel: Channel) -> bytes:
        """CDR bytes of one message.

        Raises:
            BagError: it cannot be read (any more).
        """
        if path not in self._open:
            while len(self._open) >= self.most:
                self._open.popitem(last=False)[1].close()
            self._open[path] = open_file(path, self.chunks)
        self._open.move_to_end(path)
        return self._open[path].read(position, channel)

    def close(self, paths: Iterable[Path]) -> None:
        """Close those of the files that are open."""
        for path in paths:
            if path in self._open:
                self._open.pop(path).close()


class BagMessages:
    """Messages of an indexed bag by their number.

    Args:
        index: of the bag.
        files: shared with other bags; default its own.
    """

    def __init__(self, index: BagIndex, files: OpenFiles | None = None):
        self.index = index
        self._files = OpenFiles() if files is None else files

    def read(self, topic: TopicIndex, number: int):
        """Message ``number`` of a topic, as ``rosbags`` represents it.

        Raises:
            BagError: it cannot be read any more, or is no message of its type.
        """
        file, at, inner = (int(v) for v in topic.place[number])
        channel = Channel(topic.topic, topic.msgtype)
        return deserialize(self._files.read(self.index.files[file], (at, inner), channel), topic.msgtype)

    def close(self) -> None:
        """Close the bag's files."""
        self._files.close(self.index.files)


def open_file(path: Path, chunks: ChunkCache | None = None) -> BagFile:
    """Open one storage file, decompressed where it is compressed as a whole; ``chunks`` keeps what it decompresses.

    Raises:
        BagError: not readable at all.
    """
    suffix = (path.with_suffix("") if path.suffix == ".zstd" else path).suffix
    if suffix not in KINDS:
        raise BagError(f"{path}: storage {suffix or 'without a suffix'} is unknown; known: {', '.join(KINDS)}")
    try:
        return SqliteFile(path) if suffix == ".db3" else KINDS[suffix](path, chunks or ChunkCache())
    except OSError as error:
        raise BagError(f"{path} cannot be read: {first_line(error)}") from error


def deserialize(data: bytes, msgtype: str):
    """A message of its CDR bytes.

    Raises:
        BagError: the bytes are no such message.
    """
    try:
        return TYPESTORE.deserialize_cdr(data, msgtype)
    except Exception as error:  # rosbags lets struct, index, value and unicode errors through
        raise BagError(f"not a readable {msgtype} of {len(data)} bytes: {first_line(error)}") from error


def header_of(data: bytes) -> tuple[int, str, int]:
    """Stamp in ns, frame id without a leading slash, and the offset behind them, of CDR bytes that begin with a Header.

    Raises:
        BagError: too short.
    """
    order = "little" if data[1:2] == b"\x01" else "big"
    length = int.from_bytes(data[12:16], order)
    if len(data) < 16 or 16 + length > len(data):
        raise BagError(f"a message of {len(data)} bytes has no header")
    sec = int.from_bytes(data[4:8], order, signed=True)
    stamp_ns = sec * 1_000_000_000 + int.from_bytes(data[8:12], order)
    return stamp_ns, data[16 : 16 + length].rstrip(b"\0").decode("utf-8", "replace").lstrip("/"), 16 + length
