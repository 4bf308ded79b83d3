"""tf2_msgs, generated or genuine: travels over DDS, and its type hash is upstream's."""

import time

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS in this environment")
pytest.importorskip("tf2_msgs", reason="tf2_msgs was not generated (no C compiler)")

from geometry_msgs.msg import TransformStamped  # noqa: E402
from rosbags.typesys import Stores, get_typestore  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from gsrender_ros.tools.generate_tf2_msgs import TYPE_HASH  # noqa: E402


def test_tf_message_travels_over_dds():
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=91)
    node = rclpy.create_node("tf2_msgs_test", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        received = []
        node.create_subscription(TFMessage, "tf2_msgs_test", received.append, 10)
        publisher = node.create_publisher(TFMessage, "tf2_msgs_test", 10)
        sent = TransformStamped()
        sent.header.frame_id, sent.child_frame_id = "map", "base_link"
        sent.transform.translation.x, sent.transform.rotation.z = 1.5, 1.0
        end = time.monotonic() + 10
        while not received and time.monotonic() < end:
            publisher.publish(TFMessage(transforms=[sent]))
            executor.spin_once(timeout_sec=0.05)
        assert received and received[0].transforms == [sent]
        (endpoint,) = node.get_publishers_info_by_topic("tf2_msgs_test")
        if hasattr(endpoint, "topic_type_hash"):  # Humble has no type hashes
            assert str(endpoint.topic_type_hash) == TYPE_HASH
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_expected_hash_is_that_of_the_upstream_definition():
    assert get_typestore(Stores.ROS2_JAZZY).hash_rihs01("tf2_msgs/msg/TFMessage") == TYPE_HASH
