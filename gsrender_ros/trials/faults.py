"""What can go wrong on a vehicle, one entry a fault: how it is brought about and how it ends."""

import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from gsrender_ros.bench_inputs import street_like_jpeg
from gsrender_ros.trials.synthetic_rig import camera_info, serialised
from gsrender_ros.trials.trial import Trial

CAMERA = "cam_back"  # one that is not the reference
MEMORY_HEADROOM_BYTES = 8 * 2**20  # left to the node when memory runs out: less than any prediction needs
MANY = 40
SLOW_S = 2.0


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: short.
        done: what is done, for the table.
        begin, end: bring it about, and end it; ``end`` None where it is over at once (a jump).
        same_output: whether right output is what it was before: False where the images themselves differ.
    """

    name: str
    done: str
    begin: Callable[[Trial], None]
    end: Callable[[Trial], None] | None = None
    same_output: bool = True


def _silence(*cameras: str) -> Callable[[Trial], None]:
    return lambda trial: setattr(trial.rig, "silent", set(cameras))


def _poses(on: bool) -> Callable[[Trial], None]:
    return lambda trial: setattr(trial.rig, "poses", on)


def _jump_sideways(trial: Trial) -> None:
    trial.rig.pose_offset_m += 50.0


def _pause(trial: Trial) -> None:
    trial.rig.pause()


def _resume(trial: Trial) -> None:
    trial.rig.resume()


def _send(make: Callable[[bytes], tuple[bytes, str]]) -> Callable[[Trial], None]:
    """Replace what CAMERA sends by what ``make`` makes of its jpeg: bytes and format."""

    def begin(trial: Trial) -> None:
        data, kind = make(bytes(street_like_jpeg(trial.rig.options.cameras.index(CAMERA), trial.rig.options.size).data))
        trial.rig.images[CAMERA] = serialised(CAMERA, data, kind)

    return begin


def _png(jpeg: bytes) -> tuple[bytes, str]:
    bgr = simplejpeg.decode_jpeg(jpeg, colorspace="BGR")
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes(), "bgr8; png compressed bgr8"


def _half_size(jpeg: bytes) -> tuple[bytes, str]:
    rgb = simplejpeg.decode_jpeg(jpeg, colorspace="RGB")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb[::2, ::2]), 80), "jpeg"


def _first_half(jpeg: bytes) -> tuple[bytes, str]:
    return jpeg[: len(jpeg) // 2], "jpeg"


def _half_size_with_info(trial: Trial) -> None:
    _send(_half_size)(trial)
    trial.rig.infos[CAMERA] = camera_info(CAMERA, tuple(side // 2 for side in trial.rig.options.size))


def _well(trial: Trial) -> None:
    """The camera sends again what it sent at first."""
    _send(lambda jpeg: (jpeg, "jpeg"))(trial)
    trial.rig.infos[CAMERA] = camera_info(CAMERA, trial.rig.options.size)


def _not_calibrated(trial: Trial) -> None:
    info = trial.rig.infos[CAMERA] = camera_info(CAMERA, trial.rig.options.size)
    info.k[0] = info.p[0] = float("nan")


def _best_effort(trial: Trial) -> None:
    trial.rig.offer(CAMERA, reliability=ReliabilityPolicy.BEST_EFFORT)


def _wrong_type(trial: Trial) -> None:
    trial.rig.offer(CAMERA, kind=Image)


def _offer_again(trial: Trial) -> None:
    trial.rig.offer(CAMERA)


def _take_memory(trial: Trial) -> None:
    used = _mapped_bytes(trial.occupancy_node.pid)
    limits = (used + MEMORY_HEADROOM_BYTES, resource.RLIM_INFINITY)
    resource.prlimit(trial.occupancy_node.pid, resource.RLIMIT_AS, limits)


def _give_memory(trial: Trial) -> None:
    resource.prlimit(trial.occupancy_node.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _mapped_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _signal_node(number: int) -> Callable[[Trial], None]:
    return lambda trial: os.kill(trial.occupancy_node.pid, number)


def _reload_garbage(trial: Trial) -> None:
    good = trial.checkpoint.read_bytes()
    trial.checkpoint.write_bytes(b"\x10" * 1000)
    client = trial.node.create_client(Trigger, "/occupancy_node/reload")
    client.wait_for_service(10.0)
    answer = client.call_async(Trigger.Request())
    trial.spin(answer.done)
    trial.checkpoint.write_bytes(good)
    trial.node.destroy_client(client)


def _subscribers(count: int, sleep_s: float) -> Callable[[Trial], None]:
    name = f"subscribers_{count}"
    return lambda trial: trial.start(name, ["gsrender_ros.trials.subscribers", str(count), str(sleep_s)]) and None


def _end_subscribers(trial: Trial) -> None:
    trial.programs.pop().stop()


def _freeze_subscribers(trial: Trial) -> None:
    _subscribers(1, 0.0)(trial)
    trial.wait_for_output(2)
    os.kill(trial.programs[-1].pid, signal.SIGSTOP)


def _thaw_subscribers(trial: Trial) -> None:
    os.kill(trial.programs[-1].pid, signal.SIGCONT)
    _end_subscribers(trial)


def _flood(trial: Trial) -> None:
    trial.rig.set_rate(5 * trial.rig.options.rate_hz)


def _end_flood(trial: Trial) -> None:
    trial.rig.set_rate(trial.rig.options.rate_hz / 5)


def _kill(trial: Trial) -> None:
    os.kill(trial.occupancy_node.pid, signal.SIGKILL)


def _start_again(trial: Trial) -> None:
    trial.start_node("occupancy_node_again")


FAULTS = (
    Fault("camera stops, returns", f"{CAMERA} publishes nothing", _silence(CAMERA), _silence()),
    Fault("reference camera stops", "cam_front publishes nothing", _silence("cam_front"), _silence()),
    Fault("everything pauses", "no image, no TF, /clock stands still", _pause, _resume),
    Fault("TF stops", "no /tf; images go on", _poses(False), _poses(True)),
    Fault("TF jumps", "the vehicle moves 50 m sideways between two poses", _jump_sideways),
    Fault("clock jumps back", "time of /clock, images and TF back by 30 s", lambda trial: trial.rig.jump(-30.0)),
    Fault("clock jumps ahead", "the same forward by 300 s", lambda trial: trial.rig.jump(300.0)),
    Fault("size changes", f"{CAMERA} at half size, CameraInfo as before", _send(_half_size), _well),
    Fault("size and CameraInfo change", "both at half size", _half_size_with_info, _well, False),
    Fault("encoding changes", f"{CAMERA} sends png instead of jpeg", _send(_png), _well, False),
    Fault("garbage jpeg", f"{CAMERA} sends the first half of its jpegs", _send(_first_half), _well),
    Fault("no jpeg at all", f"{CAMERA} sends 1000 zero bytes", _send(lambda _: (bytes(1000), "jpeg")), _well),
    Fault("NaN intrinsics", f"fx of {CAMERA}'s CameraInfo is NaN", _not_calibrated, _well),
    Fault("memory runs out", "address space of the node limited to 8 MB more than it has", _take_memory, _give_memory),
    Fault(
        "network fails", "every prediction raises, as with a lost CUDA context",
        _signal_node(signal.SIGUSR1), _signal_node(signal.SIGUSR2),
    ),
    Fault("broken checkpoint", "checkpoint overwritten with garbage, ~/reload called", _reload_garbage),
    Fault("best-effort publisher", f"{CAMERA} offers BEST_EFFORT", _best_effort, _offer_again),
    Fault("wrong type", f"{CAMERA}'s topic published as Image", _wrong_type, _offer_again),
    Fault("input flood", "cameras at five times their rate", _flood, _end_flood),
    Fault("subscriber flood", f"{MANY} more subscribers of every output", _subscribers(MANY, 0.0), _end_subscribers),
    Fault("slow subscriber", f"one that sleeps {SLOW_S:g} s a message", _subscribers(1, SLOW_S), _end_subscribers),
    Fault("frozen subscriber", "one whose process is stopped (SIGSTOP)", _freeze_subscribers, _thaw_subscribers),
    Fault("node killed, restarted", "SIGKILL; started again while the source plays", _kill, _start_again),
)  # fmt: skip


def named(names: list[str]) -> tuple[Fault, ...]:
    """Faults by name, in the order of FAULTS; all where no name is given.

    Raises:
        ValueError: there is no fault of that name.
    """
    known = [fault.name for fault in FAULTS]
    for name in names:
        if name not in known:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(known)}")
    return tuple(fault for fault in FAULTS if not names or fault.name in names)
