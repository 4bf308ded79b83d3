"""Where points get their classes from: lidarseg's ids, Occ3D's, a function of the user, label images behind a lens."""

import pickle

import cv2
import numpy as np
import pytest

from gsrender_core.bag_config import BagConfig
from gsrender_core.classes import IGNORE, LIDARSEG_NAMES, class_id
from gsrender_core.data.frame import PixelLabels
from gsrender_ros.image_conversions import Intrinsics
from gsrender_ros.image_fitting import AreaFit
from gsrender_ros.lens import Distortion
from gsrender_ros.point_labels import PointLabels, supervision_of
from gsrender_ros.sweeps import SweepPoints

CAR, ROAD = class_id("car"), class_id("driveable_surface")


def points_with(**fields) -> SweepPoints:
    fields = {name: np.asarray(values) for name, values in fields.items()}
    count = len(next(iter(fields.values())))
    places = np.arange(3.0 * count).reshape(count, 3)
    return SweepPoints(places, np.zeros((count, 3)), fields)


def by_field(values, **config) -> tuple[list, list]:
    labels = PointLabels(BagConfig(**config), "field")
    classes, own = labels.classes(points_with(**{config.get("label_field", "label"): values}), 0)
    assert classes.dtype == np.uint8 and own.dtype == bool
    return classes.tolist(), own.tolist()


def test_the_first_source_that_is_there_is_taken():
    images = {"semantic_topic": "{camera}/semantic"}
    function = {"label_function": "mine:label"}
    assert supervision_of(BagConfig(**images, **function), ("label", "x")) == "field"
    assert supervision_of(BagConfig(**images, **function), ("x",)) == "images"
    assert supervision_of(BagConfig(**function), ("x",)) == "function"
    assert supervision_of(BagConfig(), ("x",)) == "geometry"
    assert supervision_of(BagConfig(label_field="class"), ("class",)) == "field"
    assert supervision_of(BagConfig(supervision="geometry"), ("label",)) == "geometry"
    with pytest.raises(ValueError, match=r"bag.label_field: the clouds have no field 'class'; they have \('label',\)"):
        supervision_of(BagConfig(supervision="field", label_field="class"), ("label",))


def test_occ3d_ids_are_taken_as_they_are_and_others_are_none():
    assert by_field(np.array([0, 4, 16, 17, 18, 255], np.uint8))[0] == [0, 4, 16, IGNORE, IGNORE, IGNORE]
    assert by_field(np.array([-1, 3, 260], np.int32))[0] == [IGNORE, 3, IGNORE]


def test_lidarseg_ids_are_looked_up_and_name_the_own_vehicle():
    names = ("noise", "vehicle.car", "flat.driveable_surface", "vehicle.emergency.police", "vehicle.ego")
    ids = [LIDARSEG_NAMES.index(name) for name in names]
    assert ids == [0, 17, 24, 20, 31]  # of the published list
    # Neither ids beyond the table nor those that a byte would wrap round (273 is 17 modulo 256) are any class.
    classes, own = by_field(np.array([*ids, 32, 255, 273, -239], np.int32), label_ids="lidarseg")
    assert classes == [IGNORE, CAR, ROAD, class_id("others"), IGNORE, IGNORE, IGNORE, IGNORE, IGNORE]
    assert own == [False] * 4 + [True] + [False] * 4
    assert by_field(np.array([17.0, np.nan], np.float32), label_ids="lidarseg")[0] == [CAR, IGNORE]


def test_a_field_of_floats_holds_whole_ids_or_is_refused():
    assert by_field(np.array([4.0, np.nan, np.inf, 11.0], np.float32), label_field="class")[0] == [4, 255, 255, 11]
    with pytest.raises(ValueError, match="field 'label' holds float32 that are no whole class ids"):
        by_field(np.array([4.5], np.float32))
    with pytest.raises(ValueError, match="the cloud has no field 'label' at 1700000000.500"):
        PointLabels(BagConfig(), "field").classes(points_with(ring=[1]), 1_700_000_000_500_000_000)


@pytest.mark.parametrize(("name", "expected"), [("others", 0), ("unknown", IGNORE)])
def test_without_classes_points_are_occupied_and_no_more(name, expected):
    labels = PointLabels(BagConfig(geometry_class=name), "geometry")
    classes, own = labels.classes(points_with(ring=[1, 2]), 0)
    assert classes.tolist() == [expected] * 2 and not own.any()


FUNCTIONS = """
import numpy as np

def by_height(points_ego, fields, stamp_ns):
    assert points_ego.dtype == np.float64 and stamp_ns == 5
    return np.where(points_ego[:, 2] > 4, fields["kind"], 255)

def floats(points_ego, fields, stamp_ns):
    return np.where(points_ego[:, 2] > 4, 4.0, np.nan)

def too_few(points_ego, fields, stamp_ns):
    return np.zeros(len(points_ego) - 1, int)

def halves(points_ego, fields, stamp_ns):
    return np.full(len(points_ego), 0.5)

number = 3
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "points_of_mine.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))


def by_function(name: str) -> PointLabels:
    return PointLabels(BagConfig(label_function=f"points_of_mine:{name}"), "function")


def test_a_function_sees_points_fields_and_stamp(functions):
    points = points_with(kind=[7, 4, 99])  # heights 2, 5, 8
    for labels in (by_function("by_height"), pickle.loads(pickle.dumps(by_function("by_height")))):
        assert labels.classes(points, 5)[0].tolist() == [IGNORE, 4, IGNORE]
    assert by_function("floats").classes(points, 5)[0].tolist() == [IGNORE, 4, 4]


def test_a_function_that_gives_no_class_for_every_point_is_named(functions):
    with pytest.raises(ValueError, match=r"'points_of_mine:too_few' gave \(2,\), expected \(3,\)"):
        by_function("too_few").classes(points_with(kind=[1, 2, 3]), 5)
    with pytest.raises(ValueError, match="'points_of_mine:halves' holds float64 that are no whole class ids"):
        by_function("halves").classes(points_with(kind=[1]), 5)
    with pytest.raises(ValueError, match="'points_of_mine:number' is no function"):
        by_function("number")
    with pytest.raises(ValueError, match="has no attribute 'absent'.*must be importable"):
        by_function("absent")


# -- label images -----------------------------------------------------------------------------------------------------


def labels_at(uv, camera=None) -> PixelLabels:
    uv = np.array(uv, np.float32).reshape(-1, 2)
    camera = np.zeros(len(uv), np.int64) if camera is None else np.array(camera)
    return PixelLabels(camera, uv, np.ones(len(uv), np.float32), np.full(len(uv), IGNORE, np.uint8))


def pinhole(size) -> Intrinsics:
    return Intrinsics(np.array([[0.8 * size[0], 0, size[0] / 2], [0, 0.8 * size[0], size[1] / 2], [0, 0, 1]]), size)


def test_a_label_image_of_any_resolution_is_read_at_the_labels_places():
    fit = AreaFit(pinhole((80, 40)), (40, 20))  # half the size, nothing cut
    image = np.arange(8, dtype=np.uint8).reshape(2, 4)  # a label pixel covers 20 x 20 of the camera's, 10 x 10 of ours
    labels = labels_at([(0.0, 0.0), (9.9, 9.9), (10.0, 9.9), (39.9, 0.0), (39.9, 19.9)])
    config = BagConfig(supervision="images", semantic_topic="{camera}/semantic")
    found = PointLabels(config, "images").from_images(labels, [image], [fit])
    assert found.class_id.tolist() == [0, 0, 1, 3, 7]
    np.testing.assert_array_equal(found.uv, labels.uv)


def test_each_camera_has_its_own_image_and_ids_are_mapped():
    fits = [AreaFit(pinhole((40, 20)), (40, 20))] * 2
    images = [np.full((20, 40), 300, np.uint16), np.full((5, 10), 9, np.uint8)]
    config = BagConfig(supervision="images", semantic_topic="{camera}/s", semantic_ids=((300, CAR), (2, ROAD)))
    found = PointLabels(config, "images").from_images(labels_at([(1, 1), (2, 2), (3, 3)], [1, 0, 0]), images, fits)
    assert found.class_id.tolist() == [IGNORE, CAR, CAR]  # 9 is in no pair
    plain = BagConfig(supervision="images", semantic_topic="{camera}/s")
    found = PointLabels(plain, "images").from_images(labels_at([(1, 1), (2, 2)], [1, 0]), images, fits)
    assert found.class_id.tolist() == [9, IGNORE]  # 300 is no Occ3D id


@pytest.mark.parametrize(
    "lens", [Distortion("plumb_bob", (-0.25, 0.05, 0.002, -0.001)), Distortion("equidistant", (0.03, 0.0, 0.0, 0.0))]
)
def test_behind_a_lens_the_class_is_that_of_the_direction(lens):
    """A class by the direction in which a label pixel truly looks; OpenCV's own inverse of the lens says which."""
    plain, target, limit = pinhole((640, 360)), (300, 100), 0.5
    camera = Intrinsics(plain.K, plain.size, "a camera", lens)
    fit = AreaFit(camera, target)
    rows, columns = np.mgrid[0:180, 0:320] + 0.5  # label images of half the size
    pixels = np.stack([2 * columns.ravel(), 2 * rows.ravel()], axis=1)[:, None]
    K = camera.K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV's pixel centres are whole numbers
    undistort = cv2.fisheye.undistortPoints if lens.model == "equidistant" else cv2.undistortPoints
    directions = undistort(pixels - 0.5, K, np.array(lens.coefficients)).reshape(180, 320, 2)
    image = np.where(directions[..., 0] > limit, CAR, ROAD).astype(np.uint8)

    uv = np.random.default_rng(0).uniform((0, 0), target, (3000, 2))
    x = (uv[:, 0] - fit.K[0, 2]) / fit.K[0, 0]
    sure = np.abs(x - limit) * fit.K[0, 0] > 2.0  # px: label pixels have edges
    config = BagConfig(supervision="images", semantic_topic="{camera}/s")
    found = PointLabels(config, "images").from_images(labels_at(uv), [image], [fit]).class_id
    np.testing.assert_array_equal(found[sure], np.where(x > limit, CAR, ROAD)[sure])
    # Taken as if there were no lens, the labels of some of these would be others.
    straight = AreaFit(plain, target)
    blind = PointLabels(config, "images").from_images(labels_at(uv), [image], [straight]).class_id
    assert (blind[sure] != found[sure]).sum() > 20


def test_where_the_lens_sees_nothing_there_is_no_class():
    lens = Distortion("plumb_bob", (-0.4, 0.0, 0.0, 0.0))  # folds back at a tangent of 0.91
    K = np.array([[30.0, 0, 50], [0, 30.0, 20], [0, 0, 1]])
    fit = AreaFit(Intrinsics(K, (100, 40), "a camera", lens), (100, 40))
    config = BagConfig(supervision="images", semantic_topic="{camera}/s")
    labels = labels_at([(50.5, 12.5), (99.5, 12.5)])
    found = PointLabels(config, "images").from_images(labels, [np.full((40, 100), CAR, np.uint8)], [fit])
    assert found.class_id.tolist() == [CAR, IGNORE]
