"""What the node says about itself: /diagnostics, and a watchdog that explains silence.

Values of the status ``<node>: occupancy`` (all as text): frames_in, frames_out, frames_pending, rate_hz,
latency_p50_ms, latency_p95_ms, inference_p50_ms, inference_p95_ms, dropped.<reason>, best_spread_s,
images.<camera>, images_without_stamp.<camera>, device, checkpoint.
"""

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.statistics import FrameStatistics


class Diagnostics:
    """Publishes the state once a period and warns after ``watchdog_s`` without output.

    Args:
        node: the node that owns publisher and timer.
        settings: periods.
        statistics, sync, topics: what is reported.
        facts: further key-value pairs that do not change (device, checkpoint).
    """

    def __init__(self, node, settings, parts: tuple[FrameStatistics, CameraSync, CameraTopics], facts: dict[str, str]):
        self._node = node
        self._settings = settings
        self._statistics, self._sync, self._topics = parts
        self._facts = facts
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._started_at = time.monotonic()
        self._warned_at = self._started_at
        # Wall clock: a paused bag must not silence the watchdog.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(settings.diagnostics_period_s, self._tick, clock=steady)

    def publish(self) -> None:
        """Publish the state now."""
        message = DiagnosticArray(status=[self.status()])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _tick(self) -> None:
        self.publish()
        now = time.monotonic()
        silent_s = now - self._silent_since()
        if min(silent_s, now - self._warned_at) >= self._settings.watchdog_s:
            self._warned_at = now
            self._node.get_logger().warning(f"No output for {silent_s:.0f} s: {'; '.join(self.explanations())}")

    def _silent_since(self) -> float:
        return self._statistics.last_output_at or self._started_at

    def status(self) -> DiagnosticStatus:
        """The state as one DiagnosticStatus."""
        summary = self._statistics.summary()
        values = {
            "frames_in": summary.frames_in,
            "frames_out": summary.frames_out,
            "frames_pending": summary.pending,
            "rate_hz": f"{summary.rate_hz:.3f}",
        }
        for name in ("latency_p50_ms", "latency_p95_ms", "inference_p50_ms", "inference_p95_ms"):
            value = getattr(summary, name)
            values[name] = "" if value is None else f"{value:.2f}"
        values |= {f"dropped.{reason}": count for reason, count in sorted(summary.dropped.items())}
        best = self._sync.best_spread_s()
        values["best_spread_s"] = "" if best is None else f"{best[0]:.4f}"
        values |= {f"images.{camera}": count for camera, count in sorted(self._sync.images_received.items())}
        values |= {f"images_without_stamp.{c}": n for c, n in sorted(self._sync.images_without_stamp.items())}
        values |= self._facts
        silent_s = time.monotonic() - self._silent_since()
        status = DiagnosticStatus(name=f"{self._node.get_name()}: occupancy", hardware_id=self._facts.get("device", ""))
        if silent_s >= self._settings.watchdog_s:
            status.level, status.message = DiagnosticStatus.ERROR, "; ".join(self.explanations())
        else:
            status.level, status.message = DiagnosticStatus.OK, f"{summary.rate_hz:.1f} Hz"
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status

    def explanations(self) -> list[str]:
        """Why nothing comes out, as far as it can be known here, the most basic reason first."""
        silent: dict[str, list[str]] = {}  # topics by what is known of their publishers
        for index, camera in enumerate(self._topics.cameras):
            if not self._sync.images_received[camera.camera]:
                topic = self._topics.image_topic(index)
                silent.setdefault(self._publishers(topic), []).append(topic)
        if silent:
            return [f"no image on {', '.join(topics)} ({publishers})" for publishers, topics in silent.items()]
        reasons = []
        without_stamp = sum(self._sync.images_without_stamp.values())
        received = sum(self._sync.images_received.values())
        if without_stamp == received:
            return [f"all {received} images have stamp 0: set stamp_source:=auto to use their arrival time"]
        last = self._statistics.last_drop
        if last is not None:
            reasons.append(f"last frame dropped ({last[0]}): {last[1]}")
        best = self._sync.best_spread_s()
        if best is not None and best[0] >= self._settings.sync_slop_s:
            reasons.append(
                f"{len(self._topics.cameras)} cameras arrive, but never within sync.slop_s="
                f"{self._settings.sync_slop_s:g}: best spread {best[0]:.3f} s, last {best[1]}"
            )
        return reasons or ["no image arrives any more; is the source paused or at its end?"]

    def _publishers(self, topic: str) -> str:
        infos = self._node.get_publishers_info_by_topic(topic)
        wanted = self._topics.image_type_name
        others = sorted({info.topic_type for info in infos if info.topic_type != wanted})
        text = f"{len(infos)} publisher{'' if len(infos) == 1 else 's'} each"
        if others:
            return f"{text}, of type {', '.join(others)} instead of {wanted}: see image_transport"
        return f"{text}; check layout, topics.image, namespace and remaps" if not infos else f"{text}, nothing received"
