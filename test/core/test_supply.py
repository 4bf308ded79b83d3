import json
import signal
import threading
import time

import numpy as np
import pytest
import torch
from small import SmallData, small_training

from gsrender_core.checkpoint import load_checkpoint
from gsrender_core.config import LossConfig
from gsrender_core.data.buffer_limits import BufferLimits
from gsrender_core.data.lidar_returns import frame_bytes
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_core.stop_signals import Stopped
from gsrender_core.supply import DataSupply, ReplaySupply, split_scenes, spread
from gsrender_core.train import Trainer

FRAMES = SmallData(frames=24).frames
ROOMY = 200 * frame_bytes(FRAMES[0])


def replay(config=None, finish_steps=1, **limits) -> ReplaySupply:
    values = dict(memory_bytes=ROOMY, stretch=4, hold_out_every=0)
    return ReplaySupply(config or small_training(), ReplayBuffer(BufferLimits(**(values | limits))), finish_steps)


def never() -> bool:
    return False


def test_scenes_are_split_and_frames_spread():
    assert split_scenes(("a", "b", "c"), 1) == (["a", "b"], ["c"])
    with pytest.raises(ValueError, match="cannot spare"):
        split_scenes(("a",), 1)
    assert spread(range(10), 3) == [0, 3, 6] and spread([], 3) == [] and spread([5], 4) == [5] and spread([5], 0) == []


def test_a_data_set_is_drawn_once_an_epoch():
    supply = DataSupply(small_training(seed=3), SmallData(frames=5))
    drawn = [supply.draw(number) for number in range(10)]
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5)) and drawn[:5] != drawn[5:]
    assert drawn == [DataSupply(small_training(seed=3), SmallData(frames=5)).draw(number) for number in range(10)]


def test_a_replay_is_drawn_evenly_from_what_is_held():
    supply = replay()
    for frame in FRAMES[:6]:
        supply.dataset.put(frame)
    supply.refresh(0, never)
    drawn = [supply.draw(number) for number in range(1200)]
    assert np.abs(np.bincount(drawn, minlength=6) - 200).max() < 4 * np.sqrt(200 * 5 / 6)
    assert drawn[:50] == [supply.draw(number) for number in range(50)]  # of the number, not of the call


def test_the_end_is_seen_after_the_last_frame():
    supply = replay(finish_steps=2)
    supply.dataset.put(FRAMES[0])
    supply.end()
    assert supply.refresh(1, never) == set() and supply.indices == [0] and supply.schedule.end == 3
    empty = replay()
    empty.end()
    with pytest.raises(ValueError, match="the replay ended without a frame to train on"):
        empty.refresh(0, never)
    assert replay().refresh(0, lambda: True) == set()  # a stop ends the wait for the first frame


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hold_out_labels": 0.1}, "hold_out_labels is 0.1: whole stretches of a replay are held out instead"),
        ({"workers": 2}, "workers is 2: the frames of a replay are in memory; set it to 0"),
        ({"loss": LossConfig(voxel=1.0)}, "loss.voxel is 1: a replay has no labelled voxels"),
    ],
)
def test_what_a_replay_cannot_give_is_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        replay(small_training(**changes))


def feed(supply: ReplaySupply, frames) -> threading.Thread:
    def run() -> None:
        for frame in frames:
            while not supply.dataset.put(frame):
                time.sleep(0.002)
        supply.end()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_training_from_a_replay_ends_after_its_finishing_steps_and_forgets_with_the_buffer(tmp_path):
    config = small_training(steps=400, checkpoint_every=3, validate_every=400)
    supply = replay(config, finish_steps=5, memory_bytes=int(8 * frame_bytes(FRAMES[0]) * 8 / 7) + 8)
    trainer, rows, most = Trainer(config, supply, tmp_path / "run", "cpu"), [], []
    trainer.on_row = rows.append

    def look() -> None:
        held = set(supply.indices)
        assert trainer.frames.cache.labels.keys() <= held and trainer.frames.cache.maps.keys() <= held
        kept = trainer.frames.cache
        used = sum(m.numel() * 2 for maps in kept.maps.values() for m in maps)
        assert kept.used_bytes == used + sum(labels.nbytes for labels in kept.labels.values())
        most.append(len(held))

    trainer.on_step = look
    thread = feed(supply, FRAMES[:12])
    trainer.run()
    thread.join()
    assert trainer.step == supply.schedule.end < 400 and max(most) <= 8 and supply.dataset.forgotten == 4
    assert rows[-1]["step"] == trainer.step and rows[-1]["lr"] < 0.3 * config.learning_rate
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").info["frames"] == 12


def test_held_out_stretches_are_validated_on_and_never_drawn(tmp_path):
    config = small_training(steps=6, validate_every=3, validation_frames=4, watch_frames=2)
    supply = replay(config, finish_steps=6, hold_out_every=3)
    for frame in FRAMES:
        supply.dataset.put(frame)
    supply.end()
    trainer, read = Trainer(config, supply, tmp_path / "run", "cpu"), []
    supply.draw, draw = lambda number: read.append(draw(number)) or read[-1], supply.draw
    rows = []
    trainer.on_row = rows.append
    trainer.run()
    held_out = {4, 5, 6, 7, 16, 17, 18, 19}
    assert set(supply.validation) <= held_out and len(supply.validation) == 4
    assert len(read) == 6 and not set(read) & held_out
    assert [row["watch"]["frames"] for row in rows if "watch" in row] == [2, 2]


def test_a_stopped_replay_run_goes_on_where_it_was_with_another_replay(tmp_path):
    config = small_training(steps=50, checkpoint_every=100)
    supply = replay(config)
    for frame in FRAMES[:4]:
        supply.dataset.put(frame)
    trainer = Trainer(config, supply, tmp_path / "run", "cpu")
    trainer.on_step = lambda: trainer.step == 3 and trainer.request_stop(signal.SIGINT)
    text = r"stopped by SIGINT after step 4 of at most 50, .*training.resume:=true"
    with pytest.raises(Stopped, match=text) as stopped:
        trainer.run()
    assert stopped.value.signal_number == signal.SIGINT
    again = replay(config, finish_steps=2)
    thread = feed(again, FRAMES[10:14])
    resumed = Trainer(config, again, tmp_path / "run", "cpu")
    first_steps = []
    resumed.on_step = lambda: first_steps.append(resumed.step)
    resumed.run(resume=True)
    thread.join()
    assert first_steps[0] == 5
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == resumed.step
    with pytest.raises(ValueError, match="other data: its training scenes, .* differ"):
        Trainer(config, SmallData(), tmp_path / "run", "cpu").run(resume=True)


def test_a_stop_before_the_first_frame_ends_the_wait(tmp_path):
    trainer = Trainer(small_training(), replay(), tmp_path / "run", "cpu")
    trainer.request_stop()
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 0"):
        trainer.run()


def test_a_replay_that_is_all_there_trains_as_the_same_frames_of_a_data_set(tmp_path):
    """One loop: with the same draws, the same weights to the last bit."""
    config = small_training(steps=5, freeze_norm_at=1.0, warmup_steps=100)
    data = SmallData(frames=4)
    supply = replay(config)
    for frame in data.frames:
        supply.dataset.put(frame)
    indexed = Trainer(config, data, tmp_path / "indexed", "cpu")
    indexed.supply.draw = supply.draw
    live = Trainer(config, supply, tmp_path / "live", "cpu")
    supply.refresh(0, never)
    for trainer in (indexed, live):
        trainer.run()
    assert indexed.step == live.step == 5
    assert all(torch.equal(a, b) for a, b in zip(indexed.trained, live.trained, strict=True))
