"""ROS 1 bags, chunk by chunk, so that a corrupt chunk costs its messages alone. Messages come out as CDR. No rclpy."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from rosbags.rosbag1 import Reader, ReaderError
from rosbags.rosbag1.reader import Header, RecordType, read_bytes, read_uint32

from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import Channel, Record, ros2_type, to_cdr
from gsrender_ros.chunk_cache import ChunkCache


class Ros1File:
    """One ``.bag`` of format 2.0.

    Raises:
        BagError: not a ROS 1 bag, or one without an index.
    """

    def __init__(self, path: Path, chunks: ChunkCache):
        self.path, self.problems, self._chunks = path, [], chunks
        self._reader = Reader(path)
        try:
            self._reader.open()
        except (ReaderError, OSError, ValueError, KeyError, AssertionError) as error:
            raise BagError(f"{path} cannot be read: {first_line(error)} (`rosbag reindex` makes an index)") from error
        self.channels = {c.id: Channel(c.topic, ros2_type(c.msgtype)) for c in self._reader.connections}

    def records(self) -> Iterator[Record]:
        """All messages that can be read, by chunk and time; ``problems`` names corrupt chunks."""
        self.problems, by_chunk = [], {}
        for channel, entries in self._reader.indexes.items():
            for entry in entries:
                by_chunk.setdefault(entry.chunk_pos, []).append((entry.time, channel, entry.offset))
        for chunk, entries in sorted(by_chunk.items()):
            lost = 0
            for log_ns, channel, offset in sorted(entries):
                try:
                    data = self.read((chunk, offset), self.channels[channel])
                except BagError as error:
                    lost += 1
                    reason = str(error)
                else:
                    yield Record(channel, log_ns, (chunk, offset), data)
            if lost:
                self.problems.append(f"corrupt chunk at byte {chunk}: {lost} messages lost, {reason}")

    def read(self, position: tuple[int, int], channel: Channel) -> bytes:
        """CDR bytes of the message at a position that ``records`` gave.

        Raises:
            BagError: its chunk or the message itself is damaged.
        """
        try:
            chunk = BytesIO(self._chunk(position[0]))
            chunk.seek(position[1])
            while (kind := Header.read(chunk).get_uint8("op")) == RecordType.CONNECTION:
                chunk.seek(read_uint32(chunk), 1)
            if kind != RecordType.MSGDATA:
                raise BagError(f"{self.path} has no message at byte {position}")
            data = read_bytes(chunk, read_uint32(chunk))
            return to_cdr(data, channel.msgtype)
        except BagError:
            raise
        except Exception as error:  # the decompressors raise types of their own
            raise BagError(f"{self.path}, chunk at byte {position[0]}: {first_line(error)}") from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._chunks.forget(self.path)

    def _chunk(self, at: int) -> bytes:
        return self._chunks.get(self.path, at, lambda: self._decompress(at))

    def _decompress(self, at: int) -> bytes:
        chunk = self._reader.chunks[at]
        self._reader.bio.seek(chunk.datapos)
        return chunk.decompressor(read_bytes(self._reader.bio, chunk.datasize))
