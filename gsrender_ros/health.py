"""The further statuses of /diagnostics: cameras, transforms, network, outputs, self-check: level, message, values."""

import os
import time
from collections import deque

from rclpy.time import Time

from gsrender_ros.diagnostics import ERROR, OK, STALE, WARN
from gsrender_ros.image_conversions import stamp_to_ns
from gsrender_ros.standins import TransformException

_RATE_OVER_S = 5.0
_SLOWEST_SHARE = 0.5  # a camera slower than this share of the fastest one holds all sets of images back


class CameraHealth:
    """Rates of the cameras over the last seconds; WARN names those that are silent or slow.

    Args:
        sync: counts the images.
    """

    def __init__(self, sync):
        self._sync = sync
        self._past: deque = deque()

    def __call__(self) -> tuple[bytes, str, dict]:
        now, counts = time.monotonic(), dict(self._sync.images_received)
        self._past.append((now, counts))
        while len(self._past) > 2 and now - self._past[1][0] > _RATE_OVER_S:
            self._past.popleft()
        before, counts_before = self._past[0]
        span_s = now - before
        names = [camera.camera for camera in self._sync.cameras]
        rates = {
            name: (counts.get(name, 0) - counts_before.get(name, 0)) / span_s if span_s > 0 else 0.0 for name in names
        }
        values = {f"rate_hz.{name}": f"{rate:.2f}" for name, rate in rates.items()}
        fastest = max(rates.values())
        if not fastest:
            return STALE, "no images", values
        values["missing"] = ", ".join(self._sync.missing)
        if self._sync.missing:
            what = "going on without" if len(self._sync.active_cameras) < len(names) else "waiting for"
            return WARN, f"{what} {values['missing']}", values
        slow = [f"{name} {rate:.1f} Hz" for name, rate in rates.items() if rate < _SLOWEST_SHARE * fastest]
        if slow:
            return WARN, f"{', '.join(slow)} of {fastest:.1f} Hz: sets are as rare as their rarest image", values
        return OK, f"{len(names)} cameras at {min(rates.values()):.1f} Hz or more", values


class TransformHealth:
    """Age of the newest ego pose; WARN where it is older than the images may wait for it.

    Args:
        poses: ``PoseSource``.
        clock: the node's, in whose time the stamps are.
        cache_s: how long poses are kept.
    """

    def __init__(self, poses, clock, cache_s: float):
        self._poses, self._clock, self._cache_s = poses, clock, cache_s

    def __call__(self) -> tuple[bytes, str, dict]:
        fixed, ego = self._poses.lookup.fixed_frame, self._poses.lookup.ego_frame
        values = {"fixed_frame": fixed, "ego_frame": ego, "source": self._poses.source}
        if self._poses.source == "odometry":
            values |= {"odometry_refused": self._poses.odometry.refused, "odometry_jumps": self._poses.odometry.jumps}
        try:
            newest = self._poses.buffer.lookup_transform(fixed, ego, Time())
        except TransformException as error:
            return ERROR, f"no transform {fixed} <- {ego}: {str(error).strip()}", values | {"age_s": ""}
        stamp_ns = stamp_to_ns(newest.header.stamp)
        if not stamp_ns:  # static: the vehicle never moves
            return OK, f"{fixed} <- {ego} is static", values | {"age_s": ""}
        age_s = (self._clock.now().nanoseconds - stamp_ns) / 1e9
        values["age_s"] = f"{age_s:.3f}"
        if abs(age_s) > self._cache_s:
            return WARN, f"newest pose is {age_s:.1f} s old; is its source stopped, or use_sim_time wrong?", values
        return OK, f"newest pose is {age_s:.2f} s old", values


def network_health(host, statistics):
    """Status of the network: what is loaded, how fast it is, how much memory there is; ERROR while it fails.

    Args:
        host: ``PredictorHost``.
        statistics: ``FrameStatistics``.
    """

    def status() -> tuple[bytes, str, dict]:
        values = dict(host.facts())
        summary = statistics.summary()
        for name in ("inference_p50_ms", "inference_p95_ms"):
            value = getattr(summary, name)
            values[name] = "" if value is None else f"{value:.2f}"
        memory_mb = resident_memory_mb()
        values["memory_mb"] = "" if memory_mb is None else f"{memory_mb:.0f}"
        gpu_mb = host.gpu_memory_mb()
        if gpu_mb is not None:
            values["gpu_memory_mb"] = f"{gpu_mb:.0f}"
        values["failures_in_a_row"] = host.failures
        if host.failures:
            return ERROR, f"failed on the last {host.failures} frames; see the log", values
        return OK, f"{host.path} on {values['device']}", values

    return status


def output_health(outputs):
    """Status of the outputs: messages published and failed by topic; WARN where one failed.

    Args:
        outputs: ``OccupancyOutputs``.
    """

    def status() -> tuple[bytes, str, dict]:
        values = {f"published.{topic}": count for topic, count in sorted(outputs.published.items())}
        values |= {f"failed.{topic}": count for topic, count in sorted(outputs.failures.items())}
        if outputs.failures:
            return WARN, f"could not be published: {', '.join(sorted(outputs.failures))}; see the log", values
        return OK, f"{len(outputs.published)} topics have been listened to", values

    return status


def self_check_health(check):
    """Status of the self-check: its figures; WARN while there are none though grids were compared or skipped.

    Args:
        check: ``SelfCheck``.
    """

    def status() -> tuple[bytes, str, dict]:
        values = check.summary()
        if not check.clouds_received:
            return WARN, f"no cloud on {check.topic}; see self_check.lidar_topic", values
        if not int(values["rays"]):
            skipped = ", ".join(f"{reason} {count}" for reason, count in sorted(check.skipped.items()))
            return STALE if not skipped else WARN, f"no grid compared yet; skipped: {skipped or 'none'}", values
        return (
            OK,
            f"{float(values['within_2m']):.0%} of {values['rays']} LiDAR rays end within 2 m of their return",
            values,
        )

    return status


def resident_memory_mb() -> float | None:
    """Memory of this process in RAM, MB; None where /proc does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        return None
