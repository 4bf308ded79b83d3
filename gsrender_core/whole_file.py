"""Files that are either whole or not there: what a reader, a crash or a full disk may meet."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill ``<stem>.partial`` beside ``path``, then put it in the place of ``path`` at once.

    Raises:
        OSError: it could not be written, as on a full disk; what was at ``path`` before is untouched.
    """
    path = Path(path)
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())  # a name must not survive a power cut that its content does not
        partial.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save and safetensors have errors of their own
        partial.unlink(missing_ok=True)
        kept = "; what was there before is untouched" if path.exists() else ""
        raise OSError(f"{path} cannot be written ({error}); {_room(path.parent)}{kept}") from error


def _room(folder: Path) -> str:
    try:
        return f"{folder} has {shutil.disk_usage(folder).free / 1e6:.0f} MB left"
    except OSError as error:
        return str(error)
