"""The one door to the ROS packages that PyPI lacks: the genuine package where it imports, our stand-in elsewhere.

Everything else in ``gsrender_ros`` imports these names from here. ``GENUINE`` says which was taken.
Stand-ins keep the genuine calls, results and exceptions; the same contract tests run against both.
"""

import importlib.util

GENUINE: dict[str, bool] = {}

if importlib.util.find_spec("rclpy") is None:
    # Bags are read and trained on without ROS; nothing of that needs these.
    ApproximateTimeSynchronizer = SimpleFilter = Subscriber = Buffer = TransformListener = None
    ConnectivityException = ExtrapolationException = LookupException = TransformException = None
    GENUINE["message_filters"] = GENUINE["tf2_ros"] = False
else:
    try:
        from message_filters import ApproximateTimeSynchronizer, SimpleFilter, Subscriber

        GENUINE["message_filters"] = True
    except ImportError:
        from gsrender_ros.standins.message_filters import ApproximateTimeSynchronizer, SimpleFilter, Subscriber

        GENUINE["message_filters"] = False

    try:
        from tf2_ros import (
            Buffer,
            ConnectivityException,
            ExtrapolationException,
            LookupException,
            TransformException,
            TransformListener,
        )

        GENUINE["tf2_ros"] = True
    except ImportError:
        from gsrender_ros.standins.tf2 import (
            Buffer,
            ConnectivityException,
            ExtrapolationException,
            LookupException,
            TransformException,
            TransformListener,
        )

        GENUINE["tf2_ros"] = False

try:
    from cv_bridge import CvBridge, CvBridgeError

    GENUINE["cv_bridge"] = True
except (ImportError, AttributeError):  # AttributeError: a cv_bridge built for another major version of numpy
    from gsrender_ros.standins.cv_bridge import CvBridge, CvBridgeError

    GENUINE["cv_bridge"] = False

try:
    from tf_transformations import quaternion_from_matrix, quaternion_matrix, quaternion_slerp

    GENUINE["tf_transformations"] = True
except ImportError:
    from gsrender_ros.standins.tf_transformations import quaternion_from_matrix, quaternion_matrix, quaternion_slerp

    GENUINE["tf_transformations"] = False

try:
    from tf2_msgs.msg import TFMessage

    GENUINE["tf2_msgs"] = True
except ImportError:  # no stand-in can exist: without type support no middleware carries the type
    TFMessage = None

    GENUINE["tf2_msgs"] = False

__all__ = [
    "GENUINE",
    "ApproximateTimeSynchronizer",
    "Buffer",
    "ConnectivityException",
    "CvBridge",
    "CvBridgeError",
    "ExtrapolationException",
    "LookupException",
    "SimpleFilter",
    "Subscriber",
    "TFMessage",
    "TransformException",
    "TransformListener",
    "quaternion_from_matrix",
    "quaternion_matrix",
    "quaternion_slerp",
]
