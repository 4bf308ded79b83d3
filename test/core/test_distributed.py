"""Two processes over gloo, as ``torchrun`` starts them, against one process with the whole batch."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import SmallData, small_training
from train_small import make_trainer

from gsrender_core import train
from gsrender_core.distributed import Group
from gsrender_core.train import Trainer

SCRIPT = Path(__file__).with_name("train_small.py")
# Every kind of step: with and without rendering, learning and frozen norms, several frames a process, more
# than one epoch, scene ends without adjacent frames; beside that a frame that cannot be read, wherever it is
# needed, and a loss that is NaN in one step in one process.
TRAINING = dict(
    steps=4, batch=4, render_every=2, freeze_norm_at=0.5, checkpoint_every=2, learning_rate=2e-3, adjacent=[1, -1]
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the started processes: sums in another number of threads have another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    """The run of one process that the others must equal."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    with pytest.MonkeyPatch.context() as patch:
        alone(out, patch)
    return out


def environment() -> dict:
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return clean | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}


def command(out: Path, processes: int, options: dict, *more: str) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(torchrun if processes > 1 else []), str(SCRIPT), str(out), json.dumps(options), *more]


def run(out: Path, processes: int, options: dict, *more: str, code: int = 0) -> str:
    """What the processes printed."""
    done = subprocess.run(
        command(out, processes, options, *more), env=environment(), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr + done.stdout


def curve(out: Path) -> dict[int, dict]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row for row in rows if "lr" in row}


def weights(out: Path) -> dict[str, torch.Tensor]:
    state = torch.load(out / "resume.pt", weights_only=True)
    return {f"{part}.{k}": v for part in ("model", "ema") for k, v in state[part].items()}


def alone(out: Path, monkeypatch, resume: bool = False, **changes) -> None:
    """The same training in this process."""
    monkeypatch.setattr(train, "LOG_EVERY", 1)
    make_trainer(out, TRAINING | changes, Group("cpu")).run(resume)


def assert_same_run(a: Path, b: Path) -> None:
    """Curves and weights equal but for the order of float32 sums.

    A sum of gradients in another order differs by about 1e-7 of its size; Adam divides by its own root mean
    square, so a weight may differ by a small part of the learning rate (2e-3) where a gradient is near zero.
    """
    one, two = curve(a), curve(b)
    assert one.keys() == two.keys()
    for step, row in one.items():
        assert row.keys() == two[step].keys()
        for name, value in row.items():
            if name != "seconds" and value == value:
                assert two[step][name] == pytest.approx(value, rel=1e-3, abs=2e-5), (step, name)
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_equal_one_with_the_whole_batch(unbroken, tmp_path, monkeypatch):
    log = run(tmp_path / "two", 2, {"training": TRAINING})
    assert "2 processes" in log and log.count("training on 5 frames") == 1  # the first process alone speaks
    assert "frame 3 is cut off" in log
    assert len(re.findall("step 1: NaN or infinite: depth_net of frame t0; step skipped, 1 so far", log)) == 1
    assert_same_run(unbroken, tmp_path / "two")
    # The comparison can tell: another order of draws, that is another seed, is another run.
    alone(tmp_path / "other", monkeypatch, seed=1, steps=2)
    assert curve(tmp_path / "other")[1]["depth_net"] != pytest.approx(curve(unbroken)[1]["depth_net"], rel=1e-3)


def test_a_signal_to_one_process_stops_all_with_a_checkpoint_and_one_process_goes_on(unbroken, tmp_path, monkeypatch):
    options = {"training": TRAINING}
    printed = run(tmp_path / "two", 2, options | {"signal": [int(signal.SIGTERM), 1, 1]})
    assert printed.count("stopped by SIGTERM after step 2 of 4") == 2 and "--resume" in printed
    assert torch.load(tmp_path / "two" / "resume.pt", weights_only=True)["step"] == 2
    alone(tmp_path / "two", monkeypatch, resume=True)
    assert_same_run(unbroken, tmp_path / "two")


def test_a_killed_run_resumes_to_the_very_bits_of_an_unbroken_one(unbroken, tmp_path, monkeypatch):
    # In a process of its own: killed in step 4, after the checkpoint of step 2, with a torn log and file behind it.
    options = {"training": TRAINING, "signal": [int(signal.SIGKILL), 3, 0]}
    run(tmp_path / "killed", 1, options, code=-signal.SIGKILL)
    assert sorted(curve(tmp_path / "killed")) == [1, 2, 3]
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "depth_n')
    (tmp_path / "killed" / "last.partial").write_bytes(b"half a checkpoint")
    alone(tmp_path / "killed", monkeypatch, resume=True)
    whole, resumed = weights(unbroken), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    one, two = curve(unbroken), curve(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all(one[s]["ray_opacity"] == two[s]["ray_opacity"] for s in one)
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_a_batch_that_cannot_be_shared_evenly_is_refused(tmp_path, monkeypatch):
    class Three(Group):
        def __init__(self):
            super().__init__("cpu")
            self.size = 3

    with pytest.raises(ValueError, match="4 frames cannot be shared evenly by 3"):
        Trainer(small_training(batch=4), SmallData(), tmp_path, "cpu", group=Three())


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    group = Group("cpu")
    assert (group.rank, group.size, group.is_first, group.joined) == (0, 1, True, False)
    assert group.share([1, 2, 3]) == [1, 2, 3] and group.gather("a") == ["a"]
    assert group.first(max, 2, 3) == 3
    with pytest.raises(ValueError, match="invalid literal"):
        group.first(int, "x")


def test_processes_that_disagree_stop(monkeypatch):
    group = Group("cpu")
    for other, agrees in ((2.0 + 1e-7, True), (2.0 + 1e-4, False), (float("nan"), False)):
        monkeypatch.setattr(group, "gather", lambda value, other=other: [value, other])
        if agrees:
            group.require_equal(2.0, "weights")
        else:
            with pytest.raises(ValueError, match="weights differ between the processes"):
                group.require_equal(2.0, "weights")
