import time

import numpy as np
import pytest
import rclpy
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from ros_processes import PATIENCE_S, own_domain

from gsrender_core.geometry import transform
from gsrender_ros import pose_source
from gsrender_ros.image_conversions import set_stamp
from gsrender_ros.parameters import Settings
from gsrender_ros.pose_source import PoseSource
from gsrender_ros.standins import GENUINE, TFMessage
from gsrender_ros.tf_lookup import message_from_matrix

NOW_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
pytestmark = pytest.mark.skipif(not GENUINE["tf2_msgs"], reason="tf2_msgs is not installed")


def pose(x_m: float) -> np.ndarray:
    return transform((1, 0, 0, 0), (x_m, 0, 0))


class Vehicle:
    """A main node with its executor, a pose source beside it, and publishers of another process's kind."""

    def __init__(self, remaps=(), **changes):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=own_domain(32))
        arguments = ["--ros-args", *(text for remap in remaps for text in ("-r", remap))]
        self.node = Node("main", context=self.context, namespace="/car", cli_args=arguments)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.poses = PoseSource(self.node, Settings(**changes), None)
        self.poses.start()
        self.sender = Node("sender", context=self.context)

    def known(self, at_ns: int, child: str = "base_link") -> bool:
        return self.poses.buffer.can_transform(self.poses.lookup.fixed_frame, child, Time(nanoseconds=at_ns))

    def while_blocked(self, work) -> None:
        """Run ``work`` in a callback of the main node: until it returns, the main executor serves nobody else."""
        done = []

        def block():
            timer.cancel()
            work()
            done.append(True)

        timer = self.node.create_timer(0.001, block)
        end = time.monotonic() + 2 * PATIENCE_S
        while not done:
            assert time.monotonic() < end
            self.executor.spin_once(timeout_sec=1.0)

    def close(self):
        self.poses.close()
        self.executor.shutdown()
        self.node.destroy_node()
        self.sender.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def vehicle():
    made = []

    def make(*args, **changes):
        made.append(Vehicle(*args, **changes))
        return made[-1]

    yield make
    for one in made:
        one.close()


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "not received while the main executor was busy"
        time.sleep(0.005)


def test_transforms_arrive_while_a_callback_of_the_node_is_busy(vehicle):
    """And from the topics to which the node's /tf and /tf_static are remapped."""
    rig = vehicle(["/tf:=tf", "/tf_static:=/other_static"])
    moving = rig.sender.create_publisher(TFMessage, "/car/tf", 100)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = rig.sender.create_publisher(TFMessage, "/other_static", latched)
    static.publish(TFMessage(transforms=[message_from_matrix(pose(2.0), "base_link", "cam_front")]))

    def work():
        wait_until(moving.get_subscription_count)
        for n in range(2):
            moving.publish(
                TFMessage(transforms=[message_from_matrix(pose(n), "map", "base_link", NOW_NS + n * STEP_NS)])
            )
        wait_until(lambda: rig.known(NOW_NS + STEP_NS // 2, "cam_front"))

    rig.while_blocked(work)
    rig_pose = rig.poses.lookup.rig_pose(NOW_NS, [("cam_front", NOW_NS + STEP_NS // 2)])
    np.testing.assert_allclose(rig_pose.T_ego_cam[0], pose(2.5), atol=1e-6)


def test_odometry_arrives_while_a_callback_of_the_node_is_busy(vehicle):
    rig = vehicle(["odom:=/gps/odom"], pose_source="odometry")
    moving = rig.sender.create_publisher(Odometry, "/gps/odom", 10)

    def work():
        wait_until(moving.get_subscription_count)
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id = "utm"
        message.pose.pose.position.x = 4.0
        set_stamp(message.header.stamp, NOW_NS)
        moving.publish(message)
        wait_until(lambda: rig.known(NOW_NS))

    rig.while_blocked(work)
    assert rig.poses.lookup.fixed_frame == "utm"


def test_jumps_of_clock_and_images_clear_once_and_a_reset_always(vehicle, monkeypatch):
    rig = vehicle()
    wall = [100.0]
    monkeypatch.setattr(pose_source.time, "monotonic", lambda: wall[0])

    def know(at_ns):
        rig.poses._gate.set_transform(message_from_matrix(pose(0), "map", "base_link", at_ns))
        assert rig.known(at_ns)

    know(NOW_NS)
    rig.poses.clock_jumped(NOW_NS - 50 * STEP_NS)
    assert not rig.known(NOW_NS)
    know(NOW_NS - 49 * STEP_NS)
    rig.poses.stamps_jumped(NOW_NS - 50 * STEP_NS)  # the same jump, as the images show it
    assert rig.known(NOW_NS - 49 * STEP_NS)
    wall[0] += pose_source.JUMP_SETTLES_S + 0.1
    rig.poses.stamps_jumped(NOW_NS - 90 * STEP_NS)  # another one
    assert not rig.known(NOW_NS - 49 * STEP_NS)
    know(NOW_NS - 90 * STEP_NS)
    rig.poses.clear()
    assert not rig.known(NOW_NS - 90 * STEP_NS)
