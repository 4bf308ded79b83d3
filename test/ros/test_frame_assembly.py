import threading

import numpy as np
import pytest
from test_image_conversions import raw
from test_image_fitting import intrinsics, jpeg, scene

from gsrender_core.geometry import transform
from gsrender_ros.frame_assembly import FrameAssembler, ImageSet, RigPose
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit, CameraFit
from gsrender_ros.statistics import FrameDropped

TARGET = (64, 32)
SIZES = [(160, 90), (128, 128), (96, 54)]  # cameras of one vehicle need not be alike


@pytest.fixture
def assembler():
    """Makes assemblers, and closes them in the end."""
    made = []

    def make(*make_fit) -> FrameAssembler:
        made.append(FrameAssembler(TARGET, *make_fit))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def assemble(assembler):
    return assembler()


def camera(index: int) -> Intrinsics:
    plain = intrinsics(SIZES[index])
    return Intrinsics(plain.K, plain.size, f"cam_{index}")


def poses(count: int) -> RigPose:
    return RigPose(np.stack([transform((1, 0, 0, 0), (i, 0, 0)) for i in range(count)]), np.eye(4))


def image_set(messages) -> ImageSet:
    names = tuple(f"CAM_{i}" for i in range(len(messages)))
    return ImageSet(tuple(messages), (5,) * len(messages), names, names, 5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("fit", [CameraFit, AreaFit])
def test_frames_of_cameras_of_any_size_and_number(assembler, count, fit):
    cameras = [camera(index) for index in range(count)]
    messages = [jpeg(scene(c.size, seed)) for seed, c in enumerate(cameras)]
    frame = assembler(fit)(image_set(messages), cameras, poses(count))
    for index, (message, one) in enumerate(zip(messages, cameras, strict=True)):
        np.testing.assert_array_equal(frame.images[index], fit(one, TARGET)(message))
        np.testing.assert_array_equal(frame.Ks[index], fit(one, TARGET).K)
    np.testing.assert_array_equal(frame.T_ego_cam, poses(count).T_ego_cam)
    assert (frame.stamp_ns, frame.image_size, frame.token) == (5, TARGET, "5")
    assert frame.camera_names == tuple(f"CAM_{i}" for i in range(count))


def test_an_image_of_another_size_than_its_calibration_is_refused_until_the_calibration_follows(assemble):
    messages = image_set([raw(scene((80, 44)))])
    with pytest.raises(FrameDropped, match="cam_0 are 80x44, their calibration is for 160x90") as dropped:
        assemble(messages, [camera(0)], poses(1))
    assert dropped.value.reason == "calibration"
    changed = Intrinsics(intrinsics((80, 44)).K, (80, 44), "cam_0")
    frame = assemble(messages, [changed], poses(1))
    assert np.array_equal(frame.images[0], CameraFit(changed, TARGET)(messages.messages[0]))
    np.testing.assert_array_equal(frame.Ks[0], CameraFit(changed, TARGET).K)


def test_the_plan_is_made_once_for_a_calibration(assembler):
    made = []
    assemble = assembler(lambda *args: made.append(args[0]) or CameraFit(*args))
    message = raw(scene(SIZES[0]))
    for _ in range(3):
        assemble(image_set([message]), [camera(0)], poses(1))  # equal, not the same object
    moved = camera(0)
    moved.K[0, 2] += 5
    frame = assemble(image_set([message]), [moved], poses(1))
    assert len(made) == 2
    np.testing.assert_array_equal(frame.Ks[0], CameraFit(moved, TARGET).K)


class Counting:
    """Stands in CameraFit's place and counts; every image is grey in the value of its message."""

    def __init__(self, camera, target):
        self.camera, self.K, self.seen = camera, camera.K, []

    def __call__(self, message):
        self.seen.append(message)
        return np.full((3, TARGET[1], TARGET[0]), message, np.uint8)


def test_images_are_decoded_ahead_once_and_not_more_than_two(assembler):
    assemble, one = assembler(Counting), camera(0)
    for value in (1, 2, 3, 4):
        assemble.expect(value, one)
    frame = assemble(image_set([2]), [one], poses(1))
    assert np.unique(frame.images).tolist() == [2]
    seen = assemble.fit(one).seen
    assert seen.count(2) == 1 and set(seen) <= {1, 2}
    assemble.expect(5, one)  # a set was used: there is room again
    assert np.unique(assemble(image_set([5]), [one], poses(1)).images).tolist() == [5]
    assert assemble.fit(one).seen.count(5) == 1
    assert np.unique(assemble(image_set([6]), [one], poses(1)).images).tolist() == [6]  # never expected


def test_what_was_decoded_with_another_calibration_is_not_used(assemble):
    message, moved = raw(scene(SIZES[0])), camera(0)
    moved.K[0, 2] -= 20
    assemble.expect(message, camera(0))
    frame = assemble(image_set([message]), [moved], poses(1))
    assert np.array_equal(frame.images[0], CameraFit(moved, TARGET)(message))


def test_expecting_never_blocks_and_its_error_belongs_to_the_frame(assembler):
    release = threading.Event()

    class Slow(Counting):
        def __call__(self, message):
            release.wait(30)
            raise FrameDropped("decode", "garbage")

    assemble = assembler(Slow)
    assemble.expect(1, camera(0))  # returns although the decoder is stuck
    release.set()
    with pytest.raises(FrameDropped, match="garbage"):
        assemble(image_set([1]), [camera(0)], poses(1))
