"""Typed configuration: frozen dataclasses with working defaults; a YAML file only overrides, unknown keys are errors.

``ModelConfig`` travels inside every checkpoint; ``TrainConfig`` is what ``gsrender train`` adds.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from gsrender_core.bag_config import BagConfig
from gsrender_core.classes import NUM_CLASSES
from gsrender_core.voxel_grid import VoxelGrid


@dataclass(frozen=True)
class BackboneConfig:
    """Image backbone. ``name``: efficientnet_lite0, resnet18, resnet50, swin_base."""

    name: str = "efficientnet_lite0"
    pretrained: bool = True  # Lite0: offline ImageNet weights; others: only where transformers finds them
    frozen: bool = True  # frozen features are computed once a frame and cached: what makes CPU training affordable
    strides: tuple[int, ...] = (8, 16, 32)  # of the maps taken, rising, among 4, 8, 16, 32; view.stereo needs 4

    def __post_init__(self):
        if not self.strides or list(self.strides) != sorted(set(self.strides) & {4, 8, 16, 32}):
            raise ValueError(f"model.backbone.strides: {self.strides} must rise and be among 4, 8, 16, 32")


@dataclass(frozen=True)
class DepthConfig:
    """Depth bins of the lift: ``uniform`` steps, or ``linear`` growing steps (finer near the car)."""

    min_m: float = 1.0
    max_m: float = 57.0
    bins: int = 56
    spacing: str = "linear"


@dataclass(frozen=True)
class ViewConfig:
    """2D features to voxels. ``kind``: lift_splat or projection; ``stride``: of the image features.

    ``neck``: fpn (top-down sums), or joined (the coarser maps beside the finest one, as in BEVStereo).
    ``depth_net``: simple (intrinsics gate), or bevdepth (camera gates, ASPP; the paper's).
    """

    kind: str = "lift_splat"
    stride: int = 8
    neck_channels: int = 96
    channels: int = 32
    downsample: int = 2  # voxels of the lifted volume are this many times wider in x and y
    neck: str = "fpn"
    depth_net: str = "simple"
    stereo: bool = False  # depth from the previous frame by plane sweep (BEVStereo); needs depth_net bevdepth
    history: bool = False  # the previous frame's features, lifted into the current ego, beside the current ones

    def __post_init__(self):
        for name, choices in (("neck", ("fpn", "joined")), ("depth_net", ("simple", "bevdepth"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"model.view.{name}: {getattr(self, name)!r} is none of {', '.join(choices)}")
        if self.stereo and self.depth_net != "bevdepth":
            raise ValueError("model.view.stereo needs model.view.depth_net: bevdepth, the only one that takes it in")

    @property
    def frames_before(self) -> int:
        """Previous frames that the network looks at: the history's own stereo depth needs one more."""
        return int(self.history) + int(self.stereo)


@dataclass(frozen=True)
class EncoderConfig:
    """Volume encoder. ``kind``: bev (channel-to-height 2D U-Net), bevstereo3d (the paper's) or resnet3d (lighter)."""

    kind: str = "bev"
    channels: int = 64
    features: int = 24  # channels of the voxel feature volume P
    # How kind bev comes from the lifted volume's cells to the grid's voxels: smooth (bilinear, then a convolution at
    # full size) or subpixel (each cell's channels hold its voxels; faster).
    widen: str = "smooth"
    cell_features: int = 0  # kind bev: channels of one more layer, at every place, before the voxels'; 0: no such layer

    def __post_init__(self):
        if self.widen not in ("smooth", "subpixel"):
            raise ValueError(f"model.encoder.widen: {self.widen!r} is none of smooth, subpixel")
        if self.cell_features < 0 or (self.cell_features and self.kind != "bev"):
            raise ValueError(f"model.encoder.cell_features: {self.cell_features} must be 0, or positive with kind bev")


@dataclass(frozen=True)
class HeadConfig:
    """From voxel features to what is rendered. ``kind``: gaussian (Eq. 6) or nerf (RenderOcc's, the baseline).

    Both read ``hidden`` and ``opacity_bias``; the rest belongs to one of them.
    """

    kind: str = "gaussian"
    hidden: int = 64  # 0, gaussian only: one linear layer; opacity then never needs P itself, see parts.CellPart
    max_offset_m: float = 1.2  # three voxels each way (section 8); 0 freezes the means
    base_scale_m: float = 0.2
    min_scale_m: float = 0.05
    max_scale_m: float = 0.8
    predict_scale: bool = True
    predict_rotation: bool = False
    opacity_bias: float = -2.2  # opacity 0.1 at the start: far above the rasteriser's 1/255 cut
    nerf_step_m: float = 0.2  # distance of the samples along a ray; RenderOcc's is half a voxel
    nerf_jitter: bool = True  # training draws each sample within its interval at random, else the middle is taken

    def __post_init__(self):
        if self.kind not in ("gaussian", "nerf"):
            raise ValueError(f"model.head.kind: {self.kind!r} is none of gaussian, nerf")
        if self.hidden < (0 if self.kind == "gaussian" else 1):
            raise ValueError(f"model.head.hidden: {self.hidden} must be positive (or 0 with kind gaussian)")
        if self.nerf_step_m <= 0:
            raise ValueError(f"model.head.nerf_step_m: {self.nerf_step_m} must be positive")


RUNTIMES = ("auto", "eager", "openvino", "cuda_graph")  # what computes a prediction, see gsrender_core.engine
READOUTS = ("voxel", "voxel_anchored", "splat")


def check_readout(readout: str, head: HeadConfig) -> None:
    """Raise ValueError for an unknown read-out, or one that a head cannot serve."""
    if readout not in READOUTS:
        raise ValueError(f"model.readout: {readout!r} is none of {', '.join(READOUTS)}")
    if readout != "voxel" and head.kind != "gaussian":
        raise ValueError(
            f"model.readout: {readout!r} reads means and scales of Gaussians, which head.kind {head.kind!r} has not; "
            "use voxel"
        )


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to build the network; stored in its checkpoint."""

    image_size: tuple[int, int] = (704, 256)
    grid: VoxelGrid = field(default_factory=VoxelGrid)
    num_classes: int = 17
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    view: ViewConfig = field(default_factory=ViewConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    tau: float = 0.1  # Eq. 7; swept on held-out training scenes and stored with the weights
    # From Gaussians to voxels: voxel (Eq. 7), voxel_anchored (without Gaussians that have left their voxel, Fig. 8) or
    # splat (every Gaussian speaks for the voxels it covers, see gsrender_core.readout).
    readout: str = "voxel"

    def __post_init__(self):
        check_readout(self.readout, self.head)
        if not 0 < self.tau < 1:
            raise ValueError(f"model.tau: {self.tau} must lie between 0 and 1")
        if min(self.image_size) < 32:
            raise ValueError(f"model.image_size: {self.image_size} must be at least 32 x 32 pixels")
        if self.view.stereo and 4 not in self.backbone.strides:
            raise ValueError(f"model.view.stereo compares features at stride 4; add it to {self.backbone.strides}")
        if self.num_classes != NUM_CLASSES:
            raise ValueError(f"model.num_classes: {self.num_classes}, but the class table has {NUM_CLASSES}")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; 0 switches a term off."""

    semantic: float = 1.0  # Eq. 12
    depth: float = 1.0  # Eq. 13
    silog_lambda: float = 0.85  # RenderOcc's; 1 is Eq. 13 as printed
    omega: float = 0.8  # adjacent frames (Eq. 14)
    alpha: float = 0.1  # dynamic classes in adjacent frames (Eq. 12, 13)
    renderocc_dynamic: bool = False  # RenderOcc's list of moving classes instead of ours, for comparison
    depth_net: float = 0.5  # cross-entropy of the lift's depth distribution at the labels
    offset_drift: float = 1.0  # squared mean offset in voxels: keeps the lattice from sliding as one
    free_prior: float = 0.2  # voxels drawn at random are free unless a point lies in them: what no ray ever crosses
    object_weight: float = 4.0  # opacity of hits on anything but flat ground, see ray_supervision.ray_loss
    ray: float = 1.0  # direct ray supervision, the free prior included; 0 leaves what the paper has
    transmittance_entropy: float = 0.0  # rays end opaque or empty; RenderOcc's weight for its NeRF head is 0.01
    voxel: float = 0.0  # 3D supervision by Occ3D labels inside mask_camera (the 2D + 3D rows of Table 1)

    def __post_init__(self):
        for entry in dataclasses.fields(self):
            if not 0 <= getattr(self, entry.name) < float("inf"):
                raise ValueError(f"loss.{entry.name}: {getattr(self, entry.name)} must be a number of 0 or more")
        if max(self.silog_lambda, self.alpha) > 1:
            raise ValueError(f"loss: silog_lambda {self.silog_lambda} and alpha {self.alpha} must lie in 0 .. 1")


@dataclass(frozen=True)
class AugmentConfig:
    """Image augmentation in training, drawn for every camera and step; all off by default (see data.augment)."""

    resize: tuple[float, float] = (1.0, 1.0)  # range of the scale about the image's centre; RenderOcc 0.93 .. 1.13
    rotation_deg: float = 0.0  # up to this angle either way; RenderOcc 5.4
    flip: float = 0.0  # probability of a left-right mirrored image; RenderOcc 0.5
    shift: float = 0.0  # crop jitter: up to this share of width and height either way
    brightness: float = 0.0  # up to this share of full scale added or taken away
    contrast: float = 0.0  # contrast times 1 - this .. 1 + this

    def __post_init__(self):
        low, high = self.resize
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"augment.resize: {self.resize} must be a range low <= high of factors within 0.1 .. 10")
        limits = {"rotation_deg": 45.0, "flip": 1.0, "shift": 0.5, "brightness": 1.0, "contrast": 1.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"augment.{name}: {getattr(self, name)} must lie in 0 .. {limit:g}")

    @property
    def active(self) -> bool:
        """Whether anything is augmented at all."""
        return self != AugmentConfig()


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the model's own settings are in ``model``."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 8000
    batch: int = 1  # frames a step, over all processes together; their gradients are averaged, one frame in memory each
    optimizer: str = "adamw"  # adamw or adam (the paper's; there weight_decay is an L2 penalty: set it to 0)
    learning_rate: float = 2e-3
    schedule: str = "cosine"  # cosine or linear, to 1 % of the learning rate
    warmup_steps: int = 200
    weight_decay: float = 1e-2
    grad_clip: float = 5.0
    ema_decay: float = 0.999
    adjacent: tuple[int, ...] = (1,)  # k of Eq. 9
    adjacent_per_step: int = 1  # of those that exist, drawn at random each step; 0: all, the sum over k of Eq. 14
    compensation: str = "features"  # Ray Compensation at features, logits (Table 5) or none
    ray_adjacent: tuple[int, ...] = (-2, -1, 1, 2)  # frames whose labels feed the direct ray supervision
    pixels: int = 4096  # labelled pixels rendered a frame and step
    prune_opacity: float = 0.0  # Gaussians below it are not rasterised, see splatting.kept_gaussians; 0: all are
    prune_keep: float = 0.05  # share of those that is rasterised nonetheless, drawn each step: how they come back
    voxels: int = 16384  # voxels inside mask_camera that the 3D loss reads a frame and step; 0: all of them
    render_outside: bool = False  # also render labels beyond the volume, as RenderOcc does: no Gaussian is there
    render_every: int = 1  # steps between rendered ones; the other losses act in every step
    render_cameras: int = 2  # cameras rendered a frame and step, drawn at random; 0: all of them
    rays: int = 8192  # labels used by the direct ray supervision a frame and step
    renderocc_labels: bool = False  # supervise noise and the own car as "others", as RenderOcc does
    hold_out_labels: float = 0.0  # share of the LiDAR points kept from training: rendered depth is measured on them
    drop_occluded: bool = True  # labels that the LiDAR sees over something which hides them from the camera
    rare_boost: float = 0.5  # labels are drawn with probability ~ (labels of their class in the frame) ** -rare_boost
    bev_flip: bool = True
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of images; needs a backbone that is not frozen
    freeze_norm_at: float = 0.6  # share of the steps after which batch norms keep their statistics (batch 1 is noisy)
    bf16: bool = False  # autocast of the network (not of the renderer)
    validation_scenes: int = 4  # taken from the end of the training scenes, never trained on
    validate_every: int = 1000
    validation_frames: int = 16
    watch_frames: int = 4  # of these: losses, offsets and constant images, also before the first step; see watch
    checkpoint_every: int = 500
    cache_gb: float = 8.0  # memory for labels and the features of a frozen backbone; beyond it they are made again
    workers: int = 0  # processes that read and decode frames ahead of the step; 0: frames are read when needed
    seed: int = 0
    bag: BagConfig = field(default_factory=BagConfig)  # of recordings; data sets in folders do not look at it

    def __post_init__(self):
        choices = {
            "schedule": ("cosine", "linear"),
            "optimizer": ("adamw", "adam"),
            "compensation": ("features", "logits", "none"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}")
        for name in ("steps", "batch", "render_every", "validate_every", "checkpoint_every", "pixels", "rays"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be 1 or more")
        if min(self.validation_scenes, self.warmup_steps, self.workers) < 0 or self.learning_rate <= 0:
            raise ValueError("validation_scenes, warmup_steps and workers must be 0 or more, learning_rate positive")
        if self.watch_frames < 0:
            raise ValueError(f"watch_frames: {self.watch_frames} must be 0 (none) or more")
        if self.validation_scenes > 0 and self.validation_frames < 1:
            raise ValueError(f"validation_frames: {self.validation_frames} must be 1 or more, or validation_scenes 0")
        if min(self.adjacent_per_step, self.voxels) < 0:
            raise ValueError(f"adjacent_per_step {self.adjacent_per_step}, voxels {self.voxels}: must be 0 or more")
        if not 0 <= self.prune_opacity < 1 or not 0 <= self.prune_keep <= 1:
            raise ValueError(f"prune_opacity {self.prune_opacity}, prune_keep {self.prune_keep}: must lie in 0 .. 1")
        if self.prune_opacity > 0 and self.model.head.kind != "gaussian":
            raise ValueError(f"prune_opacity prunes Gaussians, which head.kind {self.model.head.kind!r} has not; set 0")
        if self.augment.active and self.model.backbone.frozen:
            raise ValueError(
                "augment: a frozen backbone's features are computed once a frame and cached, so its images cannot "
                "change; set model.backbone.frozen: false or remove augment"
            )
        if not 0 <= self.hold_out_labels < 1:
            raise ValueError(f"hold_out_labels: {self.hold_out_labels} must be a share of the points, 0 .. 1")
        if 0 in self.adjacent or 0 in self.ray_adjacent:
            raise ValueError("adjacent frames: k = 0 is the frame itself; use -2, -1, 1, 2, ...")


def from_dict(cls, values: dict, where: str = ""):
    """Build a configuration dataclass from nested plain values, checking names and types.

    Raises:
        ValueError: an unknown key, naming the place and the known keys, or a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where or cls.__name__}: expected keys and values, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{where or cls.__name__}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}".lstrip(".")) for name, value in values.items()})


def _convert(hint, value, where: str):
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) != len(value):
            raise ValueError(f"{where}: expected {len(inner)} values, got {len(value)}: {value!r}")
        return tuple(_convert(h, v, f"{where}[{i}]") for i, (h, v) in enumerate(zip(inner, value, strict=True)))
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(h for h in arguments if h is not type(None)), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint in (int, float) and isinstance(value, bool)):
        hint_text = " (YAML reads 2e-3 as text: write 2.0e-3)" if hint is float and isinstance(value, str) else ""
        raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}{hint_text}")
    return value


def to_dict(config) -> dict:
    """Nested plain values of a configuration, ready for JSON or YAML."""
    plain = dataclasses.asdict(config)

    def lists(value):
        if isinstance(value, dict):
            return {k: lists(v) for k, v in value.items()}
        return [lists(v) for v in value] if isinstance(value, tuple | list) else value

    return lists(plain)


def load_train_config(path: str | Path) -> TrainConfig:
    """Read a training configuration from YAML.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not YAML, an unknown key or a wrong type; the message names the key.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path} is not valid YAML{place}: {getattr(error, 'problem', None) or error}") from error
    try:
        return from_dict(TrainConfig, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
