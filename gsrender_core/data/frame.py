"""``Frame``: the one contract between every source of data and the model."""

from dataclasses import dataclass

import numpy as np

from gsrender_core.classes import IGNORE, NUM_CLASSES


@dataclass(frozen=True)
class PixelLabels:
    """LiDAR points projected into the images: the only supervision there is.

    Attributes:
        camera: int64 [M], which camera of the frame.
        uv: float32 [M, 2], sub-pixel position in the frame's images; (0.5, 0.5) is the centre of
            the top-left pixel.
        depth_m: float32 [M], z-depth in that camera, metres, > 0.
        class_id: uint8 [M], 0..16, or ``IGNORE`` where a point has depth but no usable class.
    """

    camera: np.ndarray
    uv: np.ndarray
    depth_m: np.ndarray
    class_id: np.ndarray

    def __post_init__(self):
        m = len(self.camera)
        shapes = (self.uv.shape, self.depth_m.shape, self.class_id.shape)
        if shapes != ((m, 2), (m,), (m,)):
            raise ValueError(f"pixel labels disagree in length: camera {m}, uv, depth, class {shapes}")
        bad = (self.class_id >= NUM_CLASSES) & (self.class_id != IGNORE)
        if bad.any():
            raise ValueError(f"pixel label class {int(self.class_id[bad][0])} is neither 0..16 nor IGNORE ({IGNORE})")

    def __len__(self) -> int:
        return len(self.camera)

    def select(self, index: np.ndarray) -> "PixelLabels":
        """The labels at an index or mask [M]."""
        return PixelLabels(self.camera[index], self.uv[index], self.depth_m[index], self.class_id[index])


@dataclass(frozen=True)
class Frame:
    """Surround images of one moment with everything needed to place them in space.

    The ego frame is the vehicle's at ``stamp_ns`` (the reference stamp; nuScenes: the LiDAR's).
    Every camera was exposed at its own stamp, and ``T_ego_cam`` includes the ego motion in between:
    it maps points of camera c, as it stood when it fired, into the ego frame of the reference stamp.

    Attributes:
        images: uint8 [C, 3, H, W], RGB, at the size the network takes.
        Ks: float64 [C, 3, 3], pinhole intrinsics of these images in pixels.
        T_ego_cam: float64 [C, 4, 4], metres.
        T_global_ego: float64 [4, 4], metres; ego at the reference stamp.
        stamp_ns: reference stamp in nanoseconds.
        camera_names: one name a camera, in the order of the arrays.
        token: identifies the frame in its source.
        scene: name of the recording the frame belongs to.
        labels: projected LiDAR points, where the source has a LiDAR.
    """

    images: np.ndarray
    Ks: np.ndarray
    T_ego_cam: np.ndarray
    T_global_ego: np.ndarray
    stamp_ns: int
    camera_names: tuple[str, ...]
    token: str = ""
    scene: str = ""
    labels: PixelLabels | None = None

    def __post_init__(self):
        c = len(self.camera_names)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[:2] != (c, 3):
            raise ValueError(
                f"images must be uint8 [{c}, 3, H, W] for cameras {self.camera_names}, "
                f"got {self.images.dtype} {self.images.shape}"
            )
        for name, array, shape in (
            ("Ks", self.Ks, (c, 3, 3)),
            ("T_ego_cam", self.T_ego_cam, (c, 4, 4)),
            ("T_global_ego", self.T_global_ego, (4, 4)),
        ):
            if array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite with shape {shape}, got {array.shape}: {array.tolist()}")
        if (self.Ks[:, 0, 0] <= 0).any() or (self.Ks[:, 1, 1] <= 0).any():
            raise ValueError(f"focal lengths must be positive, got {self.Ks[:, [0, 1], [0, 1]].tolist()}")

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.images.shape[3], self.images.shape[2]


def require_labels(frame: Frame) -> None:
    """Refuse a frame that nothing can be learnt from.

    Raises:
        ValueError: no labels, labels without depth or position, or of a camera that the frame does not have.
    """
    labels = frame.labels
    if labels is None or len(labels) == 0:
        raise ValueError(f"frame {frame.token} of {frame.scene} has no LiDAR labels to learn from")
    bad = ~((labels.depth_m > 0) & np.isfinite(labels.depth_m) & np.isfinite(labels.uv).all(axis=1))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"frame {frame.token} of {frame.scene}: {int(bad.sum())} of {len(labels)} labels have no usable depth "
            f"or position, first {labels.depth_m[first]} m at {labels.uv[first].tolist()}; drop them where they "
            "are made"
        )
    if labels.camera.min() < 0 or labels.camera.max() >= len(frame.Ks):
        raise ValueError(
            f"frame {frame.token} of {frame.scene} has labels of cameras {labels.camera.min()} .. "
            f"{labels.camera.max()}, but {len(frame.Ks)} cameras"
        )


def previous_frames(dataset, i: int, count: int) -> list[Frame]:
    """The ``count`` frames before frame i, newest first, without labels; fewer at the start of a scene, never made up.

    ``dataset`` needs ``frame(i, labels)`` and ``adjacent(i, k)``, as ``data.nuscenes.NuScenes``.
    """
    frames: list[Frame] = []
    while len(frames) < count and (before := dataset.adjacent(i, -1)) is not None:
        frames.append(dataset.frame(before, labels=False))
        i = before
    return frames
