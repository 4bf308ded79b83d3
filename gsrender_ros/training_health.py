"""The status ``training`` of a trainer's /diagnostics."""

from gsrender_ros.diagnostics import ERROR, OK
from gsrender_ros.health import resident_memory_mb
from gsrender_ros.live_frames import LiveFrames
from gsrender_ros.live_training import LiveTraining
from gsrender_ros.player_control import PlayerControl


class TrainingHealth:
    """Level, message and values of a training that goes on; ERROR where it failed.

    Args:
        training, player, frames: of the node.

    ``row``: the newest row of the log that has a loss.
    """

    def __init__(self, training: LiveTraining, player: PlayerControl, frames: LiveFrames):
        self._training, self._player, self._frames = training, player, frames
        self.row: dict = {}

    def __call__(self) -> tuple[bytes, str, dict]:
        training, buffer = self._training, self._training.buffer
        memory_mb = resident_memory_mb()
        values = {
            "state": training.state,
            "steps": training.steps,
            "frames_held": len(buffer),
            "frames_forgotten": buffer.forgotten,
            "frames_waiting": buffer.waiting,
            "buffer_mb": f"{buffer.used_bytes / 2**20:.0f}",
            "memory_mb": "" if memory_mb is None else f"{memory_mb:.0f}",
            "player_paused": self._player.held,
            "classes_from": self._frames.supervision,
            **{name: self.row[name] for name in ("step", "loss", "lr", "grad_norm") if name in self.row},
        }
        if training.state == "failed":
            return ERROR, training.failure, values
        return OK, f"{training.state}, {training.steps} steps", values
