"""Compression of whole storage files and of single messages, as rosbag2 does it (zstd)."""

import hashlib
import logging
import shutil
from pathlib import Path

from backports import zstd

from gsrender_core.cache_folder import cache_folder
from gsrender_core.whole_file import write_whole
from gsrender_ros.bag_reading import BagError, first_line
from gsrender_ros.bag_storage import ZSTD_MAGIC

logger = logging.getLogger(__name__)


def message_bytes(data: bytes) -> bytes:
    """A message's CDR bytes, decompressed where it was compressed by itself: CDR begins with a zero byte.

    Raises:
        BagError: the compressed bytes are damaged.
    """
    if data[:4] != ZSTD_MAGIC:
        return data
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise BagError(f"a compressed message is damaged: {first_line(error)}") from error


def decompressed(path: Path) -> Path:
    """The file itself, or where its decompressed copy lies: in the cache, made once.

    Raises:
        BagError: the compressed file is damaged or there is no room.
    """
    with path.open("rb") as file:
        if file.read(4) != ZSTD_MAGIC:
            return path
    state = path.stat()
    key = hashlib.sha256(f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache_folder() / f"{key}-{path.with_suffix('').name if path.suffix == '.zstd' else path.name}"
    if target.is_file():
        return target
    logger.info("%s is compressed as a whole: decompressing it once to %s", path, target)

    def write(partial: Path) -> None:
        with zstd.open(path, "rb") as source, partial.open("wb") as sink:
            shutil.copyfileobj(source, sink, 2**22)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, write)
    except (zstd.ZstdError, EOFError, OSError) as error:
        target.with_suffix(".partial").unlink(missing_ok=True)
        raise BagError(f"{path} cannot be decompressed to {target}: {first_line(error)}") from error
    return target
