"""The synthetic world as a data set: schema, agreement between its parts, determinism, refusals."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from gsrender_core.classes import IGNORE, LIDARSEG_NAMES, lidarseg_lookup
from gsrender_core.data.nuscenes import NuScenes
from gsrender_core.geometry import apply, inverse, project, transform
from gsrender_core.world import generate_world, rig
from gsrender_core.world.preview import draw_contact_sheet
from gsrender_core.world.scene import DrivingScene
from gsrender_core.world.sensors import Exposure, render_camera, sweep_lidar

SIZE = (176, 64)
KEYFRAME = Path(__file__).parents[2] / "../shared/data/nuscenes_keyframe/v1.0-mini"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    generate_world(out, scenes=1, frames=2, seed=11, image_size=SIZE, sweeps=False, workers=1)
    return out


def table(world, name):
    return json.loads((world / "v1.0-mini" / f"{name}.json").read_text())


def files_of(world):
    return {str(p.relative_to(world)): p.read_bytes() for p in sorted(world.rglob("*")) if p.is_file()}


def test_tables_refer_to_each_other_and_to_files(world):
    names = ("attribute calibrated_sensor category ego_pose instance lidarseg log map sample sample_annotation "
             "sample_data scene sensor visibility").split()  # fmt: skip
    tables = {n: table(world, n) for n in names}
    tokens = {n: {r["token"] for r in rows} for n, rows in tables.items()}
    for name, rows in tables.items():
        assert len(tokens[name]) == len(rows) and (name == "visibility" or all(len(t) == 32 for t in tokens[name]))
        for row in rows:
            for key, value in row.items():
                if key.endswith("_token") and key[:-6] in tables:
                    assert value in tokens[key[:-6]], (name, key)
                if key in ("prev", "next") and value:
                    assert value in tokens[name]
                if key == "filename":
                    assert (world / value).is_file()
    assert len(tables["sample"]) == 2 and len(tables["sample_data"]) == 14 and len(tables["lidarseg"]) == 2
    assert [c["name"] for c in sorted(tables["category"], key=lambda c: c["index"])] == list(LIDARSEG_NAMES)
    assert len(tables["sample_annotation"]) > 5
    assert table(world, "sample")[1]["timestamp"] - table(world, "sample")[0]["timestamp"] == 500_000
    infos = json.loads((world / "annotations.json").read_text())["scene_infos"]["scene-0000"]
    assert list(infos) == [s["token"] for s in tables["sample"]]
    assert all((world / info["gt_path"]).is_file() for info in infos.values())


def test_rig_is_the_real_one():
    if not KEYFRAME.is_dir():
        pytest.skip(f"{KEYFRAME} is not here")
    read = {n: json.loads((KEYFRAME / f"{n}.json").read_text()) for n in ("calibrated_sensor", "sensor", "sample_data")}
    calibrated = {r["sensor_token"]: r for r in read["calibrated_sensor"]}
    stamps = {r["calibrated_sensor_token"]: r["timestamp"] for r in read["sample_data"]}
    real = {s["channel"]: calibrated[s["token"]] for s in read["sensor"]}
    lidar_stamp = stamps[real["LIDAR_TOP"]["token"]]
    for camera in rig.CAMERAS:
        row = real[camera.channel]
        assert camera.lead_us == lidar_stamp - stamps[row["token"]]
        np.testing.assert_allclose(camera.translation, row["translation"], atol=1e-4)
        np.testing.assert_allclose(camera.rotation, row["rotation"], atol=1e-6)
        np.testing.assert_allclose(rig.intrinsics(camera, (1600, 900)), row["camera_intrinsic"], atol=1e-3)
    np.testing.assert_allclose(rig.LIDAR_TRANSLATION, real["LIDAR_TOP"]["translation"], atol=1e-4)


def test_flat_images_keep_the_bottom_rows():
    K = rig.intrinsics(rig.CAMERAS[0], (704, 256))
    assert K[0, 0] == pytest.approx(1266.4172 * 0.44) and K[1, 2] == pytest.approx(491.5071 * 0.44 - 140)
    with pytest.raises(ValueError, match="704x900"):
        rig.intrinsics(rig.CAMERAS[0], (704, 900))


def test_the_reader_reads_it(world):
    data = NuScenes(world, image_size=SIZE)
    assert len(data) == 2
    frame = data.frame(0)
    assert frame.images.shape == (6, 3, 64, 176)
    assert len(frame.labels) > 300 and (frame.labels.class_id != IGNORE).any()
    assert data.ground_truth(0) is not None


def test_lidar_points_lie_in_voxels_of_their_class(world):
    infos = json.loads((world / "annotations.json").read_text())["scene_infos"]["scene-0000"]
    T_ego_lidar = transform(rig.LIDAR_ROTATION, rig.LIDAR_TRANSLATION)
    seg_files = {r["sample_data_token"]: r["filename"] for r in table(world, "lidarseg")}
    for row in table(world, "sample_data"):
        if row["fileformat"] != "pcd":
            continue
        sweep = np.fromfile(world / row["filename"], np.float32).reshape(-1, 5)
        classes = lidarseg_lookup()[np.fromfile(world / seg_files[row["token"]], np.uint8)]
        assert 20_000 < len(sweep) <= 34_688 and len(classes) == len(sweep)
        assert sweep[:, 4].max() == 31 and sweep[:, 4].min() == 0
        elevation = np.rad2deg(np.arcsin(sweep[:, 2] / np.linalg.norm(sweep[:, :3], axis=1)))
        np.testing.assert_allclose(elevation, np.linspace(-30.67, 10.67, 32)[sweep[:, 4].astype(int)], atol=1e-3)
        far = np.linalg.norm(sweep[:, :3], axis=1) > 70
        assert far.mean() < 0.01
        with np.load(world / infos[row["sample_token"]]["gt_path"]) as gt:
            assert all(gt[k].shape == (200, 200, 16) and gt[k].dtype == np.uint8 for k in gt)
            index = np.floor((apply(T_ego_lidar, sweep[:, :3].astype(float)) + [40, 40, 1]) / 0.4).astype(int)
            inside = ((index >= 0) & (index < (200, 200, 16))).all(axis=1) & (classes != IGNORE)
            voxel = gt["semantics"][tuple(index[inside].T)]
            assert (voxel == classes[inside]).mean() > 0.85
            assert (voxel == 17).mean() < 0.05
            occupied = gt["semantics"] != 17
            for mask in ("mask_camera", "mask_lidar"):
                seen = gt[mask] > 0
                assert 1000 < (seen & occupied).sum() < occupied.sum()
            # What a camera or the LiDAR first meets is observed, free space before it too.
            assert (gt["mask_camera"] > 0).sum() > 20_000


def test_lidar_and_images_see_the_same_world():
    scene = DrivingScene(5, 1, 1.0)
    moment, T_global_ego = scene.at(0.4), scene.ego_pose(0.4)
    camera, size = rig.CAMERAS[0], (352, 198)
    K = rig.intrinsics(camera, size)
    T_global_cam = T_global_ego @ transform(camera.rotation, camera.translation)
    _, seg, depth = render_camera(moment, K, T_global_cam, size, Exposure(1.0, np.ones(3), 0.0, 0.0, 0))
    sweep = sweep_lidar(moment, T_global_ego, 3)
    own = sweep.seg == LIDARSEG_NAMES.index("vehicle.ego")
    points = apply(
        T_global_ego @ transform(rig.LIDAR_ROTATION, rig.LIDAR_TRANSLATION), sweep.points[~own, :3].astype(float)
    )
    pixels, z = project(K, apply(inverse(T_global_cam), points))
    inside = (z > 1) & (z < 50) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)
    u, v = pixels[inside].astype(int).T
    agree = np.abs(depth[v, u] - z[inside]) < 0.1 + 0.03 * z[inside]
    assert inside.sum() > 800
    # The rest are edges and what the two see past each other, from different places.
    assert agree.mean() > 0.85
    assert (seg[v, u] == sweep.seg[~own][inside])[agree].mean() > 0.95


def test_same_seed_same_bytes_and_an_interrupted_run_continues(world, tmp_path):
    wanted = files_of(world)
    interrupted = tmp_path / "again"
    shutil.copytree(world, interrupted)
    # As an interruption leaves it: the marker says incomplete, no tables, half a scene.
    marker = json.loads((interrupted / "synthetic_world.json").read_text())
    (interrupted / "synthetic_world.json").write_text(json.dumps({**marker, "complete": False}))
    shutil.rmtree(interrupted / "v1.0-mini")
    for path in [*interrupted.rglob("*.jpg"), *interrupted.rglob("*.bin"), *interrupted.rglob("*.npz")]:
        path.unlink()
    calls = []
    generate_world(interrupted, 1, 2, 11, SIZE, workers=1, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(1, 1)]
    again = files_of(interrupted)
    assert again.keys() == wanted.keys()
    assert [n for n in wanted if n.endswith((".jpg", ".bin", ".json")) and again[n] != wanted[n]] == []
    for name in (n for n in wanted if n.endswith(".npz")):
        with np.load(world / name) as a, np.load(interrupted / name) as b:
            assert all((a[k] == b[k]).all() for k in a)


def test_scenes_differ_in_layout():
    labels = []
    for seed, index in ((1, 0), (1, 1), (2, 0)):
        scene = DrivingScene(seed, index, 0.5)
        main = scene.layout.roads[0]
        labels.append(
            (
                round(main.half_width, 3),
                len(scene.layout.roads),
                len(scene.layout.ground.zone_seed),
                scene.ground.zone.shape,
            )
        )
    assert len(set(labels)) == 3


def test_actors_keep_their_distance_and_stand_on_the_ground():
    scene = DrivingScene(3, 0, 5.0)
    assert scene.actors
    for n, actor in enumerate(scene.actors):
        for time in (0.0, 2.5, 5.0):
            T = scene.actor_pose(n, time)
            x, y, _ = scene.ego_track.at(time)
            assert np.hypot(T[0, 3] - x, T[1, 3] - y) > 1.0 + actor.blueprint.size[1] / 2
            assert np.linalg.norm(T[:3, :3] @ T[:3, :3].T - np.eye(3)) < 1e-9
    with pytest.raises(ValueError, match="outside the track"):
        scene.ego_pose(60.0)
    step = np.linalg.norm(scene.ego_pose(2.05)[:3, 3] - scene.ego_pose(2.0)[:3, 3])
    assert step < 12.5 * 0.05


def test_refusals(world, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        generate_world(tmp_path, 1, 1, 0)
    assert (tmp_path / "letter.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match="another synthetic world"):
        generate_world(world, 1, 2, 12, SIZE)
    with pytest.raises(ValueError, match="frames is 0"):
        generate_world(tmp_path / "x", 1, 0, 0)
    with pytest.raises(ValueError, match="image size"):
        generate_world(tmp_path / "x", 1, 1, 0, image_size=(3200, 1800))
    assert not (tmp_path / "x").exists()


def test_preview_shows_everything(world, tmp_path):
    token = table(world, "sample")[0]["token"]
    draw_contact_sheet(world, token, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 3 * SIZE[0] and sheet.std() > 20
    with pytest.raises(ValueError, match="is not in"):
        draw_contact_sheet(world, "0" * 32, tmp_path / "none.png")


def test_sweeps_between_keyframes(tmp_path):
    generate_world(tmp_path / "w", 1, 2, 4, image_size=(64, 36), sweeps=True, workers=1)
    rows = table(tmp_path / "w", "sample_data")
    cameras = [r for r in rows if r["fileformat"] == "jpg" and not r["is_key_frame"]]
    lidar = sorted(r["timestamp"] for r in rows if r["fileformat"] == "pcd")
    assert len(cameras) == 6 * 5 and all(r["filename"].startswith("sweeps/") for r in cameras)
    assert len(lidar) == 11 and set(np.diff(lidar)) == {50_000}
