"""What a training step needs of a frame, kept in memory: labels, poses and the frozen backbone's features."""

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from gsrender_core.config import AugmentConfig
from gsrender_core.data.augment import augment_images, warp_image
from gsrender_core.data.frame import Frame, require_labels
from gsrender_core.data.read_ahead import ReadAhead, read_frame
from gsrender_core.geometry import inverse
from gsrender_core.model.gsrender import GSRender
from gsrender_core.model.observation import PastMaps

logger = logging.getLogger(__name__)

# What a step touches again while it runs, kept even where the cache is full.
RECENT_FRAMES, RECENT_LABELS = 4, 16


def _remember(recent: OrderedDict, i: int, value, limit: int) -> OrderedDict:
    recent[i] = value
    while len(recent) > limit:
        recent.popitem(last=False)
    return recent


@dataclass
class FrameLabels:
    """Labels and geometry of one frame as tensors; shapes as in ``PixelLabels`` and ``Frame``.

    ``draw`` float32 [M] is the relative probability with which a label is sampled: the number of labels
    of its class in the frame to the power of ``-rare_boost``; ``scene`` names the recording, ``token`` the frame.
    """

    camera: torch.Tensor
    uv: torch.Tensor
    depth_m: torch.Tensor
    class_id: torch.Tensor
    draw: torch.Tensor
    Ks: torch.Tensor
    T_ego_cam: torch.Tensor
    T_global_ego: np.ndarray
    rare_boost: float = 0.0
    scene: str = ""
    token: str = ""

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    @property
    def nbytes(self) -> int:
        """Memory of the tensors, bytes."""
        return sum(t.numel() * t.element_size() for t in self._tensors().values())

    def to(self, device: torch.device) -> "FrameLabels":
        """The same on a device; itself where it is there."""
        if self.camera.device == device:
            return self
        return dataclasses.replace(self, **{name: value.to(device) for name, value in self._tensors().items()})

    def drawn_with(self, rare_boost: float) -> "FrameLabels":
        """The same labels, sampled with another ``rare_boost``; shares all other tensors."""
        if rare_boost == self.rare_boost:
            return self
        draw = draw_weights(self.class_id.cpu().numpy(), rare_boost)
        return dataclasses.replace(self, draw=torch.from_numpy(draw).to(self.draw), rare_boost=rare_boost)

    def sample(self, count: int, allowed: torch.Tensor | None = None) -> torch.Tensor:
        """Indices of at most ``count`` labels drawn with ``draw``, each at most once, among ``allowed`` (bool [M])."""
        index = torch.arange(len(self.camera), device=self.camera.device)
        if allowed is not None:
            index = index[allowed]
        if len(index) <= count:
            return index
        # Exponential races: the smallest values of Exp(1)/weight are a weighted sample without replacement.
        draw = self.draw[index]
        return index[torch.topk(torch.empty_like(draw).exponential_() / draw, count, largest=False).indices]

    def points_and_origins(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labelled points and their cameras' positions [M, 3] in this frame's ego, metres."""
        camera = self.camera[index]
        pixel = torch.cat((self.uv[index], torch.ones_like(self.uv[index, :1])), dim=1)
        rays = torch.einsum("nij,nj->ni", torch.linalg.inv(self.Ks)[camera], pixel)
        at_camera = rays * self.depth_m[index, None]
        T = self.T_ego_cam[camera]
        return torch.einsum("nij,nj->ni", T[:, :3, :3], at_camera) + T[:, :3, 3], T[:, :3, 3]


def draw_weights(class_id: np.ndarray, rare_boost: float) -> np.ndarray:
    """Relative probability with which each label [M] is sampled, float64 [M]."""
    counts = np.bincount(class_id, minlength=256).astype(np.float64)
    return np.maximum(counts, 1)[class_id] ** -rare_boost


@dataclass
class NetworkView:
    """What the network sees of a frame: backbone ``maps`` and the intrinsics ``Ks`` [C, 3, 3] of the images seen.

    ``A`` [C, 3, 3] moves the frame's pixels to the augmented images' (``Ks`` is then A K); None: nothing was moved.
    """

    maps: list[torch.Tensor]
    Ks: torch.Tensor
    A: torch.Tensor | None = None


@dataclass
class FrameCache:
    """What runs over the same data can share: nothing in it depends on how a run trains."""

    labels: dict[int, FrameLabels] = field(default_factory=dict)
    maps: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    used_bytes: int = 0
    full: bool = False  # said once


class TrainingFrames:
    """Frames of a data set by index; nothing is decoded or computed twice while memory lasts.

    Args:
        dataset: needs ``frame(i)`` and ``adjacent(i, k)``, as ``data.nuscenes.NuScenes``.
        model: whose backbone computes the features.
        device: of the tensors.
        rare_boost: see ``FrameLabels``.
        cache_gb: memory for what is kept.
        share: frames of an earlier run; what it has cached is used and added to where it is the same thing.
    """

    def __init__(
        self,
        dataset,
        model: GSRender,
        device: torch.device,
        rare_boost: float,
        cache_gb: float,
        share: "TrainingFrames | None" = None,
    ):
        self.dataset, self.model, self.device = dataset, model, device
        self.rare_boost, self.budget = rare_boost, int(cache_gb * 1e9)
        self.reader: ReadAhead | None = None  # reads frames before they are asked for
        self.bf16 = False  # autocast of a backbone that learns; what is cached does not depend on it
        self.cache = FrameCache()
        self._recent: OrderedDict[int, Frame] = OrderedDict()  # a step asks for its frames several times
        self._recent_labels: OrderedDict[int, FrameLabels] = OrderedDict()
        if share is not None:
            reason = self._differs_from(share)
            if reason:
                logger.info("cached frames of the earlier run are not used: %s", reason)
            else:
                self.cache = share.cache

    def _differs_from(self, other: "TrainingFrames") -> str | None:
        """Why the cache of ``other`` would be wrong here; None where it is the same."""
        if not (self.model.backbone.frozen and other.model.backbone.frozen):
            return "the backbone is not frozen"
        if self.model.backbone.strides != other.model.backbone.strides:
            return f"maps at strides {other.model.backbone.strides}, now {self.model.backbone.strides}"
        if self.device != other.device:
            return f"device {other.device}, now {self.device}"
        for name in ("root", "image_size", "label_options", "tokens", "cameras"):
            before, now = (getattr(frames.dataset, name, None) for frames in (other, self))
            if before != now:
                return f"another {name.replace('_', ' ')} of the data"
        if self.dataset is not other.dataset and not hasattr(self.dataset, "tokens"):
            return "another data set"
        before, now = (frames.model.backbone.state_dict() for frames in (other, self))
        if before.keys() != now.keys() or not all(torch.equal(before[k], now[k]) for k in now):
            return "another backbone"
        return None

    def labels(self, i: int) -> FrameLabels:
        """Labels of frame i.

        Raises:
            ValueError, OSError: the frame cannot be read or has nothing usable to learn from; the message names it.
        """
        kept = self.cache.labels if i in self.cache.labels else self._recent_labels
        if i not in kept:
            kept = self._keep_labels(i, self._to_labels(self._read(i, images=False)))
        if kept[i].rare_boost != self.rare_boost:
            kept[i] = kept[i].drawn_with(self.rare_boost)
        return kept[i].to(self.device)

    def _keep_labels(self, i: int, labels: FrameLabels) -> dict[int, FrameLabels]:
        if self._has_room(labels.nbytes, "labels"):
            self.cache.labels[i] = labels
            return self.cache.labels
        return _remember(self._recent_labels, i, labels, RECENT_LABELS)

    def _has_room(self, size_bytes: int, what: str) -> bool:
        """Whether something more may stay in memory; counts it if so."""
        if self.cache.used_bytes + size_bytes <= self.budget:
            self.cache.used_bytes += size_bytes
            return True
        if not self.cache.full:
            self.cache.full = True
            logger.info(
                "cache_gb %.3g is used up by the features of %d and the labels of %d frames; what is beyond, from now "
                "on %s of a frame, is read again at every visit",
                self.budget / 1e9, len(self.cache.maps), len(self.cache.labels), what,
            )  # fmt: skip
        return False

    def forget(self, indices: Iterable[int]) -> None:
        """Free the memory of frames that the data set no longer has."""
        for i in indices:
            labels, maps = self.cache.labels.pop(i, None), self.cache.maps.pop(i, ())
            self.cache.used_bytes -= (0 if labels is None else labels.nbytes) + sum(m.numel() * 2 for m in maps)
            self._recent.pop(i, None)
            self._recent_labels.pop(i, None)

    def read_ahead(self, indices: Iterable[int], beside: Iterable[int]) -> None:
        """Let the workers read what is not in memory: frames of steps to come, and labels of frames ``beside``."""
        if self.reader is None:
            return
        held = self.cache.maps if self.model.backbone.frozen else {}
        reads = [(i, True) for i in indices if i not in held and i not in self._recent]
        labelled = {i for i, _ in reads} | self.cache.labels.keys() | self._recent_labels.keys()
        self.reader.want(reads + [(i, False) for i in beside if i not in labelled])

    def is_usable(self, i: int) -> bool:
        """Whether frame i by itself can be read and has labels to learn from."""
        try:
            self._read(i, images=True)
            self.labels(i)
        except (ValueError, OSError):
            return False
        return True

    def _read(self, i: int, images: bool) -> Frame:
        """Frame i; without ``images`` perhaps one whose images have no pixels.

        Raises:
            ValueError: its images are not of the size that the network takes.
        """
        if i in self._recent and (not images or self._recent[i].images.size):
            return self._recent[i]
        frame = read_frame(self.dataset, i, images) if self.reader is None else self.reader.take(i, images)
        if frame.images.size and frame.image_size != tuple(self.model.config.image_size):
            width, height = self.model.config.image_size
            raise ValueError(
                f"frame {frame.token} of {frame.scene} has {frame.image_size[0]}x{frame.image_size[1]} images, the "
                f"network takes {width}x{height}; read all frames at that image_size"
            )
        return _remember(self._recent, i, frame, RECENT_FRAMES)[i]

    def maps(self, i: int) -> list[torch.Tensor]:
        """Backbone maps of frame i, [C, F_s, h_s, w_s] each; cached as bfloat16 if the backbone is frozen."""
        if i in self.cache.maps:
            return [m.to(self.device).float() for m in self.cache.maps[i]]
        maps = self._features(self._read(i, images=True).images)
        if not self.model.backbone.frozen:
            return maps
        maps = [m.to(torch.bfloat16) for m in maps]  # also what is not kept: a frame looks the same on every visit
        if self._has_room(sum(m.numel() * 2 for m in maps), "features"):
            self.cache.maps[i] = [m.cpu() for m in maps]
        return [m.float() for m in maps]

    def _features(self, images: np.ndarray) -> list[torch.Tensor]:
        """Backbone maps of images uint8 [C, 3, H, W]: the one place where images become tensors."""
        autocast = self.bf16 and not self.model.backbone.frozen
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            maps = self.model.image_features(torch.from_numpy(images)[None].to(self.device))
        return [m.float() for m in maps]

    def seen(self, i: int, augment: AugmentConfig) -> NetworkView:
        """What the network sees of frame i: augmented images, anew at every call, or the frame's own.

        Raises:
            ValueError: augmentation of a frozen backbone, whose features are cached.
        """
        if i not in self.cache.maps:
            self._read(i, images=True)  # before the labels, which come with the images then
        labels = self.labels(i)
        if not augment.active:
            return NetworkView(self.maps(i), labels.Ks)
        if self.model.backbone.frozen:
            raise ValueError("a frozen backbone's cached features cannot be augmented; unfreeze it or remove augment")
        images, A = augment_images(self._read(i, images=True).images, augment)
        A = torch.from_numpy(A).to(self.device, torch.float32)
        maps = self._features(images)
        return NetworkView(maps, A @ labels.Ks, A)

    @torch.no_grad()
    def past(self, i: int, A: torch.Tensor | None) -> list[PastMaps]:
        """The frames before i that the network looks at, newest first; fewer at the start of a scene.

        ``A`` [C, 3, 3]: the pixel transforms of frame i's images (``NetworkView.A``). The earlier images get the
        same, because stereo compares a camera with itself, and features do not survive a rotation or mirroring.

        Raises:
            ValueError: the data set names a frame of another scene.
        """
        result: list[PastMaps] = []
        while len(result) < self.model.config.view.frames_before:
            before = self.dataset.adjacent(i, -1)
            if before is None:
                break
            here, there = self.labels(i), self.labels(before)
            if here.scene != there.scene:
                raise ValueError(
                    f"frame {before} is given as the one before {i}, but belongs to scene {there.scene!r}, not to "
                    f"{here.scene!r}; adjacent() of the data set must stay within a scene"
                )
            if A is None:
                maps, Ks = self.maps(before), there.Ks
            else:
                images = self._read(before, images=True).images
                moved = np.stack([warp_image(*pair) for pair in zip(images, A.double().cpu().numpy(), strict=True)])
                maps = self._features(moved)
                with torch.autocast(self.device.type, enabled=False):  # the caller's may be on
                    Ks = A @ there.Ks
            T = torch.from_numpy(inverse(here.T_global_ego) @ there.T_global_ego).to(self.device, torch.float32)
            result.append(PastMaps(maps, Ks[None], there.T_ego_cam[None], T[None]))
            i = before
        return result

    def _to_labels(self, frame: Frame) -> FrameLabels:
        require_labels(frame)
        labels = frame.labels
        draw = draw_weights(labels.class_id, self.rare_boost)

        def tensor(array, dtype):
            return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

        return FrameLabels(
            tensor(labels.camera, torch.int64),
            tensor(labels.uv, torch.float32),
            tensor(labels.depth_m, torch.float32),
            tensor(labels.class_id, torch.int64),
            tensor(draw, torch.float32),
            tensor(frame.Ks, torch.float32),
            tensor(frame.T_ego_cam, torch.float32),
            frame.T_global_ego,
            self.rare_boost,
            frame.scene,
            frame.token,
        )
