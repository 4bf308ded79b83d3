import dataclasses
import errno
import logging
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from small import SmallData, small_model, small_training

from gsrender_core.checkpoint import load_checkpoint
from gsrender_core.cli import main
from gsrender_core.config import BackboneConfig, to_dict
from gsrender_core.data.read_ahead import MAX_DEATHS, ReadAhead
from gsrender_core.gradient_step import GradientStep
from gsrender_core.model.gsrender import GSRender
from gsrender_core.run_folder import rows_until
from gsrender_core.train import Trainer
from gsrender_core.training_frames import TrainingFrames
from gsrender_core.whole_file import write_whole


def frames_of(data, cache_gb=1.0):
    torch.manual_seed(0)
    config = small_training()
    return TrainingFrames(data, GSRender(config.model), torch.device("cpu"), config.rare_boost, cache_gb)


class Counted(SmallData):
    """Counts what is read, as (frame, with images)."""

    def __init__(self, frames=3):
        super().__init__(frames=frames)
        self.read = []

    def frame(self, i, labels=True):
        self.read.append((i, True))
        return self.frames[i]

    def frame_without_images(self, i):
        self.read.append((i, False))
        return dataclasses.replace(self.frames[i], images=self.frames[i].images[..., :0, :0])


class Deadly(SmallData):
    """Kills the process that reads frame 1, unless it is this one."""

    def __init__(self):
        super().__init__()
        self.pid = os.getpid()

    def frame(self, i, labels=True):
        if i == 1 and os.getpid() != self.pid:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.frames[i]


class Unreadable(SmallData):
    def frame(self, i, labels=True):
        if i == 1:
            raise ValueError("sweep 1 is cut off")
        return self.frames[i]


def test_mixed_image_sizes_are_named_and_skipped(tmp_path, caplog):
    data = SmallData()
    data.frames[1] = dataclasses.replace(data.frames[1], images=data.frames[1].images[..., :48])
    trainer = Trainer(small_training(steps=3, adjacent=(), ray_adjacent=()), data, tmp_path / "run", "cpu")
    trainer.run()
    assert "frame t1 of a has 48x64 images, the network takes 96x64" in caplog.text
    assert trainer.skipped == {1}


def test_labels_of_a_camera_that_is_not_there_are_refused():
    data = SmallData()
    labels = data.frames[0].labels
    wrong = dataclasses.replace(labels, camera=np.where(np.arange(300) == 7, 3, labels.camera))
    data.frames[0] = dataclasses.replace(data.frames[0], labels=wrong)
    with pytest.raises(ValueError, match=r"frame t0 of a has labels of cameras 0 \.\. 3, but 3 cameras"):
        frames_of(data).labels(0)


def test_memory_for_labels_and_features_is_bounded_and_said_once(caplog):
    caplog.set_level(logging.INFO)
    data = Counted(frames=30)
    free, full = frames_of(data), frames_of(data, cache_gb=0.0)
    for i in (0, 1, 0):
        for a, b in zip(free.maps(i), full.maps(i), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(free.labels(i).draw, full.labels(i).draw)
    used = sum(m.numel() * 2 for maps in free.cache.maps.values() for m in maps)
    used += sum(labels.nbytes for labels in free.cache.labels.values())
    assert free.cache.used_bytes == used and len(free.cache.maps) == len(free.cache.labels) == 2
    for i in range(30):
        full.labels(i)
    assert full.cache.used_bytes == 0 and not full.cache.maps and not full.cache.labels
    assert len(full._recent) <= 4 and len(full._recent_labels) <= 16
    assert caplog.text.count("is used up") == 1
    data.read.clear()
    full.labels(29)
    assert not data.read  # what a step asks for again is still there
    full.labels(0)
    assert data.read == [(0, False)]  # no image is decoded for labels alone


def test_read_ahead_gives_the_frames_of_the_data_set_in_any_order():
    data = SmallData(frames=4)
    reader = ReadAhead(data, 1, 3)
    try:
        reader.want([(2, True), (0, True), (3, True), (1, True)])
        assert list(reader._pending) == [(2, True), (0, True), (3, True)]  # the limit
        for i in (0, 1, 2, 3):
            frame = reader.take(i, True)
            assert frame.token == f"t{i}" and np.array_equal(frame.images, data.frames[i].images)
            assert np.array_equal(frame.labels.uv, data.frames[i].labels.uv)
        assert not reader._pending and reader.deaths == 0
    finally:
        reader.close()


def test_training_with_workers_equals_training_without(tmp_path):
    data, results = SmallData(), []
    for workers in (0, 1):
        config = small_training(steps=4, workers=workers, cache_gb=0.0, bev_flip=False)
        trainer = Trainer(config, data, tmp_path / str(workers), "cpu")
        trainer.run()
        assert trainer.frames.reader is None  # and its processes are gone
        results.append(trainer.trained)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_dead_worker_is_named_and_survived(caplog):
    data = Deadly()
    reader = ReadAhead(data, 1, 3)
    try:
        for deaths in range(1, MAX_DEATHS + 1):
            reader.want([(0, True), (1, True), (2, True)])
            assert [reader.take(i, True).token for i in (1, 0, 2)] == ["t1", "t0", "t2"]
            assert reader.deaths == deaths
        assert "a data-loading worker died at frame 1" in caplog.text
        assert "read without workers from now on" in caplog.text
        reader.want([(1, True)])
        assert not reader._pending and reader.take(1, True).token == "t1"
    finally:
        reader.close()


def test_an_error_in_a_worker_is_that_of_the_frame():
    reader = ReadAhead(Unreadable(), 1, 3)
    try:
        reader.want([(0, True), (1, True)])
        with pytest.raises(ValueError, match="sweep 1 is cut off"):
            reader.take(1, True)
        assert reader.take(0, True).token == "t0" and reader.deaths == 0
    finally:
        reader.close()


def test_a_full_disk_leaves_the_previous_file_whole(tmp_path):
    # A real limit on file sizes, which writes meet as they meet a full disk; in a process of its own.
    script = """
import resource, sys, torch
from pathlib import Path
from gsrender_core.whole_file import write_whole
path = Path(sys.argv[1])
write_whole(path, lambda partial: torch.save(torch.ones(10), partial))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_whole(path, lambda partial: torch.save(torch.ones(1_000_000), partial))
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "resume.pt")], capture_output=True, text=True)
    assert "resume.pt cannot be written" in done.stdout and "MB left; what was there before is untouched" in done.stdout
    assert torch.equal(torch.load(tmp_path / "resume.pt"), torch.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["resume.pt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


def test_training_outlives_a_disk_that_is_full_for_a_while_and_says_so_at_the_end(tmp_path, monkeypatch, caplog):
    full_from, save = [4, 5], torch.save

    def limited(state, path):
        if state["step"] in full_from:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path)

    monkeypatch.setattr(torch, "save", limited)
    data, config = SmallData(), small_training(steps=6, checkpoint_every=2, adjacent=(), ray_adjacent=())
    Trainer(config, data, tmp_path / "run", "cpu").run()
    assert "resume.pt cannot be written ([Errno 28] No space left on device)" in caplog.text
    assert "Training goes on" in caplog.text
    assert torch.load(tmp_path / "run" / "resume.pt")["step"] == 6
    full_from[:] = [6]
    trainer = Trainer(dataclasses.replace(config, checkpoint_every=3), data, tmp_path / "last", "cpu")
    with pytest.raises(OSError, match="resume.pt cannot be written"):
        trainer.run()
    assert torch.load(tmp_path / "last" / "resume.pt")["step"] == 3
    assert load_checkpoint(tmp_path / "last" / "last.safetensors").info["steps"] == 6


def test_a_whole_file_replaces_what_an_interrupted_write_left(tmp_path):
    path = tmp_path / "a.txt"
    path.with_suffix(".partial").write_text("half")
    write_whole(path, lambda partial: partial.write_text("whole"))
    assert path.read_text() == "whole" and not path.with_suffix(".partial").exists()


def test_log_rows_that_will_be_written_again_are_dropped():
    log = '{"step": 1}\n{"step": 3, "a": 1}\n{"step": 2, "validation": {}}\n{"step": 4}\n{"ste'
    assert rows_until(log, 3) == '{"step": 1}\n{"step": 3, "a": 1}\n{"step": 2, "validation": {}}\n'


def test_an_interrupt_saves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    data = SmallData()
    config = small_training(steps=4, checkpoint_every=100, adjacent=(), ray_adjacent=())
    Trainer(config, data, tmp_path / "whole", "cpu").run()
    trainer = Trainer(config, data, tmp_path / "run", "cpu")
    count, before = trainer._count_problems, signal.getsignal(signal.SIGINT)

    def interrupted(report):
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        count(report)

    trainer._count_problems = interrupted
    with pytest.raises(KeyboardInterrupt, match=r"stopped by SIGINT after step 3 of 4.* --resume") as stopped:
        trainer.run()
    assert stopped.value.signal_number == signal.SIGINT and signal.getsignal(signal.SIGINT) is before
    Trainer(config, data, tmp_path / "run", "cpu").run(resume=True)
    a, b = (load_checkpoint(tmp_path / n / "last.safetensors").model.state_dict() for n in ("whole", "run"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_command_that_a_signal_stops_says_how_to_go_on(number, code, tmp_path, monkeypatch, caplog):
    config = small_training(steps=9, checkpoint_every=100, adjacent=(), ray_adjacent=())
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(to_dict(config)))
    monkeypatch.setattr("gsrender_core.data.nuscenes.NuScenes", lambda *_, **__: SmallData())
    agree, sent = GradientStep._agree, []

    def interrupted(self, *arguments):
        if not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        agree(self, *arguments)

    monkeypatch.setattr(GradientStep, "_agree", interrupted)
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path / "c.yaml"), "--data", "here", "--out", out, "--device", "cpu"]) == code
    assert f"go on with: gsrender train {out}/config.yaml" in caplog.text
    assert torch.load(tmp_path / "run" / "resume.pt")["step"] in (1, 2)


def test_autocast_reaches_a_backbone_that_learns_and_leaves_a_frozen_one_alone():
    def features(frozen, bf16):
        torch.manual_seed(0)
        model = GSRender(small_model(backbone=BackboneConfig(pretrained=False, frozen=frozen))).train()
        frames = TrainingFrames(SmallData(), model, torch.device("cpu"), 0.5, 1.0)
        frames.bf16 = bf16
        return frames.maps(0)

    for frozen in (False, True):
        single, half = features(frozen, False), features(frozen, True)
        assert all(m.dtype == torch.float32 for m in half)
        assert all(torch.equal(a, b) for a, b in zip(single, half, strict=True)) == frozen
        assert all(m.requires_grad for m in half) != frozen
