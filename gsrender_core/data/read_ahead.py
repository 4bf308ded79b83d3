"""``ReadAhead``: processes that read and decode frames while the network works on earlier ones."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from gsrender_core.data.frame import Frame

logger = logging.getLogger(__name__)

MAX_DEATHS = 3
_dataset = None  # of a worker


def read_frame(dataset, i: int, images: bool) -> Frame:
    """Frame i; without ``images`` no image is decoded where the data set can do that."""
    if not images and hasattr(dataset, "frame_without_images"):
        return dataset.frame_without_images(i)
    return dataset.frame(i)


def _start(dataset) -> None:
    global _dataset
    _dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which still wants its frames
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        parent.join()  # a trainer that was killed cannot end its workers
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


def _read(i: int, images: bool) -> Frame:
    return read_frame(_dataset, i, images)


class ReadAhead:
    """Reads wanted frames in worker processes; whoever takes a frame gets the same as from the data set itself.

    Workers are spawned, not forked: a fork of a process with running threads may hang. The data set must be
    picklable. A frame that cannot be read raises its own error where it is taken. A worker that dies is
    reported, its frames are read by the caller and new workers started; after three deaths the caller reads all.

    Args:
        dataset: needs ``frame(i)``; ``frame_without_images(i)`` is used where it exists.
        workers: processes.
        limit: frames that are read or waiting at any time.
    """

    def __init__(self, dataset, workers: int, limit: int):
        self.dataset, self.workers, self.limit = dataset, workers, limit
        self.deaths = 0
        self._pool: ProcessPoolExecutor | None = None
        self._pending: OrderedDict[tuple[int, bool], Future] = OrderedDict()

    def want(self, reads: Iterable[tuple[int, bool]]) -> None:
        """Start reading (frame index, whether with images), first things first, as far as the limit allows.

        Frames that are no longer wanted are forgotten.
        """
        reads = list(OrderedDict.fromkeys(reads))[: self.limit]
        for read in [r for r in self._pending if r not in reads]:
            self._pending.pop(read).cancel()
        if self.deaths >= MAX_DEATHS:
            return
        for read in reads:
            if read not in self._pending:
                try:
                    self._pending[read] = self._workers().submit(_read, *read)
                except BrokenProcessPool:
                    self._bury(read[0])
                    return

    def take(self, i: int, images: bool) -> Frame:
        """Frame i, waiting for it where it is being read."""
        future = self._pending.pop((i, images), None)
        if future is None and not images:
            future = self._pending.pop((i, True), None)
        if future is not None:
            try:
                return future.result()
            except BrokenProcessPool:
                self._bury(i)
        return read_frame(self.dataset, i, images)

    def close(self) -> None:
        """End the workers."""
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _workers(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, initializer=_start, initargs=(self.dataset,))
        return self._pool

    def _bury(self, i: int) -> None:
        self.deaths += 1
        self.close()
        then = "new ones are started" if self.deaths < MAX_DEATHS else "frames are read without workers from now on"
        logger.error(
            "a data-loading worker died at frame %d or one read beside it, death %d (out of memory? lower workers); "
            "%s, no frame is lost", i, self.deaths, then,
        )  # fmt: skip
