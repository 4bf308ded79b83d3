"""One door to numba's threads, shared by every parallel kernel of the package.

numba's OpenMP layer kills forked children (DataLoader workers), so the workqueue layer is chosen unless the user set
``NUMBA_THREADING_LAYER``. Workqueue in turn aborts the process when two Python threads run parallel kernels at the
same time, so every call goes through one lock.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

import numba
import torch

if "NUMBA_THREADING_LAYER" not in os.environ:
    numba.config.THREADING_LAYER = "workqueue"

_lock = threading.RLock()


def _renew_lock() -> None:
    """A child forked while another thread held the lock would wait for ever."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def numba_threads() -> Iterator[int]:
    """Hold numba's thread pool: kernels with ``parallel=True`` run inside this block only.

    Uses as many threads as torch does (``torch.set_num_threads``), at most numba's own limit
    (``NUMBA_NUM_THREADS``, by default the cores this process may use). Yields that number.
    """
    with _lock:
        before = numba.get_num_threads()
        threads = max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        numba.set_num_threads(threads)
        try:
            yield threads
        finally:
            numba.set_num_threads(before)
