"""The nuScenes reader: a folder written here with hand-computed poses, every bad input, and the real recordings."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from gsrender_core.classes import IGNORE, LIDARSEG_NAMES, class_id
from gsrender_core.cli.options import dataset
from gsrender_core.cli.parser import parser
from gsrender_core.data import json_rows
from gsrender_core.data.json_rows import iterate_rows
from gsrender_core.data.lidar_labels import LabelOptions
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.data.nuscenes_tables import CAMERA_CHANNELS, NuScenesTables, stamp_to_ns
from gsrender_core.geometry import apply, inverse, rotation_from_quaternion, transform

SIZE = (64, 36)  # images as written; read at half of it
K = [[40.0, 0.0, 32.0], [0.0, 40.0, 18.0], [0.0, 0.0, 1.0]]
FORWARD = [0.5, -0.5, 0.5, -0.5]  # camera axes (z forward, x right, y down) in the ego frame
LIDAR_AT = [0.94, 0.0, 1.84]
CAMERA_AT = [1.7, 0.0, 1.5]
STEP_M, LAG_M = 8.0, 0.4  # ego motion between keyframes, and between a camera's stamp and the LiDAR's
ORIGIN_GLOBAL = np.array([400.0, 1100.0, 3.0])
YAW_90 = [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)]  # the car drives along global +y
FRAMES = {"scene-a": 12, "scene-b": 2}
# Points in the LiDAR's frame (axes parallel to ego) and their lidarseg ids.
POINTS = np.array(
    [[20.76, 2.0, -1.84, 7, 0], [10.76, -1.0, 0.16, 9, 3], [0.5, 0.3, -1.0, 1, 1], [1.0, 0.0, -0.2, 1, 1]], np.float32
)
LIDARSEG = np.array([24, 0, 24, 31], np.uint8)  # road, noise, a point inside the own vehicle, the own vehicle


def write_table(root: Path, name: str, rows: list) -> None:
    (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows, indent=0))


def read_table(root: Path, name: str) -> list:
    return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())


def edit_table(root: Path, name: str, edit) -> None:
    rows = read_table(root, name)
    edit(rows)
    write_table(root, name, rows)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("nuscenes")
    (root / "v1.0-mini").mkdir()
    (root / "lidarseg" / "v1.0-mini").mkdir(parents=True)
    channels = (*CAMERA_CHANNELS, "LIDAR_TOP")
    rng = np.random.default_rng(0)
    tables = {name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "lidarseg")}
    for scene, frames in FRAMES.items():
        tables["scene"].append({"token": f"tok-{scene}", "name": scene, "nbr_samples": frames})
        for f in range(frames):
            sample, stamp = f"{scene}-{f}", 1_532_402_000_000_000 + f * 500_000
            tables["sample"].append(
                {
                    "token": sample,
                    "scene_token": f"tok-{scene}",
                    "timestamp": stamp,
                    "prev": f"{scene}-{f - 1}" if f else "",
                    "next": f"{scene}-{f + 1}" if f + 1 < frames else "",
                }
            )
            for rank, channel in enumerate(channels):
                lidar = channel == "LIDAR_TOP"
                # A key frame, and one sweep half a keyframe later.
                for sweep in (False, True):
                    token = f"{sample}-{channel}" + ("-sweep" if sweep else "")
                    along = STEP_M * f - (0 if lidar else LAG_M) + (STEP_M / 2 if sweep else 0)
                    at = stamp - (0 if lidar else 1000 * (rank + 1)) + (250_000 if sweep else 0)
                    position = (ORIGIN_GLOBAL + [0, along, 0]).tolist()
                    tables["ego_pose"].append(
                        {"token": f"pose-{token}", "timestamp": at, "rotation": YAW_90, "translation": position}
                    )
                    suffix = "pcd.bin" if lidar else "jpg"
                    name = f"{'sweeps' if sweep else 'samples'}/{channel}/{token}.{suffix}"
                    path = root / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if lidar:
                        POINTS.tofile(path)
                        if not sweep:
                            bin_name = f"lidarseg/v1.0-mini/{token}_lidarseg.bin"
                            LIDARSEG.tofile(root / bin_name)
                            tables["lidarseg"].append(
                                {"token": token, "sample_data_token": token, "filename": bin_name}
                            )
                    elif not sweep:
                        image = np.full((SIZE[1], SIZE[0], 3), (10, 60, 200), np.uint8)  # BGR: mostly red
                        cv2.imwrite(str(path), image + rng.integers(0, 5, image.shape, dtype=np.uint8))
                    tables["sample_data"].append(
                        {
                            "token": token,
                            "sample_token": sample,
                            "ego_pose_token": f"pose-{token}",
                            "calibrated_sensor_token": f"cs-{channel}",
                            "timestamp": at,
                            "fileformat": suffix,
                            "is_key_frame": not sweep,
                            "height": 0 if lidar else SIZE[1],
                            "width": 0 if lidar else SIZE[0],
                            "filename": name,
                            "prev": "",
                            "next": "",
                        }
                    )
    tables["sensor"] = [{"token": f"s-{c}", "channel": c} for c in (*channels, "RADAR_FRONT")]
    tables["calibrated_sensor"] = [
        {
            "token": f"cs-{c}",
            "sensor_token": f"s-{c}",
            "translation": LIDAR_AT if c == "LIDAR_TOP" else CAMERA_AT,
            "rotation": [1.0, 0.0, 0.0, 0.0] if c == "LIDAR_TOP" else FORWARD,
            "camera_intrinsic": [] if c == "LIDAR_TOP" else K,
        }
        for c in channels
    ]
    tables["category"] = [{"token": f"c{i}", "name": n, "index": i} for i, n in enumerate(LIDARSEG_NAMES)]
    for name, rows in tables.items():
        write_table(root, name, rows)
    return root


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "data"))


def reader(root: Path, **kwargs) -> NuScenes:
    return NuScenes(root, image_size=(32, 18), **kwargs)


def first(root: Path, channel: str) -> Path:
    return next(p for p in sorted((root / "samples" / channel).iterdir()) if p.name.startswith("scene-a-0-"))


# --- what a sample holds ---


def test_samples_come_in_order_of_scene_and_time(template):
    data = reader(template)
    assert len(data) == 14
    assert data.scene_names == ("scene-a", "scene-b")
    assert data.tokens == tuple(f"{s}-{f}" for s, n in FRAMES.items() for f in range(n))
    assert data.skipped == {}
    assert data.indices_of("scene-b") == [12, 13]
    assert reader(template, scenes=["scene-b"]).tokens == ("scene-b-0", "scene-b-1")


def test_frame_carries_hand_computed_poses_and_intrinsics(template):
    frame = reader(template).frame(3)
    assert frame.images.shape == (6, 3, 18, 32)
    assert frame.token == "scene-a-3" and frame.scene == "scene-a"
    assert frame.stamp_ns == (1_532_402_000_000_000 + 1_500_000) * 1000
    # RGB, not BGR.
    np.testing.assert_allclose(frame.images.mean(axis=(0, 2, 3)), (202, 62, 12), atol=4)
    np.testing.assert_allclose(frame.T_global_ego[:3, 3], ORIGIN_GLOBAL + [0, 24, 0])
    np.testing.assert_allclose(frame.T_global_ego[:3, :3] @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    # The camera fired 0.4 m before the LiDAR stamp, so in the LiDAR-stamp ego it stands 0.4 m farther back.
    np.testing.assert_allclose(frame.T_ego_cam[:, :3, 3], [[1.7 - LAG_M, 0, 1.5]] * 6, atol=1e-9)
    np.testing.assert_allclose(frame.T_ego_cam[0, :3, :3] @ [0, 0, 1], [1, 0, 0], atol=1e-12)
    # 64x36 -> 32x18 is a scale of one half without a crop.
    np.testing.assert_allclose(frame.Ks, np.tile(np.diag([0.5, 0.5, 1]) @ np.array(K), (6, 1, 1)))


def test_labels_can_be_read_without_decoding_an_image(root):
    whole = reader(root).frame(3)
    for path in (root / "samples").rglob("*.jpg"):
        path.write_bytes(b"no image")
    bare = reader(root).frame_without_images(3)
    assert bare.images.shape == (6, 3, 0, 0)
    for name in ("Ks", "T_ego_cam", "T_global_ego"):
        np.testing.assert_array_equal(getattr(bare, name), getattr(whole, name))
    for name in ("camera", "uv", "depth_m", "class_id"):
        np.testing.assert_array_equal(getattr(bare.labels, name), getattr(whole.labels, name))
    assert (bare.token, bare.scene, bare.stamp_ns) == (whole.token, whole.scene, whole.stamp_ns)
    with pytest.raises(ValueError):
        reader(root).frame(3)


def test_labels_are_the_hand_computed_projection(template):
    labels = reader(template).frame(0).labels
    # Own-vehicle points (ids 31, and one inside the car) are gone; two remain in each of six cameras.
    assert len(labels) == 12 and np.bincount(labels.camera).tolist() == [2] * 6
    at = labels.select(labels.camera == 1)
    # Point 0: ego (21.7, 2, 0); from the camera at (1.3, 0, 1.5): depth 20.4, right -2, down 1.5.
    # Point 1: ego (11.7, -1, 2): depth 10.4, right 1, down -0.5. f = 20 px, centre (16, 9).
    np.testing.assert_allclose(at.depth_m, [20.4, 10.4], atol=1e-5)
    np.testing.assert_allclose(at.uv[0], [16 - 20 * 2 / 20.4, 9 + 20 * 1.5 / 20.4], atol=1e-4)
    np.testing.assert_allclose(at.uv[1], [16 + 20 * 1 / 10.4, 9 - 20 * 0.5 / 10.4], atol=1e-4)
    assert at.class_id.tolist() == [class_id("driveable_surface"), IGNORE]


def test_renderocc_parity_supervises_noise_and_own_vehicle(template):
    labels = reader(template, label_options=LabelOptions(renderocc_parity=True)).frame(0).labels
    classes = labels.select(labels.camera == 0).class_id
    # The point inside the car lies behind the camera's plane; the "ego" one at 0.64 m in front of it.
    assert sorted(classes.tolist()) == sorted([class_id("driveable_surface"), 0, 0])


def test_labels_off_and_without_lidarseg(root, caplog):
    assert reader(root).frame(0, labels=False).labels is None
    (root / "v1.0-mini" / "lidarseg.json").unlink()
    labels = reader(root).frame(0).labels
    # Without classes the own vehicle is still known by its box: its two points are gone.
    assert len(labels) == 12 and set(labels.class_id.tolist()) == {IGNORE}
    assert "no lidarseg" in caplog.text


def test_adjacent_stays_in_its_scene_and_has_no_substitute(root):
    data = reader(root)
    assert [data.adjacent(5, k) for k in (-2, -1, 0, 1, 2)] == [3, 4, 5, 6, 7]
    assert [data.adjacent(0, -1), data.adjacent(11, 1), data.adjacent(12, -1), data.adjacent(10, 2)] == [None] * 4
    edit_table(
        root, "sample_data", lambda rows: rows.remove(next(r for r in rows if r["token"] == "scene-a-6-CAM_BACK"))
    )
    data = reader(root)
    five = data.tokens.index("scene-a-5")
    assert data.adjacent(five, 1) is None
    assert data.tokens[data.adjacent(five, 2)] == "scene-a-7"


def test_incomplete_samples_are_skipped_by_name(root, caplog):
    gone = {"scene-a-6-CAM_BACK", "scene-b-0-LIDAR_TOP", "scene-b-1-LIDAR_TOP"}
    write_table(root, "sample_data", [r for r in read_table(root, "sample_data") if r["token"] not in gone])
    data = reader(root)
    assert data.skipped == {
        "no key frame of CAM_BACK": ["scene-a-6"],
        "no key frame of LIDAR_TOP": ["scene-b-0", "scene-b-1"],
    }
    assert len(data) == 11 and "scene-a-6" in caplog.text and "2 of 14 samples skipped" in caplog.text
    with pytest.raises(ValueError, match="no complete sample.*'no key frame of LIDAR_TOP': 2"):
        reader(root, scenes=["scene-b"])


def test_ray_origins_follow_the_scene(template):
    data = reader(template)
    # From keyframe 5 the LiDAR stands at 8 (k - 5) + 0.94 m: k = 1 .. 9 lie within 39 m, nine of them,
    # of which round(linspace(0, 8, 8)) picks 0 1 2 3 5 6 7 8.
    expected = [[STEP_M * (k - 5) + 0.94, 0, 1.84] for k in (1, 2, 3, 4, 6, 7, 8, 9)]
    origins = data.ray_origins(5)
    assert origins.dtype == np.float64
    np.testing.assert_allclose(origins, expected, atol=1e-9)
    np.testing.assert_allclose(data.ray_origins(13), [[0.94 - STEP_M, 0, 1.84], [0.94, 0, 1.84]], atol=1e-9)


def test_ray_origins_use_keyframes_that_lack_a_camera(root):
    rows = [r for r in read_table(root, "sample_data") if r["token"] != "scene-b-0-CAM_BACK"]
    write_table(root, "sample_data", rows)
    data = reader(root, scenes=["scene-b"])
    assert data.tokens == ("scene-b-1",) and len(data.ray_origins(0)) == 2


def test_sensor_records_in_time_order_with_and_without_sweeps(template):
    tables = NuScenesTables(template)
    keys = list(tables.sensor_records("scene-b"))
    assert len(keys) == 14 and all(r.is_key_frame for r in keys)
    everything = list(tables.sensor_records("scene-b", include_sweeps=True))
    assert len(everything) == 28 and sum(r.is_key_frame for r in everything) == 14
    stamps = [r.stamp_ns for r in everything]
    assert stamps == sorted(stamps) and all(s == r.stamp_us * 1000 for s, r in zip(stamps, everything, strict=True))
    sweep = next(r for r in everything if r.token == "scene-b-1-CAM_FRONT-sweep")
    np.testing.assert_allclose(sweep.T_global_ego[:3, 3], ORIGIN_GLOBAL + [0, STEP_M - LAG_M + STEP_M / 2, 0])
    np.testing.assert_allclose(sweep.T_ego_sensor[:3, 3], CAMERA_AT)
    assert sweep.size == SIZE and sweep.K.tolist() == K and sweep.filename.parts[-3:-1] == ("sweeps", "CAM_FRONT")
    lidar = next(r for r in everything if r.channel == "LIDAR_TOP")
    assert lidar.K is None and lidar.size == (0, 0)


def test_rows_are_the_same_however_the_file_is_cut(template, monkeypatch):
    path = template / "v1.0-mini" / "sample_data.json"
    rows = json.loads(path.read_text())
    for chunk in (700, 1024, 4093):
        monkeypatch.setattr(json_rows, "_CHUNK", chunk)
        assert list(iterate_rows(path)) == rows


def test_nanosecond_stamps_are_recognised_by_their_size(root):
    assert stamp_to_ns(1_532_402_927_647_951) == 1_532_402_927_647_951_000
    assert stamp_to_ns(1_561_645_825_002_790_000) == 1_561_645_825_002_790_000
    before = reader(root).frame(0).stamp_ns
    for table in ("sample", "sample_data"):
        edit_table(root, table, lambda rows: [r.update(timestamp=r["timestamp"] * 1000) for r in rows])
    assert reader(root).frame(0).stamp_ns == before


def write_gts(root: Path, **arrays) -> Path:
    path = root / "gts" / "scene-a" / "scene-a-0" / "labels.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.full((200, 200, 16), 17, np.uint8)
    grid[1, 2, 3] = 4
    content = {"semantics": grid, "mask_lidar": (grid == 4).astype(np.uint8), "mask_camera": np.ones_like(grid)}
    np.savez_compressed(path, **{**content, **arrays})
    return path


def test_ground_truth_where_present(root):
    write_gts(root)
    data = reader(root)
    labels = data.ground_truth(0)
    assert np.argwhere(labels.semantics != 17).tolist() == [[1, 2, 3]]
    assert labels.mask_lidar.sum() == 1 and labels.mask_camera.all()
    assert data.ground_truth(1) is None


# --- bad input ---


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"semantics": np.zeros((200, 200), np.uint8)}, r"semantics has shape \(200, 200\), expected \(200, 200, 16\)"),
        ({"semantics": np.zeros((200, 200, 16), np.int64)}, "semantics has dtype int64, expected uint8"),
        ({"semantics": np.full((200, 200, 16), 18, np.uint8)}, "class id 18"),
        ({"mask_camera": np.zeros((16, 200, 200), np.uint8)}, r"mask_camera has shape \(16, 200, 200\)"),
        ({"mask_lidar": np.full((200, 200, 16), 2, np.uint8)}, "mask_lidar holds value 2"),
        ({"mask_lidar": np.zeros((200, 200, 16), np.float32)}, "mask_lidar has dtype float32"),
        ({"semantics": np.array([None])}, "not a readable npz"),
    ],
)
def test_wrong_ground_truth_is_named(root, arrays, message):
    path = write_gts(root, **arrays)
    with pytest.raises(ValueError, match=message) as error:
        reader(root).ground_truth(0)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("table", ["scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor"])
def test_missing_table_is_named(root, table):
    (root / "v1.0-mini" / f"{table}.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"tables {table}\.json are missing"):
        reader(root)


def test_missing_root_and_versions(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        reader(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="has no v1.0-trainval folder.*v1.0-mini"):
        reader(root, version="v1.0-trainval")
    with pytest.raises(FileNotFoundError, match=r"has no v1\.0-\* folder"):
        reader(root / "samples")
    (root / "v1.0-test").mkdir()
    with pytest.raises(ValueError, match="several versions.*v1.0-mini.*v1.0-test"):
        reader(root)
    assert len(reader(root, version="v1.0-mini")) == 14
    arguments = ["statistics", "none", "--data", str(root), "--out", "out", "--data-version"]
    assert len(dataset(parser().parse_args([*arguments, "v1.0-mini"]), (32, 18))) == 14
    with pytest.raises(FileNotFoundError, match="tables scene.json"):
        dataset(parser().parse_args([*arguments, "v1.0-test"]), (32, 18))


def test_unknown_scene_lists_the_known(root):
    with pytest.raises(ValueError, match="scene-x.*known: scene-a, scene-b"):
        reader(root, scenes=["scene-x"])
    with pytest.raises(ValueError, match="'scene-x' is not among"):
        next(reader(root).sensor_records("scene-x"))


def cut(path: Path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


TABLE_FAULTS = {
    "cut off": (lambda r: cut(r / "v1.0-mini/sample_data.json", 0.7), "sample_data.json is broken or cut off after"),
    "not an array": (lambda r: (r / "v1.0-mini/scene.json").write_text("{}"), r"does not start with '\['"),
    "rows are no objects": (lambda r: (r / "v1.0-mini/scene.json").write_text("[1, 2]"), "row 0 is a int"),
    "field missing": (
        lambda r: edit_table(r, "sample_data", lambda rows: rows[3].pop("filename")),
        "row 3 lacks 'filename'",
    ),
    "pose missing": (lambda r: edit_table(r, "ego_pose", lambda rows: rows.pop(0)), "lacks 1 poses"),
    "zero quaternion": (
        lambda r: edit_table(r, "calibrated_sensor", lambda rows: rows[1].update(rotation=[0, 0, 0, 0])),
        "calibrated_sensor.json: cs-CAM_FRONT: quaternion",
    ),
    "K of a wrong shape": (
        lambda r: edit_table(r, "calibrated_sensor", lambda rows: rows[1].update(camera_intrinsic=[[1, 2]])),
        "camera_intrinsic is",
    ),
    "link out of the scene": (
        lambda r: edit_table(r, "sample", lambda rows: rows[11].update(next="scene-b-0")),
        "scene-a-11 of scene-a links to scene-b-0",
    ),
    "two key frames": (
        lambda r: edit_table(r, "sample_data", lambda rows: rows.append({**rows[0], "token": "again"})),
        "has two key frames of CAM_FRONT_LEFT",
    ),
}


@pytest.mark.parametrize("fault", TABLE_FAULTS)
def test_broken_tables_are_refused(root, fault):
    damage, message = TABLE_FAULTS[fault]
    damage(root)
    with pytest.raises(ValueError, match=message):
        reader(root)


FRAME_FAULTS = {
    "image missing": (lambda r: first(r, "CAM_BACK").unlink(), FileNotFoundError, "image .*CAM_BACK.* is missing"),
    "image empty": (lambda r: first(r, "CAM_BACK").write_bytes(b""), ValueError, "cannot be decoded"),
    "image no image": (lambda r: first(r, "CAM_BACK").write_bytes(b"hello"), ValueError, "cannot be decoded"),
    "image cut off": (lambda r: cut(first(r, "CAM_BACK"), 0.6), ValueError, "is cut off"),
    "image of another size": (
        lambda r: cv2.imwrite(str(first(r, "CAM_BACK")), np.zeros((10, 20, 3), np.uint8)),
        ValueError,
        "is 20x10, sample_data states 64x36",
    ),
    "sweep missing": (lambda r: first(r, "LIDAR_TOP").unlink(), FileNotFoundError, "LiDAR sweep .* is missing"),
    "sweep cut off": (lambda r: cut(first(r, "LIDAR_TOP"), 0.9), ValueError, "has 72 bytes.* multiple of 20"),
    "sweep empty": (lambda r: first(r, "LIDAR_TOP").write_bytes(b""), ValueError, "has 0 bytes"),
    "sweep not finite": (
        lambda r: np.full(5, np.nan, np.float32).tofile(first(r, "LIDAR_TOP")),
        ValueError,
        "1 of 1 points are not finite",
    ),
    "lidarseg of another length": (
        lambda r: cut(r / "lidarseg/v1.0-mini/scene-a-0-LIDAR_TOP_lidarseg.bin", 0.5),
        ValueError,
        "has 2 ids, its sweep .* 4 points",
    ),
    "lidarseg missing": (
        lambda r: (r / "lidarseg/v1.0-mini/scene-a-0-LIDAR_TOP_lidarseg.bin").unlink(),
        FileNotFoundError,
        "lidarseg .* is missing",
    ),
    "lidarseg id unknown": (
        lambda r: np.array([1, 2, 3, 77], np.uint8).tofile(r / "lidarseg/v1.0-mini/scene-a-0-LIDAR_TOP_lidarseg.bin"),
        ValueError,
        r"has ids \[77\] that category.json does not name",
    ),
    "category without index": (
        lambda r: edit_table(r, "category", lambda rows: rows[5].pop("index")),
        ValueError,
        "category.json has categories without 'index'",
    ),
    "category missing": (
        lambda r: (r / "v1.0-mini/category.json").unlink(),
        FileNotFoundError,
        "table .*category.json is missing",
    ),
    "camera without intrinsics": (
        lambda r: edit_table(r, "calibrated_sensor", lambda rows: rows[1].update(camera_intrinsic=[])),
        ValueError,
        "CAM_FRONT of sample scene-a-0 has an empty camera_intrinsic",
    ),
}


@pytest.mark.parametrize("fault", FRAME_FAULTS)
def test_broken_samples_are_refused_and_others_stay_readable(root, fault):
    damage, kind, message = FRAME_FAULTS[fault]
    damage(root)
    data = reader(root)
    with pytest.raises(kind, match=message):
        data.frame(0)
    if "category" not in fault and "intrinsics" not in fault:
        assert len(data.frame(1).labels) == 12


# --- the real recordings ---


def shared(name: str) -> Path:
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("GSRENDER_SHARED_DATA", default)) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set GSRENDER_SHARED_DATA to the folder of real recordings")
    return folder


@pytest.mark.parametrize("name, frames", [("nuscenes_keyframe", 1), ("ddad_three_frames", 3)])
def test_real_recordings_read(name, frames):
    data = NuScenes(shared(name))
    assert len(data) == frames and data.skipped == {}
    assert data.adjacent(0, 1) == (1 if frames > 1 else None)
    assert len(data.ray_origins(0)) == frames and data.ground_truth(0) is None
    frame = data.frame(frames - 1)
    assert frame.images.shape == (6, 3, 256, 704) and frame.images.std() > 20
    assert np.bincount(frame.labels.camera, minlength=6).min() > 1000
    # Road lies on the ground (z about 0 of the ego frame), seen through each camera's own pose.
    road = frame.labels.select(frame.labels.class_id == class_id("driveable_surface"))
    points = []
    for c in range(6):
        at = road.select(road.camera == c)
        homogeneous = np.c_[at.uv, np.ones(len(at))] @ np.linalg.inv(frame.Ks[c]).T
        points.append(apply(frame.T_ego_cam[c], homogeneous * at.depth_m[:, None]))
    near = np.concatenate(points)
    near = near[np.hypot(near[:, 0], near[:, 1]) < 15]
    assert len(near) > 2000 and abs(np.median(near[:, 2])) < 0.3


def test_real_stamps_lie_in_order_and_close_together():
    for name, seconds in (("nuscenes_keyframe", 0.05), ("ddad_three_frames", 0.3)):
        data = NuScenes(shared(name))
        stamps = [r.stamp_ns for r in data.sensor_records(data.scene_names[0])]
        assert stamps == sorted(stamps) and (stamps[-1] - stamps[0]) / 1e9 < seconds


def test_real_camera_poses_are_at_their_own_stamps():
    root = shared("nuscenes_keyframe")
    data = NuScenes(root)
    frame = data.frame(0, labels=False)
    poses = {r["token"]: r for r in json.loads((root / "v1.0-mini/ego_pose.json").read_text())}
    mountings = {r["token"]: r for r in json.loads((root / "v1.0-mini/calibrated_sensor.json").read_text())}
    rows = {r["filename"].split("/")[1]: r for r in json.loads((root / "v1.0-mini/sample_data.json").read_text())}
    probe = np.array([1.0, -2.0, 12.0])  # camera frame
    moved = []
    for c, channel in enumerate(frame.camera_names):
        point = probe
        for row in (mountings[rows[channel]["calibrated_sensor_token"]], poses[rows[channel]["ego_pose_token"]]):
            point = rotation_from_quaternion(row["rotation"]) @ point + row["translation"]
        lidar = poses[rows["LIDAR_TOP"]["ego_pose_token"]]
        expected = rotation_from_quaternion(lidar["rotation"]).T @ (point - lidar["translation"])
        np.testing.assert_allclose(apply(frame.T_ego_cam[c], probe), expected, atol=1e-6)
        mounting = mountings[rows[channel]["calibrated_sensor_token"]]["translation"]
        moved.append(np.linalg.norm(frame.T_ego_cam[c, :3, 3] - mounting))
    assert 0.3 < max(moved) < 0.45  # the documented ego motion of up to 0.40 m


def test_real_boxes_hold_as_many_points_as_annotated():
    root = shared("nuscenes_keyframe")
    data = NuScenes(root)
    points, ids, T_ego_lidar = data.lidar(0)
    assert points.shape == (34688, 5) and len(ids) == 34688
    T_global_lidar = data.frame(0, labels=False).T_global_ego @ T_ego_lidar
    points_global = apply(T_global_lidar, points[:, :3].astype(np.float64))
    counted, annotated = [], []
    for box in data.tables.rows("sample_annotation", "translation", "size", "rotation", "num_lidar_pts"):
        translation, (width, length, height), rotation, number = box
        local = apply(inverse(transform(rotation, translation)), points_global)
        counted.append(int((np.abs(local) <= np.array([length, width, height]) / 2).all(axis=1).sum()))
        annotated.append(number)
    counted, annotated = np.array(counted), np.array(annotated)
    assert len(counted) == 68 and annotated.sum() > 500
    assert abs(counted.sum() - annotated.sum()) <= 0.05 * annotated.sum()
    assert (np.abs(counted - annotated) <= np.maximum(1, 0.1 * annotated)).all()
