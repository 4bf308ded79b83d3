"""Files and chunks in memory stay few, whatever is read and in whatever order."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from recordings import record, write, write_ros1

from gsrender_ros.bag_access import BagMessages, OpenFiles
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bag_messages import TYPESTORE
from gsrender_ros.chunk_cache import ChunkCache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_chunks_of_all_files_share_one_memory():
    cache, loaded = ChunkCache(limit_bytes=100), []

    def get(file: str, at: int, size: int) -> bytes:
        def load() -> bytes:
            loaded.append((file, at))
            return bytes([at]) * size

        return cache.get(Path(file), at, load)

    assert get("a", 1, 40) == b"\1" * 40 and get("b", 1, 40) == b"\1" * 40
    get("a", 1, 40)  # kept, and now the latest
    assert loaded == [("a", 1), ("b", 1)] and cache.size_bytes == 80
    get("a", 2, 40)  # b's goes
    get("a", 1, 40)
    assert loaded == [("a", 1), ("b", 1), ("a", 2)] and cache.size_bytes == 80
    get("b", 1, 40)
    assert loaded[-1] == ("b", 1) and cache.size_bytes == 80
    get("c", 3, 500)  # larger than the limit: it stays alone
    assert cache.size_bytes == 500
    cache.forget(Path("c"))
    assert cache.size_bytes == 0
    with pytest.raises(ZeroDivisionError):
        cache.get(Path("d"), 0, lambda: 1 // 0)
    assert cache.size_bytes == 0


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_files_are_open_than_allowed(tmp_path, most):
    bags = [
        write(record(3), tmp_path / "mcap"),
        write(record(3), tmp_path / "sqlite3", "sqlite3"),
        write_ros1(record(3), tmp_path / "ros1.bag"),
    ]
    indices = [bag_index(bag) for bag in bags]
    apart = [BagMessages(index) for index in indices]
    files = OpenFiles(most)
    together = [BagMessages(index, files) for index in indices]
    for choice in np.random.default_rng(0).integers(0, 3, 20):
        topic = indices[choice].topics["/lidar_top"]
        ours, theirs = (TYPESTORE.serialize_cdr(m[choice].read(topic, 1), topic.msgtype) for m in (together, apart))
        assert bytes(ours) == bytes(theirs)
        assert 0 < len(files) <= most
    copy = pickle.loads(pickle.dumps(files))
    assert copy.most == most and len(copy) == 0
    for messages in together:
        messages.close()
    assert len(files) == 0 and files.chunks.size_bytes == 0
