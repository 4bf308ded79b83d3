import sys
import threading
import time
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from ros_processes import PATIENCE_S, own_domain
from std_msgs.msg import String

from gsrender_ros.side_node import SideNode, make_executor, spin_once


@pytest.fixture(params=["newest", "without a queue of events"])
def release(request, monkeypatch):
    """rclpy as it is here, and as releases are that have no EventsExecutor."""
    if request.param != "newest":
        monkeypatch.setitem(sys.modules, "rclpy.experimental", None)
    return request.param


@pytest.fixture
def main_node():
    context = Context()
    rclpy.init(context=context, domain_id=own_domain(31))
    node = Node(
        "main",
        context=context,
        namespace="/car",
        cli_args=["--ros-args", "-r", "/heard:=/elsewhere", "-r", "__node:=m"],
    )
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_hears_while_the_main_executor_is_busy(main_node, release):
    """Name and namespace beside the main node's, its remapping of the topic, and a callback that fails is survived."""
    side = SideNode(main_node, "side", ("/heard",))
    executor, heard, said = make_executor(main_node.context), [], []
    assert isinstance(executor, SingleThreadedExecutor) == (release != "newest")
    executor.add_node(main_node)
    side._logger = SimpleNamespace(error=lambda text, **_: said.append(text))

    def hear(message):
        heard.append((message.data, threading.current_thread().name))
        if message.data == "bad":
            raise KeyError("bad")

    side.node.create_subscription(String, "/heard", hear, 10)
    assert side.node.get_fully_qualified_name() == "/car/m_side"
    publisher = main_node.create_publisher(String, "/elsewhere", 10)

    def busy():
        """A callback of the main node that ends when the side node has heard what was published after it began."""
        wait_until(publisher.get_subscription_count)
        for text in ("bad", "good"):
            publisher.publish(String(data=text))
        wait_until(lambda: len(heard) == 2)
        busy.done = True

    timer = main_node.create_timer(0.001, busy)
    side.start()
    busy.done = False
    while not busy.done:
        executor.spin_once(timeout_sec=1.0)
    timer.cancel()
    assert heard == [("bad", "side"), ("good", "side")]
    assert said == ["a callback failed: KeyError: 'bad'"]
    side.close()
    assert not side._thread.is_alive()
    executor.shutdown()


def test_it_ends_with_the_context_or_unstarted(main_node, release):
    side, unstarted = SideNode(main_node, "one"), SideNode(main_node, "two")
    side.start()
    rclpy.shutdown(context=main_node.context)
    side._thread.join(PATIENCE_S)
    assert not side._thread.is_alive()
    side.close()
    unstarted.close()


def test_a_shutdown_is_no_failed_callback():
    class Executor:
        def spin_once(self, timeout_sec):
            raise ExternalShutdownException

    with pytest.raises(ExternalShutdownException):
        spin_once(Executor(), None)
