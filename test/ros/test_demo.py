"""The demo: its children, what stops it, and one run through the whole chain."""

import json
import logging
import os
import time

import cv2
import numpy as np
import pytest
from ros_processes import PATIENCE_S, write_small_checkpoint
from rosbags.rosbag2 import Reader

from gsrender_ros.demo import MARKER, DemoOptions, main, run_demo
from gsrender_ros.demo_chain import run_chain
from gsrender_ros.programs import Program, ProgramError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "small.safetensors"
    write_small_checkpoint(path)
    return path


def program(tmp_path, code: str) -> Program:
    (tmp_path / "child.py").write_text(code)
    return Program("child", ["child"], tmp_path, {"PYTHONPATH": str(tmp_path)})


def wait_for(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_program_that_ends_early_is_quoted(tmp_path):
    child = program(tmp_path, "import sys\nprint('first')\nsys.exit('no disk')")
    wait_for(lambda: child.ended)
    for check in (child.check, child.check_success):
        with pytest.raises(
            ProgramError, match=r"child (ended early|failed) with code 1: no disk \(log: .*child\.log\)"
        ):
            check()
    assert child.stop() == 1


def test_a_program_is_asked_to_end_and_then_made_to(tmp_path):
    child = program(tmp_path, "import time\nprint('on')\ntime.sleep(600)")
    wait_for(lambda: child.last_line() == "on")
    child.check()
    assert child.stop() == -15
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on')\ntime.sleep(600)"
    child = program(tmp_path, stubborn)
    wait_for(lambda: child.last_line() == "on")
    assert child.stop(timeout_s=0.2) == -9


def refusal(caplog, *arguments) -> str:
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        assert main([str(a) for a in arguments]) == 1
    (record,) = caplog.records
    return record.getMessage()


def test_what_cannot_be_demonstrated_says_so_in_one_line(checkpoint, tmp_path, caplog):
    out, given = tmp_path / "out", ("--checkpoint", checkpoint)
    assert "no checkpoint at" in refusal(caplog, "--checkpoint", tmp_path / "none", "--out", out)
    assert "does not exist" in refusal(caplog, *given, "--out", out, "--data", tmp_path / "none")
    assert (out / MARKER).is_file()
    inside = out / "world"
    assert "lies in the output folder" in refusal(caplog, *given, "--out", out, "--data", inside)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bag").write_text("precious")
    assert "was not made by this demo" in refusal(caplog, *given, "--out", tmp_path / "mine")
    assert (tmp_path / "mine" / "bag").read_text() == "precious"


def test_a_node_that_cannot_start_ends_the_demo(tmp_path):
    (tmp_path / "logs").mkdir()
    with pytest.raises(ProgramError, match=r"occupancy_node ended early with code 1: .*none\.safetensors"):
        run_chain(tmp_path, tmp_path / "none.safetensors", "cpu", 1.0)
    assert (tmp_path / "logs" / "occupancy_node.log").stat().st_size > 0


def test_the_whole_chain_on_a_synthetic_scene(checkpoint, tmp_path):
    report = run_demo(DemoOptions(tmp_path / "out", checkpoint=checkpoint, device="cpu", frames=2))
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert report["frames_in"] == 2
    assert report["frames_in"] == report["frames_out"] + sum(report["dropped"].values()) + report["frames_pending"]
    assert report["recorded"]["/occupancy_node/occupancy"] == report["frames_out"] >= 1
    assert report["latency_ms"]["p50"] >= report["inference_ms"]["p50"] > 0
    assert report["miou"] is None and report["rayiou"] is None  # the small network's volume is not Occ3D's
    assert (report["device"], report["checkpoint"]) == ("cpu", str(checkpoint))
    picture = cv2.imread(str(tmp_path / "out" / "occupancy.png"))
    assert picture.shape[1] == 1680 and len(np.unique(picture)) > 100
    with Reader(tmp_path / "out" / "recording") as reader:
        assert {c.topic for c in reader.connections} >= {"/occupancy_node/occupancy", "/diagnostics"}
    assert not [p for p in os.listdir("/proc") if p.isdigit() and _started_for(tmp_path, p)]


def _started_for(folder, pid: str) -> bool:
    """Whether a process was started with a path below ``folder``."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return str(folder).encode() in file.read()
    except OSError:
        return False
