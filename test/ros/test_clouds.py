"""Clouds of any layout become points; what makes no sense is refused with the reason."""

from types import SimpleNamespace

import numpy as np
import pytest

from gsrender_ros.clouds import CloudError, is_labelled, read_cloud

TYPES = {"<f4": 7, "<f8": 8, "<u2": 4, "<u4": 6, "u1": 2, ">f4": 7, ">u4": 6}
STAMP_NS = 1_600_000_000_500_000_000


def cloud(columns: dict, height: int = 1, padding: int = 0, row_padding: int = 0, big: bool = False):
    """A PointCloud2 of {name: array}."""
    kinds = {name: values.dtype.str.replace("|", "") for name, values in columns.items()}
    step = sum(np.dtype(kind).itemsize for kind in kinds.values()) + padding
    count = len(next(iter(columns.values())))
    data = np.zeros((count, step), np.uint8)
    fields, offset = [], 0
    for name, values in columns.items():
        size = values.dtype.itemsize
        data[:, offset : offset + size] = np.ascontiguousarray(values).view(np.uint8).reshape(count, size)
        fields.append(SimpleNamespace(name=name, offset=offset, datatype=TYPES[kinds[name]], count=1))
        offset += size
    rows = data.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, row_padding)))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=STAMP_NS // 10**9, nanosec=STAMP_NS % 10**9), frame_id="/lidar")
    return SimpleNamespace(
        header=header, height=height, width=count // height, fields=fields, is_bigendian=big, point_step=step,
        row_step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def xyz(count: int = 6, dtype="<f4") -> dict:
    return {axis: (np.arange(1, count + 1) + i).astype(dtype) for i, axis in enumerate("xyz")}


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("height", [1, 2])
def test_points_of_any_type_organised_or_not(dtype, height):
    found = read_cloud(cloud(xyz(dtype=dtype), height, padding=3, row_padding=5 * (height > 1)))
    np.testing.assert_allclose(found.points[:, 0], np.arange(1, 7))
    np.testing.assert_allclose(found.points[:, 2], np.arange(3, 9))
    assert found.frame == "lidar" and found.stamp_ns == STAMP_NS and found.times_ns is None


def test_big_endian_is_read():
    found = read_cloud(cloud(xyz(dtype=">f4") | {"label": np.arange(6, dtype=">u4")}, big=True))
    np.testing.assert_allclose(found.points[:, 1], np.arange(2, 8))
    np.testing.assert_array_equal(found.fields["label"], np.arange(6))


def test_points_that_are_not_finite_or_at_the_origin_are_dropped_with_their_fields():
    columns = xyz() | {"label": np.arange(6, dtype="u1")}
    columns["x"][1] = np.nan
    columns["y"][2] = np.inf
    for axis in "xyz":
        columns[axis][4] = 0
    found = read_cloud(cloud(columns))
    np.testing.assert_array_equal(found.fields["label"], [0, 3, 5])
    assert found.dropped == 3


@pytest.mark.parametrize(
    ("name", "values", "expected_ns"),
    [
        ("t", np.array([0, 1_000, 99_000_000], "<u4"), [0, 1_000, 99_000_000]),
        ("time", np.array([-0.1, -0.05, 0.0], "<f4"), [-100_000_000, -50_000_000, 0]),
        ("timestamp", np.array([0, 0.01, 0.1]) + STAMP_NS / 1e9, [0, 10_000_000, 100_000_000]),
        ("timestamp", np.array([0, 1e7, 1e8]) + float(STAMP_NS), [0, 10_000_000, 100_000_000]),
    ],
)
def test_times_of_points(name, values, expected_ns):
    found = read_cloud(cloud(xyz(3) | {name: values}))
    np.testing.assert_allclose(found.times_ns - STAMP_NS, expected_ns, atol=1_000)
    assert read_cloud(cloud(xyz(3) | {name: values}), "none").times_ns is None


def test_what_makes_no_sense_is_refused():
    with pytest.raises(CloudError, match="no field z"):
        read_cloud(cloud({name: values for name, values in xyz().items() if name != "z"}))
    short = cloud(xyz())
    short.data = short.data[:-1]
    with pytest.raises(CloudError, match="carries 71 bytes"):
        read_cloud(short)
    with pytest.raises(CloudError, match="none of the cloud's 2 points"):
        read_cloud(cloud({axis: np.full(2, np.nan, "<f4") for axis in "xyz"}))
    with pytest.raises(CloudError, match="no sweep lasts longer"):
        read_cloud(cloud(xyz(3) | {"t": np.array([0, 1, 2_000_000_000], "<u4")}))
    with pytest.raises(CloudError, match="no field 'stamp'"):
        read_cloud(cloud(xyz(3)), "stamp")


def test_whether_a_cloud_has_classes():
    assert is_labelled(cloud(xyz(2))) == -1
    assert is_labelled(cloud(xyz(2) | {"label": np.array([255, 255], "u1")})) == 0
    assert is_labelled(cloud(xyz(2) | {"label": np.array([255, 4], "<u4")})) == 1
