"""The same contract for genuine packages and their stand-ins; the genuine one is skipped where it is not installed."""

import array
import importlib

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.time import Time
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from gsrender_core.geometry import quaternion_from_rotation, rotation_from_quaternion, transform
from gsrender_ros.standins import tf2 as tf2_standin


def _implementations(genuine: str, standin: str):
    return [pytest.param(name, id=name) for name in (genuine, f"gsrender_ros.standins.{standin}")]


@pytest.fixture
def module(request):
    try:
        return importlib.import_module(request.param)
    except ImportError:
        pytest.skip(f"{request.param} is not installed")


# ---- message_filters


def _stamped(stamp_ns: int) -> Image:
    return Image(header=Header(stamp=TimeMessage(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)))


def _stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


MS = 1_000_000
BASE = 1_532_402_927_612_460_123


def _synchronise(module, arrivals: list[tuple[int, int]], inputs: int, slop: float, queue_size: int = 10):
    """Feed (input, stamp offset ms) in order; the sets that come out, as offsets in ms."""
    filters = [module.SimpleFilter() for _ in range(inputs)]
    synchroniser = module.ApproximateTimeSynchronizer(filters, queue_size=queue_size, slop=slop)
    sets = []
    synchroniser.registerCallback(lambda *messages: sets.append([(_stamp_ns(m) - BASE) // MS for m in messages]))
    for index, offset_ms in arrivals:
        filters[index].signalMessage(_stamped(BASE + offset_ms * MS))
    return sets


message_filters = pytest.mark.parametrize(
    "module", _implementations("message_filters", "message_filters"), indirect=True
)


@message_filters
def test_sets_are_matched_across_arrival_order(module):
    arrivals = [(1, 40), (0, 0), (2, 20), (2, 120), (0, 100), (1, 140)]
    assert _synchronise(module, arrivals, 3, 0.06) == [[0, 40, 20], [100, 140, 120]]


@message_filters
def test_slop_bounds_the_spread_of_a_set_exclusively(module):
    assert _synchronise(module, [(0, 0), (1, 60)], 2, 0.06) == []
    assert _synchronise(module, [(0, 0), (1, 59)], 2, 0.06) == [[0, 59]]
    # pairwise near the newest, yet too far apart as a set
    assert _synchronise(module, [(0, 0), (2, 80), (1, 40)], 3, 0.06) == []


@message_filters
def test_a_message_is_used_once_and_full_queues_drop_their_smallest_stamp(module):
    assert _synchronise(module, [(0, 0), (1, 0), (1, 5)], 2, 0.06) == [[0, 0]]
    arrivals = [(0, t) for t in (0, 100, 200, 300)] + [(1, 0), (1, 300)]
    assert _synchronise(module, arrivals, 2, 0.06, queue_size=2) == [[300, 300]]


@message_filters
def test_the_nearest_candidate_is_taken(module):
    assert _synchronise(module, [(0, 0), (0, 50), (1, 45)], 2, 0.06) == [[50, 45]]


@message_filters
def test_random_streams_give_sets_within_the_slop(module):
    rng = np.random.default_rng(4)
    arrivals = []
    for frame in range(30):
        for camera in range(4):
            if rng.random() > 0.1:
                arrivals.append((camera, frame * 83 + camera * 12 + int(rng.integers(-3, 4))))
    sets = _synchronise(module, arrivals, 4, 0.06)
    assert 10 < len(sets) <= 30
    for one in sets:
        assert max(one) - min(one) < 60
        assert len({round((t - c * 12) / 83) for c, t in enumerate(one)}) == 1  # never two frames mixed


# ---- tf2

tf2 = pytest.mark.parametrize("module", _implementations("tf2_ros", "tf2"), indirect=True)


def _transform(parent: str, child: str, stamp_s: float, T: np.ndarray) -> TransformStamped:
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    stamp_ns = round(stamp_s * 1e9)
    message.header.stamp = TimeMessage(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = (float(v) for v in T[:3, 3])
    q.w, q.x, q.y, q.z = (float(v) for v in quaternion_from_rotation(T[:3, :3]))
    return message


def _matrix(message: TransformStamped) -> np.ndarray:
    t, q = message.transform.translation, message.transform.rotation
    return transform((q.w, q.x, q.y, q.z), (t.x, t.y, t.z))


def _yaw(angle: float, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    return transform((np.cos(angle / 2), 0, 0, np.sin(angle / 2)), (x, y, z))


def _at(seconds: float) -> Time:
    return Time(nanoseconds=round(seconds * 1e9))


def _buffer(module):
    """map -> base_link turns by 90 deg and moves 4 m in x from 100 s to 102 s; a camera is mounted 1 m ahead."""
    buffer = module.Buffer(cache_time=Duration(seconds=10.0))
    buffer.set_transform(_transform("map", "base_link", 100.0, _yaw(0.0, 10.0)), "test")
    buffer.set_transform(_transform("map", "base_link", 102.0, _yaw(np.pi / 2, 14.0)), "test")
    buffer.set_transform_static(_transform("base_link", "cam", 0.0, _yaw(0.0, 1.0)), "test")
    return buffer


@tf2
def test_interpolation_is_linear_in_translation_and_slerp_in_rotation(module):
    buffer = _buffer(module)
    quarter = buffer.lookup_transform("map", "base_link", _at(100.5))
    np.testing.assert_allclose(_matrix(quarter), _yaw(np.pi / 8, 11.0), atol=1e-9)
    assert (quarter.header.frame_id, quarter.child_frame_id) == ("map", "base_link")
    through_mounting = buffer.lookup_transform("map", "cam", _at(101.0))
    c = np.cos(np.pi / 4)
    np.testing.assert_allclose(_matrix(through_mounting), _yaw(np.pi / 4, 12.0 + c, c), atol=1e-9)
    inverse = buffer.lookup_transform("cam", "map", _at(101.0))
    np.testing.assert_allclose(_matrix(inverse) @ _matrix(through_mounting), np.eye(4), atol=1e-9)


@tf2
def test_full_look_up_accounts_for_the_motion_between_two_stamps(module):
    buffer = _buffer(module)
    found = buffer.lookup_transform_full("base_link", _at(102.0), "cam", _at(100.0), "map")
    # cam at 100 s stands at map (11, 0); the ego at 102 s at (14, 0) looking along +y.
    expected = np.linalg.inv(_yaw(np.pi / 2, 14.0)) @ _yaw(0.0, 11.0)
    np.testing.assert_allclose(_matrix(found), expected, atol=1e-9)
    np.testing.assert_allclose(_matrix(found)[:3, 3], [0.0, 3.0, 0.0], atol=1e-9)


@tf2
def test_a_single_static_or_stored_stamp_needs_no_interpolation(module):
    buffer = _buffer(module)
    np.testing.assert_allclose(_matrix(buffer.lookup_transform("base_link", "cam", _at(5.0))), _yaw(0.0, 1.0))
    at_the_end = buffer.lookup_transform("map", "base_link", _at(102.0))
    np.testing.assert_allclose(_matrix(at_the_end), _yaw(np.pi / 2, 14.0), atol=1e-9)
    latest = buffer.lookup_transform("map", "cam", Time())
    assert latest.header.stamp.sec == 102


@tf2
def test_failures_have_tf2s_exceptions_and_name_what_is_wrong(module):
    buffer = _buffer(module)
    with pytest.raises(module.ExtrapolationException, match=r"into the future.*102\.5.*102\.0.*\[cam\].*\[map\]"):
        buffer.lookup_transform("map", "cam", _at(102.5))
    with pytest.raises(module.ExtrapolationException, match=r"into the past.*99\.0.*100\.0"):
        buffer.lookup_transform("map", "cam", _at(99.0))
    with pytest.raises(module.LookupException, match='"cam_front".*does not exist'):
        buffer.lookup_transform("map", "cam_front", _at(101.0))
    buffer.set_transform(_transform("elsewhere", "lonely", 101.0, np.eye(4)), "test")
    with pytest.raises(module.ConnectivityException, match="not part of the same tree"):
        buffer.lookup_transform("map", "lonely", _at(101.0))
    with pytest.raises(module.ExtrapolationException, match="only time 101"):
        buffer.lookup_transform("elsewhere", "lonely", _at(101.5))
    assert issubclass(module.ExtrapolationException, module.TransformException)
    assert not buffer.can_transform("map", "cam", _at(99.0))
    assert buffer.can_transform("map", "cam", _at(101.0))


@tf2
def test_history_is_bounded_and_cleared_but_static_transforms_stay(module):
    buffer = _buffer(module)
    # Twice: some releases of tf2 prune by the newest stamp before the one that comes in.
    buffer.set_transform(_transform("map", "base_link", 111.4, _yaw(0.0, 20.0)), "test")
    buffer.set_transform(_transform("map", "base_link", 111.5, _yaw(0.0, 20.0)), "test")
    assert not buffer.can_transform("map", "base_link", _at(100.5))  # 11 s old, the cache holds 10
    buffer.set_transform(_transform("map", "base_link", 100.0, _yaw(0.0, 99.0)), "test")  # refused: too old
    assert not buffer.can_transform("map", "base_link", _at(100.0))
    buffer.clear()
    assert not buffer.can_transform("map", "base_link", _at(111.5))
    assert buffer.can_transform("base_link", "cam", _at(111.5))
    assert "cam" in buffer.all_frames_as_yaml()


@tf2
def test_unusable_transforms_are_ignored(module):
    buffer = _buffer(module)
    for child, w in (("not_finite", float("nan")), ("zero", 0.0)):
        broken = _transform("base_link", child, 101.0, np.eye(4))
        broken.transform.rotation.w = w
        buffer.set_transform(broken, "test")
        assert not buffer.can_transform("base_link", child, _at(101.0))


@tf2
def test_quaternions_are_normalised(module):
    buffer = _buffer(module)
    long = _transform("base_link", "long", 101.0, _yaw(0.8, 3.0))
    for name in "xyzw":
        setattr(long.transform.rotation, name, 2.0 * getattr(long.transform.rotation, name))
    buffer.set_transform(long, "test")
    np.testing.assert_allclose(_matrix(buffer.lookup_transform("base_link", "long", _at(101.0))), _yaw(0.8, 3.0))


def test_unusable_transforms_are_reported_once_a_period_and_frame(monkeypatch):
    lines, now = [], [100.0]
    logger = type("Logger", (), {"error": lambda self, line: lines.append(line)})
    monkeypatch.setattr(tf2_standin, "get_logger", lambda name: logger())
    monkeypatch.setattr(tf2_standin.wall_time, "monotonic", lambda: now[0])
    buffer = tf2_standin.Buffer()

    def send(child: str) -> int:
        broken = _transform("base_link", child, 101.0, np.eye(4))
        broken.transform.translation.x = float("nan")
        before = len(lines)
        buffer.set_transform(broken, "test")
        return len(lines) - before

    assert [send("a"), send("a"), send("b"), send("a")] == [1, 0, 1, 0]
    assert "'a' from test: the transform holds a value that is not finite" in lines[0]
    now[0] += tf2_standin.COMPLAINT_PERIOD_S
    assert [send("a"), send("a")] == [1, 0]


@tf2
def test_random_trees_agree_with_products_of_matrices(module):
    rng = np.random.default_rng(7)
    buffer = module.Buffer(cache_time=Duration(seconds=10.0))
    T_world = {"f0": np.eye(4)}
    for index in range(1, 9):
        parent = f"f{rng.integers(0, index)}"
        T = transform(rng.normal(size=4), rng.normal(size=3) * 5)
        buffer.set_transform(_transform(parent, f"f{index}", 50.0, T), "test")
        T_world[f"f{index}"] = T_world[parent] @ T
    for target in T_world:
        for source in T_world:
            found = _matrix(buffer.lookup_transform(target, source, _at(50.0)))
            np.testing.assert_allclose(found, np.linalg.inv(T_world[target]) @ T_world[source], atol=1e-7)


# ---- tf_transformations

transformations = pytest.mark.parametrize(
    "module", _implementations("tf_transformations", "tf_transformations"), indirect=True
)


@transformations
def test_quaternions_are_xyzw(module):
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        module.quaternion_matrix([0, 0, half, half])[:3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-12
    )
    rng = np.random.default_rng(1)
    for _ in range(20):
        q = rng.normal(size=4)
        q /= np.linalg.norm(q)
        R = rotation_from_quaternion((q[3], *q[:3]))
        matrix = module.quaternion_matrix(q)
        np.testing.assert_allclose(matrix[:3, :3], R, atol=1e-9)
        np.testing.assert_allclose(matrix[3], [0, 0, 0, 1])
        back = np.asarray(module.quaternion_from_matrix(matrix))
        np.testing.assert_allclose(back * np.sign(back @ q), q, atol=1e-7)


@transformations
def test_slerp_takes_the_shorter_arc_at_constant_speed(module):
    angle = 1.2
    q0 = np.array([0, 0, 0, 1.0])
    q1 = np.array([0, 0, np.sin(angle / 2), np.cos(angle / 2)])
    for fraction in (0.0, 0.25, 1.0):
        expected = [0, 0, np.sin(fraction * angle / 2), np.cos(fraction * angle / 2)]
        np.testing.assert_allclose(module.quaternion_slerp(q0, q1, fraction), expected, atol=1e-9)
        turned = module.quaternion_slerp(q0, -q1, fraction)
        np.testing.assert_allclose(np.asarray(turned) * np.sign(turned[3]), expected, atol=1e-9)
    np.testing.assert_allclose(module.quaternion_slerp(q0, q0, 0.5), q0, atol=1e-9)


# ---- cv_bridge

bridge = pytest.mark.parametrize("module", _implementations("cv_bridge", "cv_bridge"), indirect=True)


def _image(array_: np.ndarray, encoding: str, step: int | None = None) -> Image:
    height, width = array_.shape[:2]
    rows = np.ascontiguousarray(array_).view(np.uint8).reshape(height, -1)
    step = step or rows.shape[1]
    padded = np.zeros((height, step), np.uint8)
    padded[:, : rows.shape[1]] = rows
    message = Image(height=height, width=width, encoding=encoding, step=step)
    message.data = array.array("B", padded.tobytes())
    return message


@bridge
@pytest.mark.parametrize("padding", [0, 12])  # a multiple of every pixel's size: genuine cv_bridge takes no other
def test_colour_encodings_become_rgb(module, padding):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    convert = module.CvBridge().imgmsg_to_cv2
    assert np.array_equal(convert(_image(rgb, "rgb8", 24 + padding), "rgb8"), rgb)
    assert np.array_equal(convert(_image(rgb[..., ::-1], "bgr8", 24 + padding), "rgb8"), rgb)
    rgba = np.dstack([rgb, np.full((6, 8), 255, np.uint8)])
    assert np.array_equal(convert(_image(rgba, "rgba8", 32 + padding), "rgb8"), rgb)
    mono = rng.integers(0, 256, (6, 8), dtype=np.uint8)
    assert np.array_equal(convert(_image(mono, "mono8", 8 + padding), "rgb8"), np.dstack([mono] * 3))


@bridge
def test_sixteen_bits_yuv_and_bayer(module):
    convert = module.CvBridge().imgmsg_to_cv2
    deep = np.array([[0, 1000], [40000, 65535]], np.uint16)
    assert np.array_equal(convert(_image(deep, "mono16"), "passthrough"), deep)
    red = np.zeros((4, 4), np.uint8)
    red[0::2, 0::2] = 200  # RGGB: only the red sites see light
    out = convert(_image(red, "bayer_rggb8"), "rgb8")
    assert out[1:3, 1:3, 0].min() > 40 and out[..., 1:].max() == 0
    grey = np.dstack([np.full((4, 4), 128, np.uint8), np.full((4, 4), 90, np.uint8)])  # U/V 128: no colour
    assert np.abs(convert(_image(grey, "yuv422"), "rgb8").astype(int) - 87).max() <= 2  # (90 - 16) * 255 / 219


@bridge
def test_compressed_images(module):
    rgb = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    for extension, tolerance in ((".png", 0), (".jpg", 6)):
        data = cv2.imencode(extension, rgb[..., ::-1])[1].tobytes()
        message = CompressedImage(format=extension[1:], data=array.array("B", data))
        out = module.CvBridge().compressed_imgmsg_to_cv2(message, "rgb8")
        assert np.abs(out.astype(int) - rgb).max() <= tolerance


@bridge
def test_what_cannot_be_converted_raises_its_error(module):
    good = _image(np.zeros((4, 4, 3), np.uint8), "rgb8")
    for encoding, data in (("nonsense", good.data), ("rgb8", array.array("B", bytes(7)))):
        bad = Image(height=4, width=4, encoding=encoding, step=12, data=data)
        with pytest.raises((module.CvBridgeError, ValueError, TypeError)):
            module.CvBridge().imgmsg_to_cv2(bad, "rgb8")


def test_the_standin_bridge_takes_any_padding_and_says_sizes():
    from gsrender_ros.standins.cv_bridge import CvBridge, CvBridgeError

    rgb = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(CvBridge().imgmsg_to_cv2(_image(rgb, "rgb8", 24 + 5), "rgb8"), rgb)
    short = Image(height=4, width=4, encoding="rgb8", step=12, data=array.array("B", bytes(7)))
    with pytest.raises(CvBridgeError, match="rgb8 image 4x4 with step 12 needs at least 48 bytes .* got 7"):
        CvBridge().imgmsg_to_cv2(short, "rgb8")
    with pytest.raises(CvBridgeError, match="3 bytes of format 'jpeg' are not a readable image"):
        CvBridge().compressed_imgmsg_to_cv2(CompressedImage(format="jpeg", data=array.array("B", b"abc")))
