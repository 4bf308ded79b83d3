"""Feeds the stand-in of tf2's buffer from topics."""

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile


class TransformListener:
    """Feeds a buffer from ``/tf`` and ``/tf_static``.

    Raises:
        ImportError: tf2_msgs is not installed, so no node here can receive transforms.
    """

    def __init__(self, buffer, node, *, spin_thread: bool = False, qos=None, static_qos=None):
        from tf2_msgs.msg import TFMessage

        if spin_thread:
            raise ValueError("this TransformListener needs an executor that spins the node; spin_thread is not offered")
        self.buffer, self.node, self.group = buffer, node, ReentrantCallbackGroup()
        qos = QoSProfile(depth=100) if qos is None else qos
        static_qos = static_qos or QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.tf_sub = node.create_subscription(TFMessage, "/tf", self.callback, qos, callback_group=self.group)
        self.tf_static_sub = node.create_subscription(
            TFMessage, "/tf_static", self.static_callback, static_qos, callback_group=self.group
        )

    def callback(self, data) -> None:
        """Take transforms of /tf."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, "default_authority")

    def static_callback(self, data) -> None:
        """Take transforms of /tf_static."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, "default_authority")

    def unregister(self) -> None:
        """Stop listening."""
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)
