"""MCAP files as far as they go: chunked or not, indexed or not, cut off, with corrupt chunks. No rclpy.

``rosbags`` reads what is whole and indexed. A recording that was killed has no footer, and one flipped bit ends its
reader; here the records are walked from the front instead, and every message is found again by its offset. The record
layout follows the MCAP specification, version 0.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import Channel, Record, ros2_type
from gsrender_ros.chunk_cache import ChunkCache
from gsrender_ros.zstd_files import decompressed, message_bytes

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END, LAST_KNOWN = 3, 4, 5, 6, 15, 15
NOT_CHUNKED = -1


class McapFile:
    """One MCAP file.

    Raises:
        BagError: not an MCAP file.
    """

    def __init__(self, path: Path, chunks: ChunkCache):
        self.path = decompressed(path)
        self.channels: dict[int, Channel] = {}
        self.problems: list[str] = []
        self._schemas: dict[int, str] = {}
        self._chunks = chunks
        self._file = self.path.open("rb")
        self._size = self.path.stat().st_size
        if self._file.read(8) != MAGIC:
            self._file.close()
            raise BagError(f"{path} is not an MCAP file ({self._size} bytes, other first bytes); copy it again")

    def records(self) -> Iterator[Record]:
        """All messages that can be read, in the order of the file; ``problems`` names the rest."""
        self.problems, at, ended = [], 8, False
        while at < self._size - 8:
            self._file.seek(at)
            head = self._file.read(9)
            kind, length = head[0], int.from_bytes(head[1:], "little")
            if kind == 0 or LAST_KNOWN < kind < 0x80:
                self.problems.append(f"byte {at}: no record of an MCAP file; the {self._size - at} bytes from there on")
                return
            if at + 9 + length > self._size:
                self.problems.append(f"cut off within a record at byte {at}: its {self._size - at} bytes are lost")
                return
            if kind in (SCHEMA, CHANNEL):
                self._describe(kind, self._file.read(length))
            elif kind == MESSAGE:
                yield from self._messages(head + self._file.read(length), (at, NOT_CHUNKED))
            elif kind == CHUNK:
                try:
                    body = self._chunk(at)
                except BagError as error:
                    self.problems.append(str(error))
                else:
                    yield from self._messages(body, (at, 0))
            elif kind == DATA_END:
                ended = True
                break
            at += 9 + length
        if not ended:
            self.problems.append("no end record: the recording was not ended, or the file is cut off")

    def read(self, position: tuple[int, int], channel: Channel) -> bytes:
        """CDR bytes of the message at a position that ``records`` gave.

        Raises:
            BagError: its chunk or its record cannot be read.
        """
        at, inner = position
        if inner == NOT_CHUNKED:
            self._file.seek(at)
            head = self._file.read(9)
            body, inner = head + self._file.read(int.from_bytes(head[1:], "little")), 0
        else:
            body = self._chunk(at)
        length = int.from_bytes(body[inner + 1 : inner + 9], "little")
        if body[inner] != MESSAGE or inner + 9 + length > len(body):
            raise BagError(f"{self.path} has no message at byte {at}, {inner}: was it changed? Remove its index")
        return message_bytes(body[inner + 31 : inner + 9 + length])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._chunks.forget(self.path)

    def _describe(self, kind: int, body: bytes) -> None:
        number = int.from_bytes(body[:2], "little")
        if kind == SCHEMA:
            self._schemas[number] = _string(body, 2)[0]
            return
        schema = self._schemas.get(int.from_bytes(body[2:4], "little"), "")
        self.channels[number] = Channel(_string(body, 4)[0], ros2_type(schema))

    def _messages(self, body: bytes, position: tuple[int, int]) -> Iterator[Record]:
        """Messages of a chunk's content, or the one message of a record; descriptions are taken in on the way."""
        offset, end = 0, len(body)
        while offset + 9 <= end:
            kind, length = body[offset], int.from_bytes(body[offset + 1 : offset + 9], "little")
            start, stop = offset + 9, offset + 9 + length
            if stop > end:
                self.problems.append(f"chunk at byte {position[0]}: its last record is longer than the chunk")
                return
            if kind in (SCHEMA, CHANNEL):
                self._describe(kind, body[start:stop])
            elif kind == MESSAGE:
                channel, _, log_ns = struct.unpack_from("<HIQ", body, start)
                inner = NOT_CHUNKED if position[1] == NOT_CHUNKED else offset
                yield Record(channel, log_ns, (position[0], inner), message_bytes(body[start + 22 : stop]))
            offset = stop

    def _chunk(self, at: int) -> bytes:
        """Decompressed content of the chunk record at a byte."""
        return self._chunks.get(self.path, at, lambda: self._decompress(at))

    def _decompress(self, at: int) -> bytes:
        self._file.seek(at)
        head = self._file.read(9)
        record = self._file.read(int.from_bytes(head[1:], "little"))
        try:
            start_ns, end_ns, size, crc = struct.unpack_from("<QQQI", record)
            compression, offset = _string(record, 28)
            stored = record[offset + 8 : offset + 8 + int.from_bytes(record[offset : offset + 8], "little")]
            if compression not in DECOMPRESSORS:
                raise BagError(f"chunk at byte {at}: compression {compression!r} is unknown")
            body = DECOMPRESSORS[compression](stored, size)
        except BagError:
            raise
        except Exception as error:  # every decompressor raises a type of its own
            raise BagError(f"corrupt chunk at byte {at} of {self.path.name}: {first_line(error)}") from error
        if len(body) != size or (crc and zlib.crc32(body) != crc):
            span = f"{start_ns / 1e9:.3f} to {end_ns / 1e9:.3f} s"
            raise BagError(f"corrupt chunk at byte {at} of {self.path.name} ({span}): size or checksum is wrong")
        return body


def _string(body: bytes, offset: int) -> tuple[str, int]:
    """A length-prefixed text and the offset behind it."""
    end = offset + 4 + int.from_bytes(body[offset : offset + 4], "little")
    return body[offset + 4 : end].decode("utf-8", "replace"), end
