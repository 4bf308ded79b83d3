"""What the node says about itself: /diagnostics, and a watchdog that explains silence.

Statuses, named as diagnostic_updater names them. First ``<node>: occupancy``, values (all as text): frames_in,
frames_out, frames_pending, paused, rate_hz, age_s (of the last output), p50 and p95 of latency, inference and overhead
(latency without inference; latency_p50_ms, ...), dropped.<reason>, best_spread_s, images.<camera>,
images_without_stamp.<camera>, and what is loaded (device, checkpoint, ...). Further ones are added by name; ``health``
makes those of the node.

Its level: OK; WARN while paused or where more than a tenth of the last frames were dropped for a reason that is no
choice of the node's; ERROR after ``watchdog_s`` without output; STALE where no image comes either: then there is
nothing to judge.
"""

import time
from collections import deque

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType

from gsrender_ros.camera_sync import CameraSync
from gsrender_ros.camera_topics import CameraTopics
from gsrender_ros.statistics import FrameStatistics, Summary

# Drops that are the node's way, or somebody's wish: no sign of anything wrong.
_HARMLESS = ("superseded", "reset", "paused", "between", "behind")
_RECENT_S = 10.0
_WARN_SHARE = 0.1
# Images have stopped when none came for this share of ``watchdog_s``. Not for all of it: the last image may be younger
# than the last output (nothing comes of an image whose partners never arrive), and its drop does not explain silence.
_STOPPED_SHARE = 0.5
OK, WARN, ERROR, STALE = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE


class Diagnostics:
    """Publishes the state once a period and warns after ``watchdog_s`` without output.

    Args:
        node: the node that owns publisher and timer.
        settings: periods.
        statistics, sync, topics: what is reported.
        facts: gives further key-value pairs (device, checkpoint, ...).

    ``paused`` is set while the node is told to pause, ``pause_text`` says what to do about it. ``tasks`` are further
    statuses by name: functions that return level, message and values.
    """

    def __init__(self, node, settings, parts: tuple[FrameStatistics, CameraSync, CameraTopics], facts):
        self._node = node
        self._settings = settings
        self._statistics, self._sync, self._topics = parts
        self._facts = facts
        self.paused = False
        self.tasks: dict = {}
        self._past: deque = deque([(time.monotonic(), 0, 0)])  # when, frames in, frames dropped in earnest
        self._images, self._image_at = 0, time.monotonic()
        service = node.resolve_service_name("~/pause")
        self.pause_text = f"paused; resume with `ros2 service call {service} std_srvs/srv/SetBool`"
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._started_at = time.monotonic()
        self._warned_at = self._started_at
        # Wall clock: a paused bag must not silence the watchdog.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(settings.diagnostics_period_s, self._tick, clock=steady)

    def publish(self) -> None:
        """Publish the state now."""
        message = DiagnosticArray(status=[self.status(), *(self._run(name) for name in self.tasks)])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _tick(self) -> None:
        self.publish()
        now = time.monotonic()
        silent_s = now - self._silent_since()
        if self.paused:
            self._warned_at = now  # silence was asked for; after it, the watchdog waits as long again
        if min(silent_s, now - self._warned_at) >= self._settings.watchdog_s:
            self._warned_at = now
            self._node.get_logger().warning(f"No output for {silent_s:.0f} s: {'; '.join(self.explanations())}")

    def _silent_since(self) -> float:
        return self._statistics.last_output_at or self._started_at

    def _images_stopped(self) -> bool:
        return time.monotonic() - self._image_at >= _STOPPED_SHARE * self._settings.watchdog_s

    def status(self) -> DiagnosticStatus:
        """The state as one DiagnosticStatus."""
        summary = self._statistics.summary()
        values = {
            "frames_in": summary.frames_in,
            "frames_out": summary.frames_out,
            "frames_pending": summary.pending,
            "paused": self.paused,
            "rate_hz": f"{summary.rate_hz:.3f}",
            "age_s": "",
        }
        if self._statistics.last_output_at is not None:
            values["age_s"] = f"{time.monotonic() - self._statistics.last_output_at:.2f}"
        for name in (f"{what}_{p}_ms" for what in ("latency", "inference", "overhead") for p in ("p50", "p95")):
            value = getattr(summary, name)
            values[name] = "" if value is None else f"{value:.2f}"
        values |= {f"dropped.{reason}": count for reason, count in sorted(summary.dropped.items())}
        best = self._sync.best_spread_s()
        values["best_spread_s"] = "" if best is None else f"{best[0]:.4f}"
        values |= {f"images.{camera}": count for camera, count in sorted(self._sync.images_received.items())}
        values |= {f"images_without_stamp.{c}": n for c, n in sorted(self._sync.images_without_stamp.items())}
        facts = self._facts()
        values |= facts
        status = DiagnosticStatus(name=f"{self._node.get_name()}: occupancy", hardware_id=facts.get("device", ""))
        status.level, status.message = self._judge(summary)
        status.values = _pairs(values)
        return status

    def _judge(self, summary: Summary) -> tuple[bytes, str]:
        now = time.monotonic()
        images = sum(self._sync.images_received.values())
        if images != self._images:
            self._images, self._image_at = images, now
        bad = sum(count for reason, count in summary.dropped.items() if reason not in _HARMLESS)
        self._past.append((now, summary.frames_in, bad))
        while len(self._past) > 2 and now - self._past[1][0] > _RECENT_S:
            self._past.popleft()
        _, frames_before, bad_before = self._past[0]
        frames, bad = summary.frames_in - frames_before, bad - bad_before
        if self.paused:
            return WARN, self.pause_text
        if now - self._silent_since() >= self._settings.watchdog_s:
            return STALE if self._images_stopped() else ERROR, "; ".join(self.explanations())
        if frames and bad > _WARN_SHARE * frames:
            last = self._statistics.last_drop
            return (
                WARN,
                f"{summary.rate_hz:.1f} Hz; {bad} of the last {frames} frames dropped, last {last[0]}: {last[1]}",
            )
        return OK, f"{summary.rate_hz:.1f} Hz" if summary.frames_out else "no output yet"

    def _run(self, name: str) -> DiagnosticStatus:
        status = DiagnosticStatus(name=f"{self._node.get_name()}: {name}")
        try:
            status.level, status.message, values = self.tasks[name]()
            status.values = _pairs(values)
        except Exception as error:  # a report must not end what it reports on
            status.level, status.message = ERROR, f"this status cannot be made: {type(error).__name__}: {error}"
        return status

    def explanations(self) -> list[str]:
        """Why nothing comes out, as far as it can be known here, the most basic reason first."""
        silent: dict[str, list[str]] = {}  # topics by what is known of their publishers
        for index, camera in enumerate(self._topics.cameras):
            if not self._sync.images_received[camera.camera]:
                topic = self._topics.image_topic(index)
                silent.setdefault(self._publishers(topic, self._topics.image_type_name(index)), []).append(topic)
        if silent:
            return [f"no image on {', '.join(topics)} ({publishers})" for publishers, topics in silent.items()]
        if self._images_stopped():  # why the last frame was dropped would mislead
            stopped_s = time.monotonic() - self._image_at
            return [f"no image has arrived for {stopped_s:.0f} s; is the source paused or at its end?"]
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
        return reasons or ["images arrive, and the first of them is still on its way"]

    def _publishers(self, topic: str, wanted: str) -> str:
        infos = self._node.get_publishers_info_by_topic(topic)
        others = sorted({info.topic_type for info in infos if info.topic_type != wanted})
        text = f"{len(infos)} publisher{'' if len(infos) == 1 else 's'} each"
        if others:
            return f"{text}, of type {', '.join(others)} instead of {wanted}: see image_transport"
        return f"{text}; check layout, topics.image, namespace and remaps" if not infos else f"{text}, nothing received"


def _pairs(values: dict) -> list[KeyValue]:
    return [KeyValue(key=key, value=str(value)) for key, value in values.items()]
