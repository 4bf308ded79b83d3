"""``--ros-args``: rclpy started with them, and what it cannot use explained in one line."""

import rclpy
import rclpy.utilities
from rclpy.exceptions import NameValidationException
from rclpy.signals import SignalHandlerOptions


def without_ros_arguments(arguments: list[str]) -> list[str]:
    """The arguments that are not ROS's.

    Raises:
        ValueError: those that are ROS's cannot be parsed; one line.
    """
    try:
        return rclpy.utilities.remove_ros_args(arguments)
    except RuntimeError as error:
        raise ValueError(_first_line(error)) from error


def start_rclpy(arguments: list[str] | None) -> None:
    """``rclpy.init`` without its signal handlers, which shut the context down under whatever runs just then.

    Raises:
        ValueError: the arguments cannot be parsed; one line.
    """
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:
        raise ValueError(_first_line(error)) from error


def explain_name(error: NameValidationException) -> str:
    """One line about a topic, node or namespace that ROS does not allow; rclpy's own draws an arrow below it."""
    return " ".join(str(error).split()).rstrip("^ ") + "; choose another name or remap"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
