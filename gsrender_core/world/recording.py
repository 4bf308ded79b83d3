"""Recording of one scene: runs its clock, takes every image, sweep and label, and lists the table rows."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from gsrender_core.classes import LIDARSEG_NAMES
from gsrender_core.geometry import inverse, quaternion_from_rotation, transform
from gsrender_core.world import occupancy_labels, rig
from gsrender_core.world.scene import DrivingScene
from gsrender_core.world.sensors import Exposure, render_camera, sweep_lidar

VERSION = "v1.0-mini"
EPOCH_US = 1_700_000_000_000_000  # first keyframe of scene 0
SCENE_GAP_US = 600_000_000
JPEG_QUALITY = 92


@dataclass(frozen=True)
class WorldSpec:
    """What to generate: number of scenes and keyframes a scene, seed, image (width, height) px, sweeps or not."""

    scenes: int
    frames: int
    seed: int
    image_size: tuple[int, int] = (704, 256)
    sweeps: bool = False


def token(*parts) -> str:
    """Deterministic 32-character hexadecimal token of anything printable."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def scene_name(index: int) -> str:
    return f"scene-{index:04d}"


def shared_token(spec: WorldSpec, table: str, name: str) -> str:
    """Token of a row that all scenes share: a sensor, its calibration, a category, ..."""
    return token(spec.seed, table, name)


def pose_row(T: np.ndarray) -> dict:
    """``translation`` [m] and ``rotation`` (wxyz) of a transform, as nuScenes stores them."""
    return {"translation": T[:3, 3].tolist(), "rotation": quaternion_from_rotation(T[:3, :3]).tolist()}


@dataclass
class SceneRecorder:
    """Writes one scene's files under ``out`` and collects its rows, table by table."""

    out: Path
    spec: WorldSpec
    index: int
    rows: dict[str, list] = field(default_factory=dict)
    occ3d: dict = field(default_factory=dict)

    def record(self) -> dict:
        """Record the scene; returns ``{"tables": {table: rows}, "occ3d": {sample token: info}}``."""
        spec = self.spec
        self.scene = DrivingScene(spec.seed, self.index, (spec.frames - 1) * rig.KEYFRAME_PERIOD_US * 1e-6)
        self.start_us = EPOCH_US + self.index * SCENE_GAP_US
        self.samples = [token(spec.seed, self.index, "sample", n) for n in range(spec.frames)]
        self.T_ego_cam = [transform(c.rotation, c.translation) for c in rig.CAMERAS]
        self.K = [rig.intrinsics(c, spec.image_size) for c in rig.CAMERAS]
        self.seen_by: dict[int, list] = {}
        for n in range(spec.frames):
            self._keyframe(n)
        if spec.sweeps:
            self._sweeps()
        self._link_sample_data()
        self._annotations()
        scene_token = token(spec.seed, self.index, "scene")
        for n, sample in enumerate(self.samples):
            self._add(
                "sample",
                {
                    "token": sample,
                    "timestamp": self._stamp(n),
                    **self._neighbours(self.samples, n),
                    "scene_token": scene_token,
                },
            )
        self._add(
            "scene",
            {
                "token": scene_token,
                "log_token": shared_token(spec, "log", "log"),
                "nbr_samples": spec.frames,
                "first_sample_token": self.samples[0],
                "last_sample_token": self.samples[-1],
                "name": scene_name(self.index),
                "description": "synthetic street",
            },
        )
        return {"tables": self.rows, "occ3d": self.occ3d}

    def _add(self, table: str, row: dict):
        self.rows.setdefault(table, []).append(row)

    def _stamp(self, n: int) -> int:
        return self.start_us + n * rig.KEYFRAME_PERIOD_US

    @staticmethod
    def _neighbours(tokens: list[str], n: int) -> dict:
        return {"prev": tokens[n - 1] if n else "", "next": tokens[n + 1] if n + 1 < len(tokens) else ""}

    def _file(self, folder: str, channel: str, stamp_us: int, suffix: str) -> str:
        name = f"{folder}/{channel}/synthetic-{self.spec.seed:04d}-{self.index:04d}__{channel}__{stamp_us}{suffix}"
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        return name

    def _sample_data(self, channel: str, stamp_us: int, sample: str, filename: str, key: bool) -> str:
        """Add the ``ego_pose`` and ``sample_data`` rows of one recording; returns its token."""
        spec = self.spec
        row = token(spec.seed, self.index, "sample_data", channel, stamp_us)
        T = self.scene.ego_pose((stamp_us - self.start_us) * 1e-6)
        self._add("ego_pose", {"token": row, "timestamp": stamp_us, **pose_row(T)})
        camera = filename.endswith(".jpg")
        width, height = spec.image_size if camera else (0, 0)
        self._add(
            "sample_data",
            {
                "token": row,
                "sample_token": sample,
                "ego_pose_token": row,
                "calibrated_sensor_token": shared_token(spec, "calibrated_sensor", channel),
                "timestamp": stamp_us,
                "fileformat": "jpg" if camera else "pcd",
                "is_key_frame": key,
                "height": height,
                "width": width,
                "filename": filename,
                "prev": "",
                "next": "",
            },
        )
        return row

    def _camera(self, number: int, stamp_us: int, sample: str, key: bool) -> dict:
        camera, scene = rig.CAMERAS[number], self.scene
        time_s = (stamp_us - self.start_us) * 1e-6
        T_global_ego = scene.ego_pose(time_s)
        noise = np.random.default_rng([self.spec.seed, self.index, number, 7])
        exposure = Exposure(
            scene.exposure * scene.camera_gain[number],
            scene.white_balance,
            noise.uniform(0.02, 0.05),
            noise.uniform(0.35, 0.6),
            int(token(self.spec.seed, stamp_us, number)[:7], 16),
        )
        image, _, _ = render_camera(
            scene.at(time_s), self.K[number], T_global_ego @ self.T_ego_cam[number], self.spec.image_size, exposure
        )
        filename = self._file("samples" if key else "sweeps", camera.channel, stamp_us, ".jpg")
        if not cv2.imwrite(str(self.out / filename), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]):
            raise OSError(f"could not write {self.out / filename}; check the disk")
        self._sample_data(camera.channel, stamp_us, sample, filename, key)
        return {
            "img_path": filename,
            "intrinsic": self.K[number].tolist(),
            "extrinsic": {"translation": list(camera.translation), "rotation": list(camera.rotation)},
            "ego_pose": pose_row(T_global_ego),
        }

    def _lidar(self, stamp_us: int, sample: str, key: bool):
        """Take and write one sweep; returns its ``Sweep`` and sample_data token."""
        time_s = (stamp_us - self.start_us) * 1e-6
        moment, T_global_ego = self.scene.at(time_s), self.scene.ego_pose(time_s)
        sweep = sweep_lidar(moment, T_global_ego, int(token(self.spec.seed, stamp_us, "lidar")[:7], 16))
        filename = self._file("samples" if key else "sweeps", rig.LIDAR_CHANNEL, stamp_us, ".pcd.bin")
        sweep.points.tofile(self.out / filename)
        row = self._sample_data(rig.LIDAR_CHANNEL, stamp_us, sample, filename, key)
        return sweep, row, moment, T_global_ego

    def _keyframe(self, n: int):
        stamp, sample = self._stamp(n), self.samples[n]
        cameras = {c.channel: self._camera(i, stamp - c.lead_us, sample, True) for i, c in enumerate(rig.CAMERAS)}
        sweep, row, moment, T_global_ego = self._lidar(stamp, sample, True)
        seg_file = f"lidarseg/{VERSION}/{row}_lidarseg.bin"
        sweep.seg.tofile(self.out / seg_file)
        self._add("lidarseg", {"token": row, "sample_data_token": row, "filename": seg_file})
        self._count_points(n, sweep)
        self._occupancy(n, cameras, (sweep, moment, T_global_ego))

    def _occupancy(self, n: int, cameras: dict, capture):
        sweep, moment, T_global_ego = capture
        labels = occupancy_labels.semantics(moment, T_global_ego)
        mask_camera, mask_lidar = np.zeros_like(labels), np.zeros_like(labels)
        surface = occupancy_labels.surface_points(labels)
        for i, camera in enumerate(rig.CAMERAS):
            # Each camera looks from where it was at its own stamp, expressed in the LiDAR-stamp ego.
            T_global_then = self.scene.ego_pose((self._stamp(n) - camera.lead_us - self.start_us) * 1e-6)
            T_ego_cam = inverse(T_global_ego) @ T_global_then @ self.T_ego_cam[i]
            view = occupancy_labels.View(self.K[i], T_ego_cam, self.spec.image_size)
            ends = np.concatenate([view.pixel_ray_ends(), view.surface_ray_ends(surface)])
            occupancy_labels.observe(labels, T_ego_cam[:3, 3], ends, mask_camera)
        T_ego_lidar = transform(rig.LIDAR_ROTATION, rig.LIDAR_TRANSLATION)
        beams = sweep.points[sweep.seg != LIDARSEG_NAMES.index("vehicle.ego"), :3]
        ends = occupancy_labels.move(T_ego_lidar, beams.astype(np.float64))
        occupancy_labels.observe(labels, T_ego_lidar[:3, 3], ends, mask_lidar)
        path = f"gts/{scene_name(self.index)}/{self.samples[n]}/labels.npz"
        (self.out / path).parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(self.out / path, semantics=labels, mask_lidar=mask_lidar, mask_camera=mask_camera)
        self.occ3d[self.samples[n]] = {
            "timestamp": self._stamp(n),
            "camera_sensor": cameras,
            "ego_pose": pose_row(T_global_ego),
            "gt_path": path,
            **self._neighbours(self.samples, n),
        }

    def _sweeps(self):
        """Recordings between keyframes: cameras at 12 Hz, LiDAR at 20 Hz, filed under the next keyframe."""
        for n in range(1, self.spec.frames):
            first, last = self._stamp(n - 1), self._stamp(n)
            for i, camera in enumerate(rig.CAMERAS):
                for stamp in range(
                    first + rig.CAMERA_PERIOD_US, last - rig.CAMERA_PERIOD_US // 2, rig.CAMERA_PERIOD_US
                ):
                    self._camera(i, stamp - camera.lead_us, self.samples[n], False)
            for stamp in range(first + rig.LIDAR_PERIOD_US, last, rig.LIDAR_PERIOD_US):
                self._lidar(stamp, self.samples[n], False)

    def _link_sample_data(self):
        """Chain each channel's recordings in time by prev and next."""
        rows = sorted(self.rows["sample_data"], key=lambda r: r["timestamp"])
        by_sensor: dict[str, list] = {}
        for row in rows:
            by_sensor.setdefault(row["calibrated_sensor_token"], []).append(row)
        for chain in by_sensor.values():
            for before, after in zip(chain, chain[1:], strict=False):
                before["next"], after["prev"] = after["token"], before["token"]

    def _count_points(self, n: int, sweep):
        """Remember which instances this keyframe's sweep hit, and how often."""
        hit = sweep.instance[sweep.instance >= 0]
        for number, count in zip(*np.unique(hit, return_counts=True), strict=True):
            self.seen_by.setdefault(int(number), []).append((n, int(count)))

    def _annotations(self):
        """Boxes of every instance in every keyframe whose sweep hit it."""
        for number, sightings in sorted(self.seen_by.items()):
            instance = self.scene.instances[number]
            length, width, height = instance.size
            tokens = [token(self.spec.seed, self.index, "annotation", number, n) for n, _ in sightings]
            instance_token = token(self.spec.seed, self.index, "instance", number)
            for i, (n, count) in enumerate(sightings):
                T = self.scene.instance_pose(number, n * rig.KEYFRAME_PERIOD_US * 1e-6).copy()
                T[:3, 3] += T[:3, 2] * height / 2
                self._add(
                    "sample_annotation",
                    {
                        "token": tokens[i],
                        "sample_token": self.samples[n],
                        "instance_token": instance_token,
                        "visibility_token": "4",
                        "attribute_tokens": self._attributes(instance),
                        **pose_row(T),
                        "size": [width + 0.12, length + 0.12, height + 0.12],
                        **self._neighbours(tokens, i),
                        "num_lidar_pts": count,
                        "num_radar_pts": 0,
                    },
                )
            self._add(
                "instance",
                {
                    "token": instance_token,
                    "category_token": shared_token(self.spec, "category", instance.category),
                    "nbr_annotations": len(tokens),
                    "first_annotation_token": tokens[0],
                    "last_annotation_token": tokens[-1],
                },
            )

    def _attributes(self, instance) -> list[str]:
        if instance.category.startswith(("vehicle.bicycle", "vehicle.motorcycle")):
            name = "cycle.with_rider" if instance.moving else "cycle.without_rider"
        elif instance.category.startswith("vehicle"):
            name = "vehicle.moving" if instance.moving else "vehicle.parked"
        elif instance.category.startswith("human.pedestrian"):
            name = "pedestrian.moving" if instance.moving else "pedestrian.standing"
        else:
            return []
        return [shared_token(self.spec, "attribute", name)]


ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
