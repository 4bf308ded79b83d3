"""Where things are kept that can be made again: the user's cache folder (XDG)."""

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/gsrender``, ``~/.cache/gsrender``, or a folder of this user's among the temporary files."""
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "gsrender"
    try:
        return Path.home() / ".cache" / "gsrender"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / f"gsrender-{os.getuid()}"
