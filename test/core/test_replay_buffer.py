import dataclasses
import threading
import time

import numpy as np
import pytest
from small import SmallData

from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.lidar_returns import frame_bytes
from gsrender_core.data.replay_buffer import ReplayBuffer

ONE = SmallData(frames=1).frame(0)
SIZE_BYTES = frame_bytes(ONE)
NONE_HELD_OUT = dict(hold_out_every=0, stretch=4)


def arriving(number: int, scene: str = "a", **changes):
    return dataclasses.replace(ONE, stamp_ns=number * 500_000_000, token=f"t{number}", scene=scene, **changes)


def buffer_of(training_frames: float, **limits) -> ReplayBuffer:
    """Room for so many frames, and an eighth of the memory for those that wait."""
    return ReplayBuffer(BufferLimits(int(training_frames * SIZE_BYTES * 8 / 7) + 8, **(NONE_HELD_OUT | limits)))


def fill(buffer: ReplayBuffer, count: int, first: int = 0, scene: str = "a") -> set[int]:
    forgotten = set()
    for number in range(first, first + count):
        assert buffer.put(arriving(number, scene))
        forgotten |= buffer.take_in()
    return forgotten


def tokens(buffer: ReplayBuffer, held_out: bool = False) -> list[str]:
    return [buffer.frame(i).token for i in buffer.numbers(held_out)]


def test_the_size_of_a_frame_is_that_of_its_arrays():
    # 3 cameras of 3 x 64 x 96 bytes; 300 labels of 8 + 2 * 4 + 4 + 1 bytes
    assert SIZE_BYTES == 3 * 3 * 64 * 96 + 300 * 21


def test_frames_are_a_data_set_as_they_arrive():
    buffer = buffer_of(40)
    assert buffer.put(arriving(0)) and len(buffer) == 0 and buffer.waiting == 1  # not before it is taken in
    assert buffer.take_in() == set() and len(buffer) == 1 and buffer.waiting == 0
    fill(buffer, 3, first=1)
    assert buffer.numbers(held_out=False) == [0, 1, 2, 3] and buffer.taken_in == 4
    assert buffer.frame(2).token == "t2" and buffer.frame(2, labels=False).labels is None
    bare = buffer.frame_without_images(2)
    assert bare.images.shape == (3, 3, 0, 0) and bare.labels is buffer.frame(2).labels
    assert (buffer.adjacent(1, 2), buffer.adjacent(1, -1), buffer.adjacent(1, 3), buffer.adjacent(0, -1)) == (
        3, 0, None, None,
    )  # fmt: skip
    fill(buffer, 1, first=0, scene="b")  # time has jumped back
    assert buffer.adjacent(3, 1) is None and buffer.scene_names == ("a", "b") and buffer.indices_of("b") == [4]
    assert buffer.ground_truth(0) is None and buffer.scene_of(4) == "b"
    with pytest.raises(ValueError, match="frame 9 is not in the buffer: 5 of 5 frames are held"):
        buffer.frame(9)


def test_memory_is_never_exceeded_and_stretches_stay_whole():
    buffer = buffer_of(14, hold_out_every=3)
    for number in range(100):
        fill(buffer, 1, first=number)
        assert buffer.used_bytes <= buffer.limits.memory_bytes
        for held_out in (False, True):
            numbers = buffer.numbers(held_out)
            assert len(numbers) * SIZE_BYTES <= buffer.limits.part_bytes(held_out)
            whole = {i // 4 for i in numbers} - {number // 4}  # stretches of four, but for the one that grows
            assert all({4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3} <= set(numbers) for s in whole)
    assert buffer.forgotten == 100 - len(buffer) and len(buffer.numbers(True)) == 4


def test_every_stretch_stays_with_the_same_probability():
    counts = np.zeros(20)
    for seed in range(400):
        buffer = buffer_of(8, stretch=1, seed=seed)
        fill(buffer, 20)
        assert len(buffer) == 8
        counts[buffer.numbers(held_out=False)] += 1
    # The last is always there when it has just come; of the others each is there with probability 7 / 19.
    assert counts[19] == 400
    expected, spread = 400 * 7 / 19, np.sqrt(400 * 7 / 19 * 12 / 19)
    assert np.abs(counts[:19] - expected).max() < 4 * spread


def test_what_is_kept_follows_from_the_order_of_arrival_alone():
    one_by_one, in_lumps = buffer_of(30, seed=3), buffer_of(30, seed=3)
    forgotten = fill(one_by_one, 60)
    lumped = set()
    for number in range(60):
        assert in_lumps.put(arriving(number))
        if number % 3 == 2:
            lumped |= in_lumps.take_in()
    assert tokens(one_by_one) == tokens(in_lumps) and forgotten == lumped
    assert sorted(forgotten | set(one_by_one.numbers(False))) == list(range(60))
    other = buffer_of(30, seed=4)
    fill(other, 60)
    assert tokens(other) != tokens(one_by_one)


def test_every_so_many_stretches_one_is_held_out_and_is_nobodys_neighbour():
    buffer = buffer_of(400, hold_out_every=3)
    fill(buffer, 24)
    assert buffer.numbers(held_out=True) == [4, 5, 6, 7, 16, 17, 18, 19]
    assert buffer.adjacent(3, 1) is None and buffer.adjacent(8, -1) is None
    assert buffer.adjacent(4, 1) == 5 and buffer.adjacent(3, 5) == 8
    assert not buffer_of(40).numbers(held_out=True)
    with pytest.raises(ValueError, match="hold_out_every is 1: 1 leaves nothing to train on"):
        BufferLimits(1, hold_out_every=1)


def test_frames_that_are_missing_in_between_separate_neighbours():
    for interval_s, expected in ((0.5, None), (0.0, 2)):
        buffer = buffer_of(40, interval_s=interval_s)
        for number in (0, 1, 3, 4, 5, 6):  # 0.5 s apart, the third is missing
            assert buffer.put(arriving(number)) and not buffer.take_in()
        assert buffer.adjacent(1, 1) == expected and buffer.adjacent(2, 1) == 3 and buffer.adjacent(0, 1) == 1
        assert buffer.adjacent(1, 2) == 3  # 1.5 s for two intervals: half more, as far as it may be
    slow = buffer_of(40, interval_s=0.2)  # the cameras are slower than frames are wanted
    fill(slow, 3)
    assert slow.adjacent(0, 1) == 1


def test_a_scene_begins_a_stretch():
    buffer = buffer_of(400, hold_out_every=2)
    fill(buffer, 3)
    fill(buffer, 5, scene="b")
    assert buffer.numbers(held_out=True) == [3, 4, 5, 6] and buffer.numbers(held_out=False) == [0, 1, 2, 7]


def test_too_many_waiting_frames_are_not_taken():
    buffer = buffer_of(14)  # two wait in an eighth of the memory
    assert [buffer.put(arriving(number)) for number in range(3)] == [True, True, False]
    assert buffer.waiting_share == pytest.approx(1.0, abs=1e-3)
    buffer.take_in()
    assert buffer.put(arriving(2)) and buffer.take_in() == set() and tokens(buffer) == ["t0", "t1", "t2"]


def test_a_stretch_larger_than_the_memory_forgets_its_own_beginning(caplog):
    buffer = buffer_of(7, stretch=100)
    assert fill(buffer, 10) == {0, 1, 2} and tokens(buffer) == [f"t{n}" for n in range(3, 10)]
    assert "the buffer holds no more than 7 frames to train on" in caplog.text


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (arriving(3, labels=None), "frame t3 of a has no LiDAR labels"),
        (arriving(3, labels=ONE.labels.select(slice(0, 0))), "frame t3 of a has no LiDAR labels"),
        (
            arriving(3, labels=dataclasses.replace(ONE.labels, depth_m=np.full(300, np.nan, np.float32))),
            "300 of 300 labels have no usable depth",
        ),
        (
            arriving(3, camera_names=("front", "left", "top")),
            "cameras front, left, top at 96x64, the replay began with",
        ),
        (arriving(3, images=ONE.images[..., :48]), "at 48x64, the replay began with front, left, right at 96x64"),
        (arriving(0), "frame t0 of a is 0.500 s earlier than the one before it: time that jumps back begins another"),
        (arriving(1), "frame t1 of a is 0.000 s earlier"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_and_changes_nothing(frame, text):
    buffer = buffer_of(40)
    fill(buffer, 2)
    with pytest.raises(ValueError, match=text):
        buffer.put(frame)
    assert buffer.waiting == 0
    fill(buffer, 1, first=2)
    assert tokens(buffer) == ["t0", "t1", "t2"]


def test_a_frame_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"one frame needs 0.0616 MB, the smallest part of the buffer has 0.0\d+ MB"):
        ReplayBuffer(BufferLimits(4 * SIZE_BYTES)).put(ONE)


def test_frames_may_be_put_while_the_data_set_is_read():
    buffer, put = buffer_of(30), []

    def feed() -> None:
        for number in range(300):
            while not buffer.put(arriving(number)):
                time.sleep(0.001)
            put.append(number)

    feeder = threading.Thread(target=feed)
    feeder.start()
    while feeder.is_alive() or buffer.waiting:
        buffer.take_in()
        held = buffer.numbers(held_out=False)
        for i in held:  # nothing is forgotten between two calls of take_in
            j = buffer.adjacent(i, 1)
            assert buffer.frame(i).token == f"t{i}" and (j is None or buffer.frame(j).token == f"t{j}")
    feeder.join()
    assert put == list(range(300)) and buffer.taken_in == 300
