"""What must be set before ``rclpy.init``: the middleware's shared-memory profile and a folder for logs.

Every entry point calls ``prepare_environment``; it changes only what the user left unset.
"""

import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

PACKAGE = "gsrender_ros"
# Six 1600x900 images are 26 MB; Fast DDS's default shared-memory segment holds half a megabyte.
PROFILE = "config/fastdds.xml"
# The profile's segment is 64 MB a process; below this much room some process would fail to get its own.
SHARED_MEMORY_NEEDED_BYTES = 512 * 1024 * 1024


def share_file(name: str) -> Path:
    """Path of a file of the package's share folder (config, launch, rviz), installed or in the source tree.

    Raises:
        FileNotFoundError: it is in none of the places; they are listed.
    """
    places = [Path(__file__).resolve().parents[1]]
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if prefix]
    places += [Path(prefix) / "share" / PACKAGE for prefix in (*prefixes, sys.prefix)]
    for place in places:
        if (place / name).is_file():
            return place / name
    raise FileNotFoundError(f"{name} of {PACKAGE} is in none of: {', '.join(str(place) for place in places)}")


def prepare_environment() -> None:
    """Set FASTDDS_DEFAULT_PROFILES_FILE and ROS_LOG_DIR where they are unset."""
    if "ROS_LOG_DIR" not in os.environ and "ROS_HOME" not in os.environ and not os.environ.get("HOME"):
        os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="ros_log_")  # rclpy.init fails without either
    names = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
    if any(name in os.environ for name in names) or not sys.platform.startswith("linux"):
        return
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_dir() or shutil.disk_usage(shared_memory).free < SHARED_MEMORY_NEEDED_BYTES:
        logger.warning("/dev/shm has less than 512 MB free: large images may be lost between processes")
        return
    try:
        profile = share_file(PROFILE)
    except FileNotFoundError as error:
        logger.warning("default Fast DDS transport, large images may be lost: %s", error)
        return
    # Fast DDS 2.6 knows only the older name, current versions warn about it.
    os.environ[names[os.environ.get("ROS_DISTRO") == "humble"]] = str(profile)
