"""Declared studies: which variants of the training configuration answer which question of the paper.

A study changes a base configuration by dotted keys and nothing else, so that two variants differ in
exactly what their names say. Variants of different studies that come out equal are trained once.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gsrender_core.config import (
    DepthConfig,
    EncoderConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
    ViewConfig,
    from_dict,
    to_dict,
)
from gsrender_core.voxel_grid import VoxelGrid

OFF = {"compensation": "none"}
OWN_RAYS = {"loss.ray": 1.0, "ray_adjacent": []}  # direct ray supervision by the frame's own labels
ALL_RAYS = {"loss.ray": 1.0, "ray_adjacent": [-2, -1, 1, 2]}  # and by those of its neighbours, as packaged
UNRENDERED = {"loss.semantic": 0.0, "loss.depth": 0.0}
NERF = {"model.head.kind": "nerf"}


@dataclass(frozen=True)
class Variant:
    """One row of a study's table.

    Attributes:
        name: short, unique in its study.
        changes: dotted configuration keys and their values, on top of the base.
        steps_factor: steps relative to the base, for comparisons at equal time.
        note: what the row is for.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    steps_factor: float = 1.0
    note: str = ""

    def apply(self, base: TrainConfig) -> TrainConfig:
        """The base configuration with this variant's changes.

        Raises:
            ValueError: a key that the configuration does not have, or a senseless value.
        """
        values = to_dict(base)
        for dotted, value in self.changes.items():
            *parents, last = dotted.split(".")
            inner = values
            for parent in parents:
                inner = inner.get(parent, {})
            if last not in inner:
                raise ValueError(f"variant {self.name}: the configuration has no key {dotted!r}")
            inner[last] = value
        config = from_dict(TrainConfig, values, f"variant {self.name}")
        return dataclasses.replace(config, steps=round(config.steps * self.steps_factor))


@dataclass(frozen=True)
class Study:
    """A question and the variants that answer it; the first one is what the others are compared with."""

    question: str
    source: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Run:
    """One training: a variant's configuration with its seed."""

    variant: str
    config: TrainConfig

    @property
    def name(self) -> str:
        """Folder name; equal configurations under another variant's name share their digest."""
        slug = re.sub(r"[^a-z0-9]+", "_", self.variant.lower()).strip("_")
        return f"{slug}-{self.digest}-s{self.config.seed}"

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of what the configuration changes, the seed left out.

        Only what differs from the defaults: a new key of a later version leaves old runs valid.
        """
        changed = _difference(to_dict(self.config), to_dict(TrainConfig()))
        changed.pop("seed", None)
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]

    def folder(self, runs: Path) -> Path:
        """The run's folder; one that exists under another variant's name is used.

        Raises:
            ValueError: a folder of this name was made with another configuration: a default has changed since.
        """
        for existing in sorted(runs.glob(f"*-{self.digest}-s{self.config.seed}")):
            self._check(existing / "config.yaml")
            return existing
        return runs / self.name

    def _check(self, path: Path) -> None:
        if path.is_file():
            stored, mine = yaml.safe_load(path.read_text(encoding="utf-8")), to_dict(self.config)
            other = _difference(stored, mine)
            if other:
                raise ValueError(f"{path} was made with other defaults of {', '.join(other)}; choose another --out")


def _difference(values: dict, defaults: dict) -> dict:
    """The entries of nested plain values that differ from those of the defaults; keys unknown there are left out."""
    result = {}
    for key, value in values.items():
        if isinstance(value, dict):
            inner = _difference(value, defaults.get(key, {}))
            if inner:
                result[key] = inner
        elif key in defaults and value != defaults[key]:
            result[key] = value
    return result


def plan(study: Study, base: TrainConfig, seeds: int) -> list[Run]:
    """All runs of a study, seed by seed, so that a study that is stopped has whole rows."""
    return [
        Run(variant.name, dataclasses.replace(variant.apply(base), seed=seed))
        for seed in range(seeds)
        for variant in study.variants
    ]


FEATURES = Variant(
    "rc features +1",
    {"compensation": "features", "adjacent": [1], "loss.omega": 0.8, "loss.alpha": 0.1, "loss.ray": 0.0},
    note="the paper's setting",
)

STUDIES: dict[str, Study] = {
    "rc": Study(
        "Does Ray Compensation help, and at which level?",
        "paper Table 4 (first against last row), Table 5",
        (
            Variant("rc off", OFF),
            Variant("rc off, equal time", OFF, 1.4, "as many steps more as a step without RC is cheaper"),
            FEATURES,
            Variant("rc logits +1", {"compensation": "logits"}),
        ),
    ),
    "rc_rays": Study(
        "Does Ray Compensation help where every label also supervises its own ray directly?",
        "beyond the paper",
        (
            Variant("rays, rc off", {**OWN_RAYS, **OFF}),
            Variant("rays, rc off, equal time", {**OWN_RAYS, **OFF}, 1.3),
            Variant("rays, rc features +1", OWN_RAYS),
            Variant("rays, rc logits +1", {**OWN_RAYS, "compensation": "logits"}),
        ),
    ),
    "weights": Study(
        "What do the weights of adjacent frames (omega) and of moving classes in them (alpha) do?",
        "paper Table 4",
        (
            FEATURES,
            Variant("no omega", {"loss.omega": 1.0}),
            Variant("no alpha", {"loss.alpha": 1.0}),
            Variant("no omega, no alpha", {"loss.omega": 1.0, "loss.alpha": 1.0}),
        ),
    ),
    "gaussians": Study(
        "Which properties of a Gaussian have to be learnt?",
        "paper Table 3",
        (
            FEATURES,
            Variant("with rotation", {"model.head.predict_rotation": True}),
            Variant("no scale offset", {"model.head.predict_scale": False}),
            Variant("no mean offset", {"model.head.max_offset_m": 0.0}),
            Variant("mean offset <= 0.2 m", {"model.head.max_offset_m": 0.2}),
            Variant("scales start at 0.2 m", {"model.head.base_scale_m": 0.2}, note="half a voxel"),
        ),
    ),
    "frames": Study(
        "Which adjacent frames should Ray Compensation render?",
        "paper Table 6",
        (
            FEATURES,
            Variant("k = -1", {"adjacent": [-1]}),
            Variant("k = -2 .. +2", {"adjacent": [-2, -1, 1, 2], "adjacent_per_step": 0}),
            Variant(
                "k = -2 .. +2, one a step",
                {"adjacent": [-2, -1, 1, 2], "adjacent_per_step": 1},
                note="drawn at random: the price of one",
            ),
            Variant("k = +2", {"adjacent": [2]}),
            Variant("k = -2", {"adjacent": [-2]}),
            Variant("k = -2, -1", {"adjacent": [-2, -1], "adjacent_per_step": 0}),
            Variant("k = +1, +2", {"adjacent": [1, 2], "adjacent_per_step": 0}),
        ),
    ),
    "heads": Study(
        "Gaussian head or RenderOcc's NeRF head?",
        "paper Tables 1 and 2",
        (
            Variant("rc off", OFF),
            Variant("nerf, rc off", {**NERF, **OFF}),
            FEATURES,
            Variant("nerf, rc features +1", NERF),
        ),
    ),
    "labels_3d": Study(
        "What do 3D labels add to 2D labels?",
        "paper Table 1, last rows",
        (FEATURES, Variant("2D + 3D", {"loss.voxel": 1.0})),
    ),
    "beyond": Study(
        "What does each thing beyond the paper do?",
        "beyond the paper",
        (
            FEATURES,
            Variant("rays, rc features +1", OWN_RAYS, note="direct supervision of the frame's own rays"),
            Variant("rays of all frames", ALL_RAYS, note="as packaged"),
            Variant("rays of all frames, rc off", {**ALL_RAYS, **OFF}),
            Variant("rays of all frames, nothing rendered", {**ALL_RAYS, **UNRENDERED}),
            Variant("rays, no free prior", {**OWN_RAYS, "loss.free_prior": 0.0}),
            Variant("rays, no object weight", {**OWN_RAYS, "loss.object_weight": 1.0}),
            Variant("rays, scales start at 0.2 m", {**OWN_RAYS, "model.head.base_scale_m": 0.2}),
            Variant("labels beyond the volume", {"render_outside": True}, note="rendered too, as RenderOcc does"),
            Variant("no drift penalty", {"loss.offset_drift": 0.0}),
            Variant("pruned below 0.02", {"prune_opacity": 0.02}),
        ),
    ),
}


def laboratory() -> TrainConfig:
    """The small setting in which the studies run on two CPU cores: 25.6 x 25.6 x 6.4 m at 0.4 m, 352 x 128 images.

    The losses are the paper's: nothing but rendered pixels supervises the Gaussians; the lift's depth distribution
    has a loss of its own, as in BEVDepth, and a penalty keeps the lattice from sliding. Where a variant switches
    the direct ray supervision on, it reads the frame's own labels, so that Ray Compensation alone sees others.
    Scales start at 0.12 m, where the rendered ground truth agrees with the LiDAR, see ``rendered_truth``.
    """
    model = ModelConfig(
        image_size=(352, 128),
        grid=VoxelGrid((-12.8, -12.8, -1.0), 0.4, (64, 64, 16)),
        depth=DepthConfig(1.0, 23.0, 32, "linear"),
        view=ViewConfig(neck_channels=32, channels=12),
        encoder=EncoderConfig(channels=24, features=12),
        head=HeadConfig(hidden=32, base_scale_m=0.12),
    )
    return TrainConfig(
        model=model,
        loss=LossConfig(ray=0.0),
        ray_adjacent=(),
        steps=500,
        pixels=768,
        rays=2048,
        validation_scenes=3,
        validation_frames=12,
        watch_frames=0,
        validate_every=1_000_000,
        checkpoint_every=400,
    )
