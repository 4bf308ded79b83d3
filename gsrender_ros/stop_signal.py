"""SIGINT and SIGTERM as a flag: programs end between two steps, with their context still valid."""

import signal


class StopSignal:
    """Becomes true when SIGINT or SIGTERM arrives. For main threads whose ``rclpy.init`` installs no handlers.

    rclpy's own handlers shut the context down at once, under whatever is publishing or writing just then.
    """

    def __init__(self):
        self._arrived = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._arrive)

    def _arrive(self, number, frame) -> None:
        self._arrived = True

    def __bool__(self) -> bool:
        return self._arrived
