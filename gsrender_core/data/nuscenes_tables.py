"""nuScenes' v1.0 tables: read once, streamed, and only what is asked for is kept.

``sample_data`` and ``ego_pose`` of v1.0-trainval hold 2.6 million rows each; a whole-file parse takes
many gigabytes. Rows are decoded one at a time and dropped unless they belong to a wanted scene and channel.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gsrender_core.data.json_rows import iterate_rows
from gsrender_core.geometry import transform

# RenderOcc's camera order, left to right around the car.
CAMERA_CHANNELS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
LIDAR_CHANNEL = "LIDAR_TOP"
SWEEP_SCENES = 50  # whose sweeps are kept: about 1900 rows a scene of nuScenes, 0.1 GB in all
REQUIRED_TABLES = ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor")

# nuScenes stamps are microseconds (about 1.5e15). Some converters write nanoseconds (1.5e18) into the
# same field; read as microseconds those would lie after the year 5000, so the two cannot be confused.
_FIRST_NANOSECOND_STAMP = 10**17


class SampleRecord(NamedTuple):
    """One keyframe. ``prev`` and ``next`` are sample tokens, or '' at the ends of a scene."""

    token: str
    scene: str
    stamp_ns: int
    prev: str
    next: str


@dataclass(frozen=True)
class SensorRecord:
    """One measurement of one sensor, with the vehicle's pose at the sensor's own stamp.

    Attributes:
        channel: as ``CAM_FRONT`` or ``LIDAR_TOP``.
        stamp_ns: the sensor's own stamp.
        filename: absolute path of the image or sweep.
        T_global_ego: float64 [4, 4], metres, ego at ``stamp_ns``.
        T_ego_sensor: float64 [4, 4], metres, the mounting.
        K: float64 [3, 3] px of a camera, None for other sensors.
        token: sample_data token.
        sample_token: the keyframe that it belongs to, or is closest to.
        is_key_frame: False for sweeps.
        size: image width and height, (0, 0) for other sensors.
    """

    channel: str
    stamp_ns: int
    filename: Path
    T_global_ego: np.ndarray
    T_ego_sensor: np.ndarray
    K: np.ndarray | None
    token: str
    sample_token: str
    is_key_frame: bool
    size: tuple[int, int]

    @property
    def stamp_us(self) -> int:
        """The stamp in microseconds, rounded down."""
        return self.stamp_ns // 1000


class _Row(NamedTuple):
    token: str
    sample_token: str
    pose: str
    mounting: str
    timestamp: int
    is_key_frame: bool
    height: int
    width: int
    filename: str


class _Mounting(NamedTuple):
    channel: str
    T_ego_sensor: np.ndarray
    K: np.ndarray | None


def stamp_to_ns(timestamp: int) -> int:
    """Nanoseconds of a table's timestamp, which is in microseconds (nuScenes) or nanoseconds (by its size)."""
    timestamp = int(timestamp)
    return timestamp if timestamp >= _FIRST_NANOSECOND_STAMP else timestamp * 1000


def find_version(root: Path, version: str | None) -> str:
    """The version folder of a data set: ``version``, or the only ``v1.0-*`` there is.

    Raises:
        FileNotFoundError: no root, or no such version folder.
        ValueError: several versions and none chosen.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data set folder {root} does not exist")
    known = sorted(p.name for p in root.glob("v1.0-*") if p.is_dir())
    if version is None and len(known) > 1:
        raise ValueError(f"{root} holds several versions {known}; choose one with version= (--data-version)")
    if not known or version not in (None, *known):
        raise FileNotFoundError(
            f"{root} has no {version or 'v1.0-*'} folder with tables; versions there: {known or 'none'}. "
            "Point at the folder that holds samples/ and v1.0-*/."
        )
    return version or known[0]


def scene_names(root: Path, version: str | None = None) -> tuple[str, ...]:
    """Names of all scenes of a version, in table order; reads no other table.

    Raises:
        FileNotFoundError, ValueError: as ``find_version``; a missing or broken scene table.
    """
    path = Path(root) / find_version(Path(root), version) / "scene.json"
    names = tuple(row.get("name") for row in iterate_rows(path))
    if None in names:
        raise ValueError(f"{path}: row {names.index(None)} lacks 'name'")
    return names


class NuScenesTables:
    """Typed access to the tables of one version.

    Args:
        root: the folder that holds ``v1.0-*``, ``samples``, ...
        version: as ``v1.0-mini``; default the only one present.
        scenes: names of the scenes to keep; default all.
        channels: sensors to keep.

    Raises:
        FileNotFoundError, ValueError: a missing, broken or inconsistent table, an unknown scene.
    """

    def __init__(
        self,
        root: Path,
        version: str | None = None,
        scenes: Sequence[str] | None = None,
        channels: Sequence[str] = (*CAMERA_CHANNELS, LIDAR_CHANNEL),
    ):
        self.root = Path(root)
        self.version = find_version(self.root, version)
        self.channels = tuple(channels)
        missing = [t for t in REQUIRED_TABLES if not self._path(t).is_file()]
        if missing:
            names = ", ".join(f"{t}.json" for t in missing)
            raise FileNotFoundError(
                f"tables {names} are missing in {self.root / self.version}. Unpack the metadata archive."
            )
        self._scene_names = self._read_scenes(scenes)
        self.samples = self._read_samples()
        self._by_scene: dict[str, list[SampleRecord]] = {name: [] for name in self.scene_names}
        for sample in self.samples.values():
            self._by_scene[sample.scene].append(sample)
        self._mountings = self._read_mountings()
        self._key_frames: dict[tuple[str, str], _Row] = {}
        for row in self._sample_data(self.samples, key_frames_only=True):
            key = (row.sample_token, self._mountings[row.mounting].channel)
            if key in self._key_frames:
                raise ValueError(f"{self._path('sample_data')}: sample {key[0]} has two key frames of {key[1]}")
            self._key_frames[key] = row
        self._poses = self._read_poses({row.pose for row in self._key_frames.values()})
        self._lidarseg = self._read_lidarseg()
        self._sweeps: dict[str, list[_Row]] = {}  # by scene, of the scenes read last
        self._sweep_poses: dict[str, tuple] = {}

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Names of the kept scenes, in table order."""
        return tuple(self._scene_names.values())

    def samples_of(self, scene: str) -> list[SampleRecord]:
        """Keyframes of a scene in time order.

        Raises:
            ValueError: the scene is unknown or was not kept.
        """
        if scene not in self._by_scene:
            raise ValueError(f"scene {scene!r} is not among {_shorten(self.scene_names)}")
        return list(self._by_scene[scene])

    def record(self, sample_token: str, channel: str) -> SensorRecord | None:
        """The key frame of one sensor in one sample, or None where the tables have none."""
        row = self._key_frames.get((sample_token, channel))
        return None if row is None else self._record(row, self._poses)

    def sensor_records(self, scene: str, include_sweeps: bool = False) -> Iterator[SensorRecord]:
        """Every measurement of a scene's kept channels, in time order.

        Sweeps (the frames between key frames) are not read at the start: asking for them reads ``sample_data`` and
        ``ego_pose`` again, for the scene and those that follow it (``SWEEP_SCENES`` in all), which are kept.
        """
        tokens = {s.token for s in self.samples_of(scene)}
        if include_sweeps:
            if scene not in self._sweeps:
                self._read_sweeps(scene)
            rows, poses = self._sweeps[scene], self._sweep_poses
        else:
            rows = [row for row in self._key_frames.values() if row.sample_token in tokens]
            poses = self._poses
        rows = sorted(rows, key=lambda row: (stamp_to_ns(row.timestamp), self._mountings[row.mounting].channel))
        for row in rows:
            yield self._record(row, poses)

    def lidarseg_file(self, lidar_token: str) -> Path | None:
        """The file of point classes of a LiDAR sample_data token, or None where the data set has none."""
        name = self._lidarseg.get(lidar_token)
        return None if name is None else self.root / name

    def lidarseg_names(self) -> dict[int, str]:
        """``{lidarseg id: category name}`` of ``category.json``.

        Raises:
            ValueError: the categories carry no ``index`` (the table of plain nuScenes).
        """
        path = self._path("category")
        names = {row.get("index"): row.get("name") for row in iterate_rows(path)}
        if None in names or None in names.values():
            raise ValueError(
                f"{path} has categories without 'index' or 'name'; take category.json from nuScenes-lidarseg"
            )
        return {int(index): name for index, name in names.items()}

    def rows(self, table: str, *fields: str) -> Iterator[tuple]:
        """Yield the named fields (two or more) of every row of a table.

        Raises:
            ValueError: a row lacks a field.
        """
        path = self._path(table)
        pick = itemgetter(*fields)
        for count, row in enumerate(iterate_rows(path)):
            try:
                yield pick(row)
            except KeyError as error:
                raise ValueError(f"{path}: row {count} lacks {error}; it has {sorted(row)}") from error

    def _path(self, table: str) -> Path:
        return self.root / self.version / f"{table}.json"

    def _read_scenes(self, wanted: Sequence[str] | None) -> dict[str, str]:
        names = {token: name for token, name in self.rows("scene", "token", "name")}
        unknown = sorted(set(wanted or ()) - set(names.values()))
        if unknown:
            raise ValueError(f"scenes {unknown} are not in {self._path('scene')}; known: {_shorten(names.values())}")
        return {token: name for token, name in names.items() if wanted is None or name in wanted}

    def _read_samples(self) -> dict[str, SampleRecord]:
        order = {token: rank for rank, token in enumerate(self._scene_names)}
        rows = [
            (order[scene], stamp_to_ns(stamp), token, previous, following)
            for token, scene, stamp, previous, following in self.rows(
                "sample", "token", "scene_token", "timestamp", "prev", "next"
            )
            if scene in order
        ]
        names = self.scene_names
        samples = {t: SampleRecord(t, names[rank], ns, prev, nxt) for rank, ns, t, prev, nxt in sorted(rows)}
        for sample in samples.values():
            for link in (sample.prev, sample.next):
                if link and (link not in samples or samples[link].scene != sample.scene):
                    raise ValueError(
                        f"{self._path('sample')}: {sample.token} of {sample.scene} links to {link}, "
                        "which is not a sample of that scene"
                    )
        return samples

    def _read_mountings(self) -> dict[str, _Mounting]:
        channels = dict(self.rows("sensor", "token", "channel"))
        mountings = {}
        fields = ("token", "sensor_token", "translation", "rotation", "camera_intrinsic")
        for token, sensor, translation, rotation, intrinsic in self.rows("calibrated_sensor", *fields):
            if sensor not in channels:
                raise ValueError(f"{self._path('calibrated_sensor')}: {token} names unknown sensor {sensor}")
            if channels[sensor] not in self.channels:
                continue
            K = np.array(intrinsic, dtype=np.float64) if len(intrinsic) else None
            if K is not None and K.shape != (3, 3):
                raise ValueError(f"{self._path('calibrated_sensor')}: {token}: camera_intrinsic is {K.shape}, not 3x3")
            T = self._transform("calibrated_sensor", token, rotation, translation)
            mountings[token] = _Mounting(channels[sensor], T, K)
        return mountings

    def _sample_data(self, samples: Iterable[str], key_frames_only: bool) -> Iterator[_Row]:
        fields = ("token", "sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp")
        fields += ("is_key_frame", "height", "width", "filename")
        for values in self.rows("sample_data", *fields):
            row = _Row(*values)
            if row.sample_token in samples and row.mounting in self._mountings:
                if row.is_key_frame or not key_frames_only:
                    yield row

    def _read_sweeps(self, scene: str) -> None:
        """Keep every row of a scene and of the scenes after it, in table order, with their poses."""
        first = self.scene_names.index(scene)
        sweeps = {name: [] for name in self.scene_names[first : first + SWEEP_SCENES]}
        scene_of = {sample.token: name for name in sweeps for sample in self._by_scene[name]}
        for row in self._sample_data(scene_of, key_frames_only=False):
            sweeps[scene_of[row.sample_token]].append(row)
        self._sweep_poses = self._read_poses({row.pose for rows in sweeps.values() for row in rows})
        self._sweeps = sweeps

    def _read_poses(self, wanted: set[str]) -> dict[str, tuple]:
        rows = self.rows("ego_pose", "token", "rotation", "translation")
        poses = {token: (rotation, translation) for token, rotation, translation in rows if token in wanted}
        absent = wanted - poses.keys()
        if absent:
            raise ValueError(
                f"{self._path('ego_pose')} lacks {len(absent)} poses that sample_data names, as {sorted(absent)[0]}"
            )
        return poses

    def _read_lidarseg(self) -> dict[str, str]:
        if not self._path("lidarseg").is_file():
            return {}
        tokens = {row.token for row in self._key_frames.values()}
        files = self.rows("lidarseg", "sample_data_token", "filename")
        return {token: name for token, name in files if token in tokens}

    def _record(self, row: _Row, poses: dict[str, tuple]) -> SensorRecord:
        mounting = self._mountings[row.mounting]
        return SensorRecord(
            channel=mounting.channel,
            stamp_ns=stamp_to_ns(row.timestamp),
            filename=self.root / row.filename,
            T_global_ego=self._transform("ego_pose", row.pose, *poses[row.pose]),
            T_ego_sensor=mounting.T_ego_sensor,
            K=mounting.K,
            token=row.token,
            sample_token=row.sample_token,
            is_key_frame=bool(row.is_key_frame),
            size=(int(row.width or 0), int(row.height or 0)),
        )

    def _transform(self, table: str, token: str, rotation, translation) -> np.ndarray:
        try:
            T = transform(rotation, translation)
        except ValueError as error:
            raise ValueError(f"{self._path(table)}: {token}: {error}") from error
        if not np.isfinite(T).all():
            raise ValueError(f"{self._path(table)}: {token} has translation {translation}, expected finite metres")
        return T


def _shorten(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")
