"""Holding a replay back: the pause service of ``ros2 bag play`` or of this project's player, where there is one."""

import time

from std_srvs.srv import SetBool

ANSWER_S = 5.0  # a player that has not answered for so long is asked again


class PlayerControl:
    """Pauses and continues a player, without waiting for its answers.

    ``ros2 bag play`` is controlled through rosbag2_interfaces (``pause``, ``resume``), where that package is installed;
    the project's own player through std_srvs/SetBool.

    Args:
        node: owns the clients.
        names: of the players' nodes, each tried.

    ``held``: whether a player has confirmed that it pauses. ``pauses`` counts these.
    """

    def __init__(self, node, names: tuple[str, ...]):
        self._logger = node.get_logger()
        self._calls = []  # (client that pauses, client that continues, their request)
        for name in names:
            client = node.create_client(SetBool, f"{name}/pause")
            self._calls.append((client, client, lambda paused: SetBool.Request(data=paused)))
            self._calls += _rosbag2_calls(node, name)
        self.held = False
        self.pauses = 0
        self._asked_at = 0.0
        self._pending = None

    @property
    def available(self) -> bool:
        """Whether a player with a service is there."""
        return self._ready() is not None

    def want(self, paused: bool) -> None:
        """Ask for a pause, or for going on, where the player does otherwise; to be called again and again.

        One question at a time: answers cannot overtake each other.
        """
        if self._pending is not None and time.monotonic() - self._asked_at < ANSWER_S:
            return
        call = self._ready()
        if call is None:
            self.held = False  # the player is gone, and with it its pause
        if call is None or paused == self.held:
            self._pending = None
            return
        self._asked_at = time.monotonic()
        self._pending = (call[0] if paused else call[1]).call_async(call[2](paused))
        self._pending.add_done_callback(lambda future: self._on_answer(future, paused))

    def _ready(self):
        return next((call for call in self._calls if call[0].service_is_ready() and call[1].service_is_ready()), None)

    def _on_answer(self, future, paused: bool) -> None:
        if future is not self._pending:
            return  # too late: it was asked again
        self._pending = None
        if future.exception() is not None:
            self._logger.warning(f"the player did not {'pause' if paused else 'continue'}: {future.exception()}")
            return
        self.held = paused
        self.pauses += paused


def _rosbag2_calls(node, name: str) -> list:
    try:
        from rosbag2_interfaces.srv import Pause, Resume
    except ImportError:
        return []
    pause, resume = node.create_client(Pause, f"{name}/pause"), node.create_client(Resume, f"{name}/resume")
    return [(pause, resume, lambda paused: Pause.Request() if paused else Resume.Request())]
