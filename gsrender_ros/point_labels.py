"""Classes of LiDAR points: from a field of the cloud, from label images, from a function of the user, or none."""

import importlib
from collections.abc import Callable

import numpy as np

from gsrender_core.bag_config import BagConfig
from gsrender_core.classes import IGNORE, LIDARSEG_NAMES, NUM_CLASSES, class_id, lidarseg_lookup
from gsrender_core.data.frame import PixelLabels
from gsrender_ros.image_fitting import AreaFit
from gsrender_ros.sweeps import SweepPoints

_OWN_VEHICLE_LIDARSEG = LIDARSEG_NAMES.index("vehicle.ego")


def supervision_of(config: BagConfig, fields: tuple[str, ...]) -> str:
    """Where the classes of a bag's points come from: field, images, function or geometry.

    Args:
        config: what is wanted; ``auto`` takes the first that is there, in that order.
        fields: of the bag's clouds.

    Raises:
        ValueError: the field that is asked for is not there.
    """
    if config.supervision == "field" and config.label_field not in fields:
        raise ValueError(f"bag.label_field: the clouds have no field {config.label_field!r}; they have {fields}")
    if config.supervision != "auto":
        return config.supervision
    if config.label_field in fields:
        return "field"
    return "images" if config.semantic_topic else "function" if config.label_function else "geometry"


def load_function(name: str) -> Callable:
    """The user's function ``module:function``.

    It is called with points float64 [N, 3] (m, ego frame at the frame's stamp), the clouds' scalar fields by name
    [N], and the stamp in ns, and returns integers [N]: class ids 0..16, 255 where it knows none.

    Raises:
        ValueError: no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"bag.label_function {name!r}: {error}; it must be importable (PYTHONPATH)") from error
    if not callable(found):
        raise ValueError(f"bag.label_function {name!r} is no function")
    return found


class PointLabels:
    """Gives points their classes.

    Args:
        config: what the ids mean.
        supervision: as ``supervision_of``.
    """

    def __init__(self, config: BagConfig, supervision: str):
        self.config, self.supervision = config, supervision
        self._function = load_function(config.label_function) if supervision == "function" else None

    def __getstate__(self):
        return {"config": self.config, "supervision": self.supervision}

    def __setstate__(self, state):
        self.__init__(**state)

    def classes(self, points: SweepPoints, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Class ids uint8 [N], ``IGNORE`` where unknown, and which points say that they are the own vehicle's.

        Raises:
            ValueError: the function's result is no class id a point; the field is no integer.
        """
        own = np.zeros(len(points), dtype=bool)
        if self.supervision == "field":
            ids = points.fields.get(self.config.label_field)
            if ids is None:
                raise ValueError(f"the cloud has no field {self.config.label_field!r} at {stamp_ns / 1e9:.3f}")
            ids = _integers(ids, f"field {self.config.label_field!r}")
            if self.config.label_ids == "lidarseg":
                inside = (ids >= 0) & (ids < 256)
                return np.where(inside, lidarseg_lookup()[ids & 255], np.uint8(IGNORE)), ids == _OWN_VEHICLE_LIDARSEG
            return _known(ids), own
        if self._function is not None:
            found = np.asarray(self._function(points.points_ego, points.fields, stamp_ns))
            if found.shape != (len(points),):
                raise ValueError(
                    f"bag.label_function {self.config.label_function!r} gave {found.shape}, expected ({len(points)},)"
                )
            return _known(_integers(found, f"bag.label_function {self.config.label_function!r}")), own
        alone = self.supervision == "geometry" and self.config.geometry_class == "others"
        return np.full(len(points), class_id("others") if alone else IGNORE, np.uint8), own

    def from_images(self, labels: PixelLabels, images: list[np.ndarray], fits: list[AreaFit]) -> PixelLabels:
        """The labels with the classes that label images [H, W] (integers) show at their pixels.

        Args:
            labels: in the frame's images.
            images: one a camera, of the camera's view at any resolution, its lens distortion included.
            fits: how each camera's images become the frame's.
        """
        classes = np.full(len(labels), IGNORE, np.uint8)
        table = None
        if self.config.semantic_ids:
            table = np.full(2**16, IGNORE, np.uint8)
            for theirs, ours in self.config.semantic_ids:
                table[theirs] = ours
        for camera, (image, fit) in enumerate(zip(images, fits, strict=True)):
            here = np.flatnonzero(labels.camera == camera)
            at = fit.source_of(labels.uv[here]) / fit.camera.size  # shares of width and height
            column, row = np.floor(at * image.shape[1::-1]).astype(np.int64).T
            inside = (column >= 0) & (row >= 0) & (column < image.shape[1]) & (row < image.shape[0])
            ids = image[row[inside], column[inside]].astype(np.int64)
            classes[here[inside]] = _known(ids) if table is None else table[ids & 0xFFFF]
        return PixelLabels(labels.camera, labels.uv, labels.depth_m, classes)


def _integers(values: np.ndarray, what: str) -> np.ndarray:
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    whole = np.where(np.isfinite(values), values, IGNORE).round().astype(np.int64)
    if values.dtype.kind != "f" or np.any(np.isfinite(values) & (whole != values)):
        raise ValueError(f"{what} holds {values.dtype} that are no whole class ids")
    return whole


def _known(ids: np.ndarray) -> np.ndarray:
    return np.where((ids >= 0) & (ids < NUM_CLASSES), ids, IGNORE).astype(np.uint8)
