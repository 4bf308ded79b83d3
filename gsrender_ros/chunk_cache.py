"""Decompressed chunks of bag files that may be needed again soon, in bounded memory."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 64 * 2**20


class ChunkCache:
    """Chunks of any number of files; the least recently used go when there are too many. The newest always stays.

    Args:
        limit_bytes: of all chunks together.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES):
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._chunks: OrderedDict[tuple[Path, int], bytes] = OrderedDict()

    def get(self, path: Path, at: int, load: Callable[[], bytes]) -> bytes:
        """The chunk at a byte of a file; ``load`` is called where it is not kept, and what it raises goes through."""
        key = (path, at)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        body = load()
        self._chunks[key] = body
        self.size_bytes += len(body)
        while len(self._chunks) > 1 and self.size_bytes > self.limit_bytes:
            self.size_bytes -= len(self._chunks.popitem(last=False)[1])
        return body

    def forget(self, path: Path) -> None:
        """Drop the chunks of a file."""
        for key in [key for key in self._chunks if key[0] == path]:
            self.size_bytes -= len(self._chunks.pop(key))
