"""Every storage gives the same messages; damage costs what is damaged, and is named."""

import numpy as np
import pytest
from recordings import Recording, record, write, write_ros1

from gsrender_ros.bag_access import BagMessages
from gsrender_ros.bag_index import bag_index
from gsrender_ros.bag_messages import TYPESTORE
from gsrender_ros.bag_reading import BagError
from gsrender_ros.bag_storage import is_bag, storage_files

KINDS = ("mcap", "sqlite3", "mcap file", "sqlite3 file", "mcap message", "sqlite3 message", "mcap storage", "ros1")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def written(recording: Recording, tmp_path, kind: str):
    if kind == "ros1":
        return write_ros1(recording, tmp_path / "ros1.bag")
    storage, _, compression = kind.partition(" ")
    return write(recording, tmp_path / "bag", storage, compression)


@pytest.mark.parametrize("kind", KINDS)
def test_every_message_is_found_again_by_its_place(tmp_path, kind):
    recording = record(4)
    bag = written(recording, tmp_path, kind)
    assert is_bag(bag)
    index = bag_index(bag)
    assert index.problems == []
    reader = BagMessages(index)
    expected: dict[str, list] = {}
    for topic, message_type, log_ns, message in recording.ordered():
        expected.setdefault(topic, []).append((log_ns, TYPESTORE.serialize_cdr(message, message_type)))
    assert set(index.topics) == set(expected)
    for topic, rows in expected.items():
        entry = index.topics[topic]
        np.testing.assert_array_equal(entry.log_ns, [log_ns for log_ns, _ in rows])
        for number in np.random.default_rng(0).permutation(len(rows)):  # in any order
            found = TYPESTORE.serialize_cdr(reader.read(entry, int(number)), entry.msgtype)
            assert bytes(found) == bytes(rows[number][1]), (topic, number)
    reader.close()


def test_a_recording_that_was_killed_is_read_as_far_as_it_goes(tmp_path):
    bag = write(record(6), tmp_path / "bag", "mcap")
    (bag / "metadata.yaml").unlink()
    file = next(bag.glob("*.mcap"))
    whole = bag_index(bag)
    assert any("no metadata.yaml" in text for text in whole.problems) and len(whole.problems) == 1
    data = file.read_bytes()
    file.write_bytes(data[:-40])  # the footer is gone, all messages are there
    cut = bag_index(bag)
    assert sum(map(len, cut.topics.values())) == sum(map(len, whole.topics.values()))
    file.write_bytes(data[: len(data) // 3])  # within the only chunk
    with pytest.raises(BagError, match="cut off within a record"):
        bag_index(bag)


def test_a_corrupt_chunk_costs_its_own_messages_only(tmp_path):
    first, second = record(3), record(3, start_ns=1_600_000_100_000_000_000)
    bag = tmp_path / "bag"
    bag.mkdir()
    for number, part in enumerate((first, second)):
        made = write(part, tmp_path / f"part{number}", "mcap", "storage")
        next(made.glob("*.mcap")).rename(bag / f"bag_{number}.mcap")
    data = bytearray((bag / "bag_0.mcap").read_bytes())
    chunk = data.index(b"zstd") + 12  # the beginning of the compressed bytes: they carry no checksum
    data[chunk : chunk + 64] = b"\xff" * 64
    (bag / "bag_0.mcap").write_bytes(bytes(data))
    index = bag_index(bag)
    assert any("corrupt chunk" in text and "bag_0.mcap" in text for text in index.problems)
    kept = [row for row in second.rows if row[0] == "/lidar_top"]
    assert len(index.topics["/lidar_top"]) == len(kept)
    assert index.topics["/lidar_top"].log_ns[0] == kept[0][2]


def test_a_damaged_database_page_is_named_and_the_rest_is_read(tmp_path):
    bag = write(record(8), tmp_path / "bag", "sqlite3")
    file = next(bag.glob("*.db3"))
    whole = sum(map(len, bag_index(bag).topics.values()))
    data = bytearray(file.read_bytes())
    for page in range(len(data) * 2 // 3 // 4096, len(data) * 3 // 4 // 4096):
        data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    file.write_bytes(bytes(data))
    index = bag_index(bag)
    assert 0 < sum(map(len, index.topics.values())) < whole
    assert index.problems


def test_a_database_that_was_copied_in_part_is_named(tmp_path):
    bag = write(record(8), tmp_path / "bag", "sqlite3")
    file = next(bag.glob("*.db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 4])
    with pytest.raises(BagError, match="no readable rosbag2 database"):
        bag_index(bag)


def test_split_files_are_read_in_their_order(tmp_path):
    bag = tmp_path / "bag"
    bag.mkdir()
    for number in (0, 1, 10):
        made = write(record(1, start_ns=1_600_000_000_000_000_000 + number * 10**9), tmp_path / f"p{number}", "mcap")
        next(made.glob("*.mcap")).rename(bag / f"bag_{number}.mcap")
    assert [file.name for file in storage_files(bag)[0]] == ["bag_0.mcap", "bag_1.mcap", "bag_10.mcap"]
    stamps = bag_index(bag).topics["/lidar_top"].log_ns
    assert len(stamps) == 3 and (np.diff(stamps) > 0).all()


def test_what_is_no_bag_says_so(tmp_path):
    (tmp_path / "x.mcap").write_bytes(b"something else")
    with pytest.raises(BagError, match="not an MCAP file"):
        bag_index(tmp_path / "x.mcap")
    (tmp_path / "empty").mkdir()
    assert not is_bag(tmp_path / "empty")
    with pytest.raises(BagError, match="neither metadata.yaml nor"):
        bag_index(tmp_path / "empty")
    (tmp_path / "text.bag").write_bytes(b"#ROSBAG V2.0\nnothing more")
    with pytest.raises(BagError, match="reindex"):
        bag_index(tmp_path / "text.bag")


def test_the_index_is_kept_and_made_anew_when_the_bag_changes(tmp_path, caplog):
    bag = write(record(3), tmp_path / "bag")
    first = bag_index(bag)
    kept = bag / ".gsrender-index.npz"
    made = kept.stat().st_mtime_ns
    again = bag_index(bag)
    assert kept.stat().st_mtime_ns == made
    for topic, entry in first.topics.items():
        for name in ("log_ns", "stamp_ns", "place", "sequence", "frame", "labelled"):
            np.testing.assert_array_equal(getattr(entry, name), getattr(again.topics[topic], name))
    assert first.infos == again.infos and first.transforms.links == again.transforms.links
    next(bag.glob("*.mcap")).unlink()
    made = write(record(5), tmp_path / "other")
    next(made.glob("*.mcap")).rename(bag / "bag.mcap")
    assert len(bag_index(bag).topics["/lidar_top"]) == 5


def test_a_bag_that_cannot_be_written_is_indexed_in_the_cache(tmp_path):
    bag = write(record(2), tmp_path / "bag")
    (bag / ".gsrender-index.npz").mkdir()  # nothing can be put in its place, even by root
    bag_index(bag)
    assert list((tmp_path / "cache" / "gsrender").glob("*.gsrender-index.npz"))
    assert len(bag_index(bag).topics["/lidar_top"]) == 2
