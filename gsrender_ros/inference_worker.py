"""One worker thread behind a slot that holds only the latest item: latency stays bounded, nothing piles up."""

import threading
import time
from collections import deque
from concurrent.futures import Future

from gsrender_ros.statistics import FrameDropped, FrameStatistics


class InferenceWorker:
    """Runs ``process(item)`` for the newest item; what is overtaken while waiting counts as superseded.

    Args:
        process: takes an item and returns the inference time in seconds; raises ``FrameDropped`` for an
            item that cannot become output.
        statistics: counts every item's fate.
        logger: an rclpy logger (``warning`` and ``error`` with ``throttle_duration_sec``).

    ``call`` runs other work, such as loading another network, in the same thread, between two items.

    ``idle`` says that it waits: the next item will be processed at once.

    ``generation`` grows with every ``reset``; an item in flight compares it before it publishes.
    """

    def __init__(self, process, statistics: FrameStatistics, logger):
        self._process = process
        self._statistics = statistics
        self._logger = logger
        self._condition = threading.Condition()
        self._item = None
        self._arrived_at = 0.0
        self._calls: deque = deque()
        self._stopping = False
        self.generation = 0
        self.idle = False
        self._ready = Future()
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._prepare = None

    def start(self, prepare=lambda: None):
        """Start the thread and return what ``prepare()`` returned in it, or raise what it raised.

        torch keeps a team of OpenMP threads for every Python thread that ever computed, and two teams slow
        each other down: loading and warming up belong where the inference will run.
        """
        self._prepare = prepare
        self._thread.start()
        return self._ready.result()

    def submit(self, item) -> None:
        """Hand over the newest item; never blocks."""
        with self._condition:
            overtaken = self._item is not None
            self._item, self._arrived_at = item, time.monotonic()
            self._condition.notify()
        if overtaken:
            self._statistics.dropped("superseded", "a newer set of images arrived while the network was busy")

    def call(self, function) -> Future:
        """Run ``function()`` in the worker's thread before the next item; the future holds its result or error."""
        future = Future()
        with self._condition:
            if self._stopping:
                future.set_exception(RuntimeError("the node is stopping"))
                return future
            self._calls.append((function, future))
            self._condition.notify()
        return future

    def reset(self) -> None:
        """Forget the waiting item and mark the one in flight as stale."""
        with self._condition:
            self.generation += 1
            waiting, self._item = self._item is not None, None
        if waiting:
            self._statistics.dropped("reset", "time jumped back, or ~/reset was called")

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after the item in flight; calls that wait are not made."""
        with self._condition:
            self._stopping = True
            calls, self._calls = self._calls, deque()
            self._condition.notify()
        for _, future in calls:
            future.set_exception(RuntimeError("the node is stopping"))
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called; a long wait inside ``process`` ends then."""
        return self._stopping

    def _run(self) -> None:
        try:
            prepared = self._prepare()
        except BaseException as error:  # handed to the caller of start()
            self._ready.set_exception(error)
            return
        self._ready.set_result(prepared)
        while True:
            with self._condition:
                while self._item is None and not self._calls and not self._stopping:
                    self.idle = True
                    self._condition.wait()
                self.idle = False
                if self._stopping:
                    return
                call = self._calls.popleft() if self._calls else None
                if call is None:
                    item, arrived_at, self._item = self._item, self._arrived_at, None
                    generation = self.generation
            if call is not None:
                _answer(*call)
            else:
                self._work(item, arrived_at, generation)

    def _work(self, item, arrived_at: float, generation: int) -> None:
        try:
            inference_s = self._process(item, generation)
            self._statistics.published(time.monotonic() - arrived_at, inference_s)
        except FrameDropped as dropped:
            self._statistics.dropped(dropped.reason, str(dropped))
            if dropped.reason not in ("paused", "reset"):  # what somebody asked for was said once already
                self._logger.warning(str(dropped), throttle_duration_sec=2.0)
        except BaseException as error:
            # The node must outlive whatever one frame does to it, a SystemExit of some library included: a dead worker
            # would be silence for good. The text says what happened. When stopping, what breaks lost its publishers.
            text = f"frame lost: {type(error).__name__}: {error}"
            self._statistics.dropped("error", text)
            if not self._stopping:
                self._logger.error(text, throttle_duration_sec=2.0)


def _answer(function, future: Future) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # handed to whoever asked
        future.set_exception(error)
