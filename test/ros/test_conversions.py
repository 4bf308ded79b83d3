import array

import numpy as np
import pytest
import simplejpeg
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointField

from gsrender_core.classes import CLASS_COLORS, FREE
from gsrender_core.data.image_fit import fit_image
from gsrender_core.geometry import transform
from gsrender_core.voxel_grid import OccupancyGrid, VoxelGrid
from gsrender_ros.conversions import cloud_from_occupancy
from gsrender_ros.frame_assembly import FrameAssembler, ImageSet, RigPose
from gsrender_ros.image_conversions import Intrinsics, decode_image, intrinsics_from_camera_info
from gsrender_ros.statistics import FrameDropped
from gsrender_ros.tf_lookup import matrix_from_message, message_from_matrix

RNG = np.random.default_rng(2)


def raw(image: np.ndarray, encoding: str = "rgb8") -> Image:
    height, width = image.shape[:2]
    message = Image(height=height, width=width, encoding=encoding, step=image.nbytes // height)
    message.data = array.array("B", np.ascontiguousarray(image).tobytes())
    return message


def camera_info(**changes) -> CameraInfo:
    fields = {
        "width": 160,
        "height": 90,
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": [100.0, 0, 80, 0, 101.0, 45, 0, 0, 1],
        "p": [90.0, 0, 79, 0, 0, 91.0, 44, 0, 0, 0, 1, 0],
    } | changes
    message = CameraInfo(**fields)
    message.header.frame_id = "cam_front"
    return message


def test_cloud_of_known_voxels_read_back_field_by_field():
    semantics = np.full((3, 2, 2), FREE, np.uint8)
    semantics[2, 0, 1], semantics[0, 1, 0] = 7, 15
    confidence = RNG.random(semantics.shape, dtype=np.float32)
    grid = VoxelGrid((-1.5, 0.0, 2.0), 1.0, (3, 2, 2))
    message = cloud_from_occupancy(OccupancyGrid(semantics, confidence, grid, 12_345_678_901), "base_link")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 345_678_901)
    assert (message.header.frame_id, message.height, message.width, message.row_step) == ("base_link", 1, 2, 48)
    types = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}
    dtype = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": [types[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    assert [f.name for f in message.fields] == ["x", "y", "z", "rgb", "label", "confidence"]
    assert dtype["rgb"] == np.float32 and dtype["label"] == np.uint32
    points = {int(p["label"]): p for p in np.frombuffer(bytes(message.data), dtype)}
    assert [float(points[7][axis]) for axis in "xyz"] == [1.0, 0.5, 3.5]
    assert [float(points[15][axis]) for axis in "xyz"] == [-1.0, 1.5, 2.5]
    assert points[7]["confidence"] == confidence[2, 0, 1]
    packed = int(np.float32(points[7]["rgb"]).view(np.uint32))
    assert [packed >> 16 & 255, packed >> 8 & 255, packed & 255] == CLASS_COLORS[7].tolist()


def test_cloud_agrees_with_the_grids_own_list_of_voxels():
    semantics = RNG.integers(0, FREE + 1, (7, 5, 3)).astype(np.uint8)
    occupancy = OccupancyGrid(semantics, None, VoxelGrid((-3.0, 1.0, -1.0), 0.4, (7, 5, 3)), 1)
    centers, labels, confidence = occupancy.occupied()
    data = np.frombuffer(bytes(cloud_from_occupancy(occupancy, "a").data), np.float32).reshape(-1, 6)
    np.testing.assert_allclose(data[:, :3], centers, atol=1e-6)
    assert np.array_equal(data[:, 4].view(np.uint32), labels)
    assert np.array_equal(data[:, 5], confidence)


def test_empty_cloud():
    occupancy = OccupancyGrid(np.full((2, 2, 2), FREE, np.uint8), None, VoxelGrid((0, 0, 0), 1.0, (2, 2, 2)), 1)
    message = cloud_from_occupancy(occupancy, "base_link")
    assert (message.width, len(message.data), message.point_step) == (0, 0, 24)


def test_decoding_gives_rgb_whatever_the_transport():
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[:, :24], rgb[:, 24:] = (220, 20, 60), (10, 200, 30)
    assert np.array_equal(decode_image(raw(rgb)), rgb)
    assert np.array_equal(decode_image(raw(rgb[..., ::-1], "bgr8")), rgb)
    jpeg = CompressedImage(format="rgb8; jpeg compressed bgr8")
    jpeg.data = array.array("B", simplejpeg.encode_jpeg(rgb, quality=98, colorsubsampling="444"))
    assert np.abs(decode_image(jpeg).astype(int) - rgb).max() <= 8


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Image(height=2, width=2, encoding="weird", step=6, data=array.array("B", bytes(12))), "weird"),
        (Image(height=2, width=2, encoding="rgb8", step=6, data=array.array("B", bytes(11))), "12 bytes"),
        (CompressedImage(format="jpeg", data=array.array("B", b"\xff\xd8\xff garbage")), "not readable"),
        (CompressedImage(format="jpeg"), "not readable"),
        (CompressedImage(format="16UC1; compressedDepth", data=array.array("B", b"x")), "depth image"),
    ],
)
def test_unreadable_images_are_dropped_with_a_reason(message, text):
    with pytest.raises(FrameDropped, match=text) as dropped:
        decode_image(message)
    assert dropped.value.reason == "decode"


def test_intrinsics_of_camera_info():
    plain = intrinsics_from_camera_info(camera_info())
    assert plain.size == (160, 90)
    assert plain.K.tolist() == [[100, 0, 80], [0, 101, 45], [0, 0, 1]]
    distorted = camera_info(d=[-0.3, 0.1, 0.0, 0.0, 0.0])
    with pytest.raises(FrameDropped, match="cam_front has lens distortion .*distortion:=rectified"):
        intrinsics_from_camera_info(distorted)
    assert intrinsics_from_camera_info(distorted, "ignore").K[0, 0] == 100
    assert intrinsics_from_camera_info(distorted, "rectified").K.tolist() == [[90, 0, 79], [0, 91, 44], [0, 0, 1]]
    for k in ([0.0] * 9, [float("nan")] + [1.0] * 8):
        with pytest.raises(FrameDropped, match="CameraInfo of cam_left is not calibrated") as dropped:
            intrinsics_from_camera_info(camera_info(k=k), camera="cam_left")
        assert dropped.value.reason == "calibration"


def test_transforms_survive_their_messages():
    T = transform(RNG.normal(size=4), RNG.normal(size=3))
    message = message_from_matrix(T, "base_link", "cam", 3_000_000_004)
    assert isinstance(message, TransformStamped)
    assert (message.header.frame_id, message.child_frame_id) == ("base_link", "cam")
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (3, 4)
    np.testing.assert_allclose(matrix_from_message(message), T, atol=1e-9)


def image_set(messages) -> ImageSet:
    names = tuple(f"CAM_{i}" for i in range(len(messages)))
    return ImageSet(tuple(messages), (5,) * len(messages), names, names, 5)


def test_frames_are_fitted_as_training_fits_them():
    images = [RNG.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(3)]
    K = np.array([[100.0, 0, 80], [0, 101, 45], [0, 0, 1]])
    poses = RigPose(np.stack([transform(RNG.normal(size=4), (i, 0, 0)) for i in range(3)]), np.eye(4))
    assemble = FrameAssembler((64, 32))
    frame = assemble(image_set([raw(image) for image in images]), [Intrinsics(K, (160, 90))] * 3, poses)
    plan = fit_image((160, 90), K, (64, 32))
    for index, image in enumerate(images):
        assert np.array_equal(frame.images[index], plan(image).transpose(2, 0, 1))
        np.testing.assert_array_equal(frame.Ks[index], plan.K)
    np.testing.assert_array_equal(frame.T_ego_cam, poses.T_ego_cam)
    assert (frame.stamp_ns, frame.camera_names, frame.image_size) == (5, ("CAM_0", "CAM_1", "CAM_2"), (64, 32))
    assemble.close()


def test_an_image_of_another_size_than_its_calibration_is_refused():
    assemble = FrameAssembler((64, 32))
    messages = image_set([raw(np.zeros((45, 80, 3), np.uint8))])
    with pytest.raises(FrameDropped, match="cam_0 are 80x45, their calibration is for 160x90") as dropped:
        assemble(messages, [Intrinsics(np.eye(3), (160, 90), "cam_0")], RigPose(np.eye(4)[None], np.eye(4)))
    assert dropped.value.reason == "calibration"
    assemble.close()
