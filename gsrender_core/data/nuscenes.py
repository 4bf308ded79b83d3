"""Reader of nuScenes-schema data sets: keyframes become ``Frame``."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gsrender_core.classes import IGNORE, lidarseg_lookup
from gsrender_core.data.frame import Frame, PixelLabels
from gsrender_core.data.image_fit import ImageFit, fit_image
from gsrender_core.data.lidar_labels import CameraView, LabelOptions, held_out_points, on_own_vehicle, pixel_labels
from gsrender_core.data.nuscenes_tables import CAMERA_CHANNELS, LIDAR_CHANNEL, NuScenesTables, SensorRecord, scene_names
from gsrender_core.data.occ3d_annotations import Occ3DAnnotations, scenes_of_split
from gsrender_core.data.occ3d_labels import Occ3DLabels, read_occ3d_labels
from gsrender_core.data.sensor_files import read_image, read_sweep
from gsrender_core.geometry import apply, inverse

logger = logging.getLogger(__name__)

# RayIoU casts from LiDAR positions near enough to the reference ego, and from eight at most.
ORIGIN_LIMIT_M = 39.0
MAX_ORIGINS = 8


class NuScenes:
    """Keyframes of a data set in the nuScenes v1.0 schema, in order of scene and time.

    Args:
        root: the folder that holds ``v1.0-*``, ``samples`` and, where present, ``lidarseg``, ``gts`` and Occ3D's
            ``annotations.json``.
        image_size: width and height of the frames' images, px; see ``fit_image``.
        version: as ``v1.0-trainval``; default the only one present.
        scenes: names of the scenes to read; default all.
        cameras: channels, in the order of the frames' arrays.
        label_options: what becomes a label.
        split: ``train`` or ``val`` of Occ3D's annotations.json, instead of or together with ``scenes``.

    Raises:
        FileNotFoundError, ValueError: missing, broken or inconsistent tables, an unknown scene, no
            complete sample; a split without annotations.json.
    """

    def __init__(
        self,
        root: Path,
        image_size: tuple[int, int] = (704, 256),
        version: str | None = None,
        scenes: Sequence[str] | None = None,
        cameras: Sequence[str] = CAMERA_CHANNELS,
        label_options: LabelOptions | None = None,
        split: str | None = None,
    ):
        self.root = Path(root)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.cameras = tuple(cameras)
        self.label_options = label_options or LabelOptions()
        self.annotations = Occ3DAnnotations(self.root)
        if split is not None:
            known = list(scene_names(self.root, version))
            scenes = scenes_of_split(self.annotations, split, known, scenes)
            logger.info("%s: %d of %d scenes are in the %s split", self.root, len(scenes), len(known), split)
        self.tables = NuScenesTables(self.root, version, scenes, (*self.cameras, LIDAR_CHANNEL))
        self.skipped: dict[str, list[str]] = {}
        complete = []
        for token in self.tables.samples:
            missing = [c for c in (*self.cameras, LIDAR_CHANNEL) if self.tables.record(token, c) is None]
            if missing:
                self.skipped.setdefault(f"no key frame of {', '.join(missing)}", []).append(token)
            else:
                complete.append(token)
        for reason, tokens in self.skipped.items():
            logger.warning(
                "%s: %d of %d samples skipped, %s; first %s",
                self.root, len(tokens), len(self.tables.samples), reason, tokens[0],
            )  # fmt: skip
        if not complete:
            counts = {reason: len(tokens) for reason, tokens in self.skipped.items()}
            raise ValueError(
                f"{self.root} has no complete sample in {self.tables.version}; skipped: {counts or 'none'}"
            )
        self.tokens: tuple[str, ...] = tuple(complete)
        self._index = {token: i for i, token in enumerate(complete)}
        self._lidarseg: tuple[dict[int, str], np.ndarray] | None = None
        self._warned_of_no_lidarseg = self._warned_of_no_gt = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def scene_names(self) -> tuple[str, ...]:
        """Scenes that were read, in order."""
        return self.tables.scene_names

    def scene_of(self, i: int) -> str:
        """Name of the scene of sample ``i``."""
        return self.tables.samples[self.tokens[i]].scene

    def indices_of(self, scene: str) -> list[int]:
        """Samples of a scene, in time order."""
        return [self._index[s.token] for s in self.tables.samples_of(scene) if s.token in self._index]

    def sensor_records(self, scene: str, include_sweeps: bool = False):
        """Every measurement of a scene in time order, see ``NuScenesTables.sensor_records``."""
        return self.tables.sensor_records(scene, include_sweeps)

    def adjacent(self, i: int, k: int) -> int | None:
        """The sample ``k`` keyframes after ``i`` (before, where ``k`` < 0), in the same scene.

        None beyond the scene's ends, and where that very sample was skipped: its neighbour is no substitute.
        """
        sample = self.tables.samples[self.tokens[i]]
        for _ in range(abs(k)):
            link = sample.next if k > 0 else sample.prev
            if not link:
                return None
            sample = self.tables.samples[link]
        return self._index.get(sample.token)

    def frame(self, i: int, labels: bool = True) -> Frame:
        """Read sample ``i``.

        Args:
            i: index of the sample.
            labels: also project the LiDAR points; their classes are ``IGNORE`` where the data set has
                no lidarseg for the sample.

        Raises:
            FileNotFoundError, ValueError: a missing, cut off or inconsistent image, sweep or lidarseg.
        """
        token = self.tokens[i]
        lidar = self._record(token, LIDAR_CHANNEL)
        fits, Ks, T_ego_cam = self._cameras(token)
        images = [
            fit(read_image(self._record(token, channel))).transpose(2, 0, 1)
            for fit, channel in zip(fits, self.cameras, strict=True)
        ]
        return Frame(
            images=np.stack(images),
            Ks=Ks,
            T_ego_cam=T_ego_cam,
            T_global_ego=lidar.T_global_ego,
            stamp_ns=lidar.stamp_ns,
            camera_names=self.cameras,
            token=token,
            scene=self.scene_of(i),
            labels=self._labels(token, T_ego_cam, Ks) if labels else None,
        )

    def frame_without_images(self, i: int) -> Frame:
        """As ``frame`` with labels, but its images have no pixels (uint8 [C, 3, 0, 0]): none is read or decoded."""
        token = self.tokens[i]
        lidar = self._record(token, LIDAR_CHANNEL)
        _, Ks, T_ego_cam = self._cameras(token)
        return Frame(
            images=np.zeros((len(self.cameras), 3, 0, 0), np.uint8),
            Ks=Ks,
            T_ego_cam=T_ego_cam,
            T_global_ego=lidar.T_global_ego,
            stamp_ns=lidar.stamp_ns,
            camera_names=self.cameras,
            token=token,
            scene=self.scene_of(i),
            labels=self._labels(token, T_ego_cam, Ks),
        )

    def held_out_labels(self, i: int) -> PixelLabels:
        """Labels of the points of sample ``i`` that ``LabelOptions.hold_out`` keeps from its frame's labels.

        Raises:
            FileNotFoundError, ValueError: as ``frame``; nothing is held out.
        """
        if self.label_options.hold_out == 0:
            raise ValueError("no LiDAR points are held out; read the data with LabelOptions(hold_out=...) above 0")
        _, Ks, T_ego_cam = self._cameras(self.tokens[i])
        return self._labels(self.tokens[i], T_ego_cam, Ks, held_out=True)

    def lidar(self, i: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """The sweep of sample ``i``.

        Returns:
            points float32 [N, 5] (``read_sweep``), raw lidarseg ids uint8 [N] or None where the data
            set has none, and ``T_ego_lidar`` float64 [4, 4].
        """
        lidar = self._record(self.tokens[i], LIDAR_CHANNEL)
        return (*self._sweep(lidar), lidar.T_ego_sensor)

    def lidar_returns(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What the LiDAR measured: origins [N, 3] and points [N, 3] float64, m, ego frame, and classes or None.

        The own vehicle's points are left out. Classes uint8 [N], 255 where unknown; None without lidarseg.
        """
        lidar = self._record(self.tokens[i], LIDAR_CHANNEL)
        points, classes, own = self._points(lidar)
        keep = ~(own | on_own_vehicle(points))
        points = points[keep]
        origins = np.broadcast_to(lidar.T_ego_sensor[:3, 3], points.shape)
        return origins, points, None if self.tables.lidarseg_file(lidar.token) is None else classes[keep]

    def ground_truth(self, i: int) -> Occ3DLabels | None:
        """Occ3D labels of sample ``i``, or None where there are none for it.

        Read from ``gts/<scene>/<token>/labels.npz``, or from where annotations.json says (``gt_path``).

        Raises:
            ValueError: the file is broken or has other shapes, dtypes or ids; a broken annotations.json.
        """
        token = self.tokens[i]
        path = self.root / "gts" / self.scene_of(i) / token / "labels.npz"
        if not path.is_file():
            listed = self.annotations.gt_path(token)
            if listed is None:
                return None
            path = self.root / listed
            if not path.is_file():
                if not self._warned_of_no_gt:
                    logger.warning(
                        "%s lists labels of sample %s in %s, which does not exist (more may be missing): such samples "
                        "count as without ground truth; unpack gts again", self.annotations.path, token, path,
                    )  # fmt: skip
                    self._warned_of_no_gt = True
                return None
        return read_occ3d_labels(path)

    def ray_origins(self, i: int) -> np.ndarray:
        """Where RayIoU casts from for sample ``i``: float64 [n, 3], m, ego frame at its LiDAR stamp.

        LiDAR positions of all keyframes of the scene, those with |x| and |y| < 39 m; of more than
        eight, eight spread evenly over the sequence (SparseOcc).
        """
        T_ego_global = inverse(self._record(self.tokens[i], LIDAR_CHANNEL).T_global_ego)
        records = (self.tables.record(s.token, LIDAR_CHANNEL) for s in self.tables.samples_of(self.scene_of(i)))
        positions_global = [(r.T_global_ego @ r.T_ego_sensor)[:3, 3] for r in records if r is not None]
        origins = apply(T_ego_global, np.array(positions_global))
        origins = origins[(np.abs(origins[:, :2]) < ORIGIN_LIMIT_M).all(axis=1)]
        if len(origins) > MAX_ORIGINS:
            origins = origins[np.round(np.linspace(0, len(origins) - 1, MAX_ORIGINS)).astype(np.int64)]
        return origins

    def _record(self, token: str, channel: str) -> SensorRecord:
        record = self.tables.record(token, channel)
        assert record is not None, (token, channel)  # incomplete samples were skipped
        return record

    def _sweep(self, lidar: SensorRecord) -> tuple[np.ndarray, np.ndarray | None]:
        points = read_sweep(lidar.filename)
        path = self.tables.lidarseg_file(lidar.token)
        if path is None:
            return points, None
        if not path.is_file():
            raise FileNotFoundError(f"lidarseg {path} is missing. Unpack the nuScenes-lidarseg archive.")
        ids = np.fromfile(path, dtype=np.uint8)
        if len(ids) != len(points):
            raise ValueError(
                f"lidarseg {path} has {len(ids)} ids, its sweep {lidar.filename} {len(points)} points. Copy both again."
            )
        return points, ids

    def _cameras(self, token: str) -> tuple[list[ImageFit], np.ndarray, np.ndarray]:
        """How each camera's image is fitted, and Ks [C, 3, 3] px and T_ego_cam [C, 4, 4] m of the fitted images."""
        lidar = self._record(token, LIDAR_CHANNEL)
        fits, T_ego_cam = [], []
        for channel in self.cameras:
            camera = self._record(token, channel)
            if camera.K is None:
                raise ValueError(f"{self.root}: {channel} of sample {token} has an empty camera_intrinsic")
            fits.append(fit_image(camera.size, camera.K, self.image_size))
            T_ego_cam.append(inverse(lidar.T_global_ego) @ camera.T_global_ego @ camera.T_ego_sensor)
        return fits, np.stack([fit.K for fit in fits]), np.stack(T_ego_cam)

    def _labels(self, token: str, T_ego_cam: np.ndarray, Ks: np.ndarray, held_out: bool = False) -> PixelLabels:
        points_ego, classes, own = self._points(self._record(token, LIDAR_CHANNEL))
        options = self.label_options
        held = held_out_points(token, len(points_ego), options.hold_out)
        if not options.renderocc_parity:
            keep = ~(own | on_own_vehicle(points_ego))
            points_ego, classes, held = points_ego[keep], classes[keep], held[keep]
        view = CameraView(T_ego_cam, Ks, self.image_size)
        return pixel_labels(points_ego, classes, held, view, options, held_out)

    def _points(self, lidar: SensorRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points of a sweep float64 [N, 3] in the ego frame, their classes, and which are annotated as own vehicle."""
        points, ids = self._sweep(lidar)
        points_ego = apply(lidar.T_ego_sensor, points[:, :3].astype(np.float64))
        if ids is None:
            if not self._warned_of_no_lidarseg:
                logger.warning(
                    "%s: no lidarseg for sample data %s: its labels carry depth, no class", self.root, lidar.token
                )
                self._warned_of_no_lidarseg = True
            return points_ego, np.full(len(points), IGNORE, dtype=np.uint8), np.zeros(len(points), dtype=bool)
        names, lookup = self._lidarseg_classes()
        unknown = sorted(set(np.unique(ids).tolist()) - names.keys())
        if unknown:
            path = self.tables.lidarseg_file(lidar.token)
            raise ValueError(f"lidarseg {path} has ids {unknown} that category.json does not name")
        return points_ego, lookup[ids], np.isin(ids, [n for n, name in names.items() if name == "vehicle.ego"])

    def _lidarseg_classes(self) -> tuple[dict[int, str], np.ndarray]:
        if self._lidarseg is None:
            names = self.tables.lidarseg_names()
            self._lidarseg = names, lidarseg_lookup(names, self.label_options.renderocc_parity)
        return self._lidarseg
