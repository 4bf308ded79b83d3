"""What happened to every frame: in = out + dropped (by reason) + pending. Shared by all parts of the node."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

# Every reason for which a frame (an image of the reference camera) can end without output.
DROP_REASONS = (
    "zero_stamp",  # its header carries no stamp
    "late",  # its stamp came before, or a newer frame was complete first
    "spread",  # no images of all other cameras within sync.slop_s
    "no_camera_info",  # intrinsics of a camera are not known yet
    "calibration",  # they are known, and do not fit: another image size, a distorted lens, no focal length
    "no_tf",  # a transform is missing
    "pose_jump",  # the vehicle's pose jumped while the cameras fired
    "superseded",  # a newer set came while the network was busy
    "reset",  # time jumped back
    "paused",  # the node was told to pause
    "decode",  # an image could not be decoded
    "error",  # anything else, logged with its text
)


# And what only frames to train on need.
TRAINING_REASONS = (
    "no_lidar",  # no sweep near enough in time
    "no_labels",  # classes are asked for, and what they come from is missing
    "between",  # less than bag.keyframe_interval_s, or less way, since the last frame that is trained on
    "behind",  # the training is behind, and no player can be paused; or the replay had already ended
    "unusable",  # no label in any image, or another rig than before
)


class FrameDropped(Exception):
    """A set of images that cannot become a frame: ``reason`` is one of the above, the text says what to do."""

    def __init__(self, reason: str, text: str):
        assert reason in DROP_REASONS + TRAINING_REASONS, reason
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Summary:
    """Counts since the start; latencies and rate over the last frames. Percentiles are None before any output.

    Overhead is what a frame's latency holds beside the network: waiting, transforms, decoding, messages.
    """

    frames_in: int
    frames_out: int
    dropped: dict[str, int]
    rate_hz: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    inference_p50_ms: float | None
    inference_p95_ms: float | None
    overhead_p50_ms: float | None
    overhead_p95_ms: float | None

    @property
    def pending(self) -> int:
        """Frames that are neither out nor dropped yet."""
        return self.frames_in - self.frames_out - sum(self.dropped.values())


class FrameStatistics:
    """Counters, safe to use from several threads. ``window`` frames enter rate and percentiles."""

    def __init__(self, window: int = 200):
        self._lock = threading.Lock()
        self._frames_in = 0
        self._frames_out = 0
        self._dropped: Counter = Counter()
        self._latencies_s: deque = deque(maxlen=window)
        self._inferences_s: deque = deque(maxlen=window)
        self._outputs_at: deque = deque(maxlen=window)
        self.last_output_at: float | None = None
        self.last_drop: tuple[str, str] | None = None

    def received(self) -> None:
        """Count a frame in."""
        with self._lock:
            self._frames_in += 1

    def dropped(self, reason: str, text: str = "", count: int = 1) -> None:
        """Count frames out of the way, with the reason and the last explanation."""
        assert reason in DROP_REASONS + TRAINING_REASONS, reason
        if count < 1:
            return
        with self._lock:
            self._dropped[reason] += count
            self.last_drop = (reason, text)

    def published(self, latency_s: float, inference_s: float) -> None:
        """Count a frame out; ``latency_s`` from the arrival of its last image to its publication."""
        with self._lock:
            self._frames_out += 1
            self._latencies_s.append(latency_s)
            self._inferences_s.append(inference_s)
            self.last_output_at = time.monotonic()
            self._outputs_at.append(self.last_output_at)

    def summary(self) -> Summary:
        """The state now."""
        with self._lock:
            at = list(self._outputs_at)
            rate_hz = (len(at) - 1) / (at[-1] - at[0]) if len(at) > 1 and at[-1] > at[0] else 0.0
            latency = _percentiles_ms(self._latencies_s)
            inference = _percentiles_ms(self._inferences_s)
            beside = [a - b for a, b in zip(self._latencies_s, self._inferences_s, strict=True)]
            percentiles = (*latency, *inference, *_percentiles_ms(beside))
            return Summary(self._frames_in, self._frames_out, dict(self._dropped), rate_hz, *percentiles)


def _percentiles_ms(durations_s) -> tuple[float | None, float | None]:
    if not durations_s:
        return None, None
    p50, p95 = np.percentile(np.array(durations_s), [50, 95]) * 1e3
    return float(p50), float(p95)
