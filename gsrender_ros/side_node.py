"""A second node beside a program's own, spun by a thread of its own: what must not wait behind images."""

import threading

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node


def make_executor(context=None):
    """rclpy's executor with a queue of events where this release has it, else the one with a wait set.

    A wait set is built anew for every round, in Python and of all topics, timers and services: with six cameras that
    costs more than all callbacks together.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # Humble, Jazzy
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


def spin_once(executor, logger, timeout_s: float = 0.1) -> None:
    """One round of an executor; what one callback stumbles over is said, and ends no program on a vehicle.

    Raises:
        ExternalShutdownException: the context was shut down.
    """
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except ExternalShutdownException:
        raise
    except Exception as error:
        logger.error(f"a callback failed: {type(error).__name__}: {error}", throttle_duration_sec=2.0)


class SideNode:
    """Owns a node and the thread that runs its callbacks, from ``start`` to ``close``.

    An executor with a wait set serves one callback of every topic a round, one with a queue of events in the order of
    arrival: either way what shares a thread with many images waits for them, and a topic that is published often falls
    behind by as much as its queue holds.

    Args:
        main: the node beside which it stands; context, namespace, logger and the remappings of ``topics`` are its.
        suffix: of the name.
        topics: absolute names that are subscribed to by those who know no remapping.
    """

    def __init__(self, main: Node, suffix: str, topics: tuple[str, ...] = ()):
        self._logger = main.get_logger()
        # Not the process's arguments: they would give this node the other one's name, and its clock to follow.
        remappings = [text for t in topics for text in ("-r", f"{t}:={main.resolve_topic_name(t)}")]
        self.node = Node(
            f"{main.get_name()}_{suffix}",
            context=main.context,
            namespace=main.get_namespace(),
            cli_args=["--ros-args", *remappings],
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = make_executor(main.context)
        self._executor.add_node(self.node)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=suffix, daemon=True)

    def start(self) -> None:
        """Run callbacks from now on."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and the node."""
        self._closing = True
        if self._thread.is_alive():
            self._executor.wake()
            self._thread.join(5.0)
        self._executor.shutdown()
        self.node.destroy_node()

    def _run(self) -> None:
        try:
            while not self._closing:
                spin_once(self._executor, self._logger, timeout_s=1.0)
        except ExternalShutdownException:
            pass
