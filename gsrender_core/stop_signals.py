"""``StopSignals``: SIGTERM and SIGINT end a run after the step at hand, with a checkpoint."""

import logging
import signal
import threading
import time

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN_S = 1.0  # a second interrupt this much later means now


class Stopped(KeyboardInterrupt):
    """A run ended early because it was asked to; its state is saved. ``signal_number``: SIGTERM or SIGINT."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self):
        return type(self), (str(self), self.signal_number)  # how it travels between processes


class StopSignals:
    """A context in which the first SIGTERM or SIGINT is only noted in ``received``.

    A second SIGINT interrupts at once, as always. Outside the main thread, where Python delivers no
    signals, nothing is changed.
    """

    def __init__(self):
        self.received: int | None = None
        self._at = 0.0
        self._before: dict = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        if self.received is None:
            self.received, self._at = number, time.monotonic()
            logger.warning("%s: stopping after this step", signal.Signals(number).name)
        elif number == signal.SIGINT == self.received and time.monotonic() - self._at > _AGAIN_S:
            raise KeyboardInterrupt
