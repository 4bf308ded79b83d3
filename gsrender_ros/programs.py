"""Child processes with a log each, watched while they run and ended in order."""

import os
import signal
import subprocess
import sys
from pathlib import Path

STOP_TIMEOUT_S = 30.0


class ProgramError(RuntimeError):
    """A program ended when it should not have; the text is one line and names its log."""


class Program:
    """One running ``python -m <module>``.

    Args:
        name: of the program, and of its log.
        arguments: module and its arguments.
        logs: folder of the log.
        environment: added to this process's.
    """

    def __init__(self, name: str, arguments: list[str], logs: Path, environment: dict[str, str]):
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # Ctrl-C reaches this process only, which ends its children in order.
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            )

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def check(self) -> None:
        """Raises ``ProgramError`` where the program has ended."""
        if self.ended:
            raise self.error(f"ended early with code {self._process.returncode}")

    def error(self, what: str) -> ProgramError:
        """An error about this program, with the last line that it wrote."""
        return ProgramError(f"{self.name} {what}: {self.last_line()} (log: {self.log})")

    def check_success(self) -> None:
        """Raises ``ProgramError`` where the program has ended with another code than 0."""
        if self.ended and self._process.returncode != 0:
            raise self.error(f"failed with code {self._process.returncode}")

    def last_line(self) -> str:
        """The last line of the log that is not empty."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it wrote nothing"

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Ask the program to end (SIGTERM), insist after ``timeout_s`` (SIGKILL); returns its exit code."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()
