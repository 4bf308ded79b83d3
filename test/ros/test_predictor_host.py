"""Loading, exchanging and failing: what happens to the network in use."""

import numpy as np
import pytest
import torch
from ros_processes import OPTICAL, SIZE, K, write_small_checkpoint

from gsrender_core.data.frame import Frame
from gsrender_core.geometry import transform
from gsrender_ros.predictor_host import FAILURES_IN_A_ROW, PredictorHost, check_file


class Log:
    def __init__(self):
        self.lines = []

    def error(self, text, **_):
        self.lines.append(text)

    warning = error


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    write_small_checkpoint(path)
    return path


@pytest.fixture
def host(checkpoint):
    host = PredictorHost("cpu", "eager", 1, Log())
    host.load(str(checkpoint))
    return host


def frame() -> Frame:
    T_ego_cam = transform(OPTICAL, (0.0, 0.0, 1.5))
    return Frame(np.zeros((1, 3, SIZE[1], SIZE[0]), np.uint8), K[None], T_ego_cam[None], np.eye(4), 7, ("a",))


def test_a_bad_file_leaves_the_old_network_in_use(host, checkpoint, tmp_path):
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"\x10" * 1000)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    before = host.predictor
    for path, words in ((garbage, "not a readable"), (cut, "not a readable"), (tmp_path / "none", "no checkpoint at")):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            check_file(str(path))
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            host.load(str(path))
    assert host.predictor is before and host.path == str(checkpoint)
    assert host(frame(), ()).stamp_ns == 7
    check_file(str(checkpoint))
    check_file("")  # the packaged one


def test_facts_name_what_is_loaded(host, checkpoint):
    facts = host.facts()
    assert facts["checkpoint"] == str(checkpoint) and facts["device"] == "cpu" and facts["image_size"] == "96x64"
    assert facts["grid"] == "20x20x4 voxels of 1.6 m from (-16, -16, -1) m"
    assert host.gpu_memory_mb() is None and facts["runtime"] == "eager"


def test_a_runtime_that_cannot_serve_is_said_and_shown(checkpoint):
    host = PredictorHost("cpu", "cuda_graph", 1, Log())
    host.load(str(checkpoint))
    assert "runtime cuda_graph is not used" in host._logger.lines[0]
    assert host.facts()["runtime"].startswith("eager (runtime cuda_graph is not used")
    assert host(frame(), ()).stamp_ns == 7


def test_equal_failures_in_a_row_load_the_network_anew_once_and_then_say_what_to_do(host, monkeypatch):
    loads = []
    monkeypatch.setattr(host, "load", loads.append)

    def fail(*_, **__):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore lines")

    monkeypatch.setattr(host, "predictor", fail)
    for _ in range(2 * FAILURES_IN_A_ROW):
        with pytest.raises(RuntimeError, match="illegal memory"):
            host(frame(), ())
    assert loads == [host.path] and host.failures == 2 * FAILURES_IN_A_ROW
    first, second = host._logger.lines
    assert first.startswith("the network failed 3 times in a row (RuntimeError: CUDA error: an illegal memory access")
    assert "more lines" not in first and first.endswith("loading it anew")
    assert "failed on 6 frames in a row" in second and "restart the node" in second


def test_different_failures_are_no_row_and_success_ends_one(host, monkeypatch):
    good, texts = host.predictor, iter(["a", "b", "a", "b", "a", "a"])

    def fail(*_, **__):
        raise ValueError(next(texts))

    monkeypatch.setattr(host, "predictor", fail)
    for failures in (1, 1, 1, 1, 1, 2):
        with pytest.raises(ValueError):
            host(frame(), ())
        assert host.failures == failures
    monkeypatch.setattr(host, "predictor", good)
    host(frame(), ())
    assert host.failures == 0 and not host._logger.lines


def test_out_of_memory_says_how_to_need_less(host, monkeypatch):
    def fail(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(host, "predictor", fail)
    monkeypatch.setattr(host, "load", lambda path: (_ for _ in ()).throw(RuntimeError("still no room")))
    for _ in range(FAILURES_IN_A_ROW):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            host(frame(), ())
    assert "loading it anew failed: still no room" in host._logger.lines[-1]
    assert "device:=cpu" in host._logger.lines[-1] and "end other programs" in host._logger.lines[-1]
