import threading
import time

import pytest

from gsrender_ros.inference_worker import InferenceWorker
from gsrender_ros.statistics import DROP_REASONS, FrameDropped, FrameStatistics


class Log:
    def __init__(self):
        self.lines = []

    def warning(self, text, **_):
        self.lines.append(text)

    error = warning


def wait_until(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


@pytest.fixture
def bench():
    """A worker whose processing waits for ``gate``; it records what it processed."""

    class Bench:
        def __init__(self):
            self.gate, self.entered, self.done, self.log = threading.Event(), threading.Event(), [], Log()
            self.statistics = FrameStatistics()
            self.worker = InferenceWorker(self.process, self.statistics, self.log)
            self.worker.start()

        def process(self, item, generation):
            self.entered.set()
            assert self.gate.wait(20)
            if isinstance(item, BaseException):
                raise item
            if generation != self.worker.generation:
                raise FrameDropped("reset", "stale")
            self.done.append(item)
            return 0.001

        def submit(self, item):
            self.statistics.received()
            self.worker.submit(item)

        def settled(self):
            return self.statistics.summary().pending == 0

    bench = Bench()
    yield bench
    bench.gate.set()
    bench.worker.stop()


def test_only_the_latest_waits_and_what_it_overtakes_is_counted(bench):
    bench.submit(0)
    assert bench.entered.wait(20)
    for item in range(1, 6):
        bench.submit(item)
    bench.gate.set()
    wait_until(bench.settled)
    assert bench.done == [0, 5]
    summary = bench.statistics.summary()
    assert (summary.frames_in, summary.frames_out, summary.dropped) == (6, 2, {"superseded": 4})
    assert summary.latency_p50_ms > 0 and summary.inference_p50_ms == pytest.approx(1.0)
    assert summary.overhead_p50_ms == pytest.approx(summary.latency_p50_ms - 1.0)


def test_a_reset_drops_the_waiting_and_the_running_item(bench):
    bench.submit(0)
    assert bench.entered.wait(20)
    bench.submit(1)
    bench.worker.reset()
    bench.gate.set()
    wait_until(bench.settled)
    assert bench.done == [] and bench.statistics.summary().dropped == {"reset": 2}
    bench.submit(2)
    wait_until(bench.settled)
    assert bench.done == [2]


def test_failures_are_counted_by_reason_logged_and_survived(bench):
    bench.gate.set()
    for item in (FrameDropped("no_tf", "No transform a <- b"), RuntimeError("out of memory"), SystemExit(3), 7):
        bench.submit(item)
        wait_until(bench.settled)
    assert bench.done == [7]
    assert bench.statistics.summary().dropped == {"no_tf": 1, "error": 2}
    assert bench.log.lines[:2] == ["No transform a <- b", "frame lost: RuntimeError: out of memory"]
    assert bench.log.lines[2:] == ["frame lost: SystemExit: 3"]


def test_reasons_are_a_closed_list():
    assert len(set(DROP_REASONS)) == len(DROP_REASONS)
    with pytest.raises(AssertionError):
        FrameDropped("because", "")


def test_calls_run_in_the_workers_thread_before_the_next_item(bench):
    bench.submit(0)
    assert bench.entered.wait(20)
    bench.submit(1)
    seen = []

    def call():
        seen.append((threading.current_thread().name, list(bench.done)))
        return "loaded"

    future = bench.worker.call(call)
    failing = bench.worker.call(lambda: 1 / 0)
    bench.gate.set()
    assert future.result(20) == "loaded"
    assert isinstance(failing.exception(20), ZeroDivisionError)
    wait_until(bench.settled)
    assert seen == [("inference", [0])] and bench.done == [0, 1]


def test_calls_of_a_stopping_worker_end_with_an_error(bench):
    bench.submit(0)
    assert bench.entered.wait(20)
    waiting = bench.worker.call(lambda: "never")
    stopper = threading.Thread(target=bench.worker.stop)
    stopper.start()
    assert "stopping" in str(waiting.exception(20))
    assert "stopping" in str(bench.worker.call(lambda: "never").exception(20))
    bench.gate.set()
    stopper.join(20)


def test_idle_says_that_the_next_item_will_be_processed_at_once(bench):
    wait_until(lambda: bench.worker.idle)
    bench.submit("a")
    assert bench.entered.wait(20) and not bench.worker.idle
    bench.submit("b")  # waits behind the first
    assert not bench.worker.idle
    bench.gate.set()
    wait_until(lambda: bench.settled() and bench.worker.idle)
