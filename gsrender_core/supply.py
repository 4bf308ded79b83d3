"""What a run learns from, step by step: a data set that is all there, or a replay while it goes on."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from gsrender_core.config import TrainConfig
from gsrender_core.data.replay_buffer import ReplayBuffer
from gsrender_core.run_folder import data_of, readable
from gsrender_core.schedule import OpenSchedule, Schedule

POLL_S = 0.05  # how often a training without frames looks for the first


class Supply(Protocol):
    """What ``Trainer`` asks for before and after its steps; one thread calls it.

    Attributes:
        dataset: as ``data.nuscenes.NuScenes``: ``frame(i)``, ``adjacent(i, k)``, ``ground_truth(i)`` and more.
        schedule: of the learning rate; says when the run is over.
        indices: frames that may be drawn now.
        validation: frames that are never trained on, as many as a validation looks at.
        frame_count: frames that were there to be learnt from so far.
        scenes: names of what is validated on, for the log.
    """

    dataset: object
    schedule: Schedule
    indices: Sequence[int]
    validation: Sequence[int]
    frame_count: int
    scenes: Sequence[str]

    def check(self) -> None:
        """Before the first step: leave out what can be seen not to serve."""

    def refresh(self, step: int, stop: Callable[[], bool]) -> set[int]:
        """Before each step: get what is new, waiting for the first frame; frames that are gone.

        Returns early where ``stop`` becomes true. Raises ValueError where no frame will ever come.
        """

    def draw(self, number: int) -> int:
        """The frame of a draw, counted over all steps from 0."""

    def identity(self) -> dict:
        """What a run that is resumed must have in common with its beginning."""

    def resume_hint(self, out: Path) -> str:
        """How to go on with a run in the folder ``out``."""


def spread(frames: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the frames, evenly spread."""
    return list(frames)[:: max(1, len(frames) // max(1, count))][:count]


def split_scenes(scenes: tuple[str, ...], held_out: int) -> tuple[list[str], list[str]]:
    """Training and validation scenes: the last ``held_out`` are validated on and never trained on.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if held_out >= len(scenes):
        raise ValueError(f"{len(scenes)} scenes cannot spare {held_out} for validation; lower validation_scenes")
    cut = len(scenes) - held_out
    return list(scenes[:cut]), list(scenes[cut:])


class DataSupply:
    """All frames of a data set, each once an epoch in random order; its last scenes are validated on.

    Raises:
        ValueError: no scene would be left to train on.
    """

    def __init__(self, config: TrainConfig, dataset):
        self.config, self.dataset = config, dataset
        self.schedule = Schedule(config)
        self.train_scenes, self.scenes = split_scenes(dataset.scene_names, config.validation_scenes)
        self.indices = [i for scene in self.train_scenes for i in dataset.indices_of(scene)]
        held_out = [i for scene in self.scenes for i in dataset.indices_of(scene)]
        self.validation = spread(held_out, config.validation_frames)
        self._order: tuple[int, list[int]] = (-1, [])  # epoch and its permutation

    @property
    def frame_count(self) -> int:
        """Frames that are trained on."""
        return len(self.indices)

    def check(self) -> None:
        """Leave validation frames out that cannot be read."""
        self.validation = readable(self.dataset, self.validation)

    def refresh(self, step: int, stop: Callable[[], bool]) -> set[int]:
        """Nothing changes."""
        return set()

    def draw(self, number: int) -> int:
        """A permutation of the training frames each epoch."""
        epoch, position = divmod(number, len(self.indices))
        if epoch != self._order[0]:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(len(self.indices), generator=generator).tolist()
        return self.indices[self._order[1][position]]

    def identity(self) -> dict:
        """Scenes and samples."""
        return data_of(self.dataset, self.train_scenes, self.scenes)

    def resume_hint(self, out: Path) -> str:
        """The command."""
        roots = getattr(self.dataset, "roots", None) or (getattr(self.dataset, "root", "DATA"),)
        data = " ".join(str(root) for root in roots)
        params = getattr(getattr(self.dataset, "config", None), "params_file", "")
        return (
            f"go on with: gsrender train {out}/config.yaml --data {data}{f' --params {params}' if params else ''} "
            f"--out {out} --resume and its own --split, --scenes, --data-version, --device"
        )


class ReplaySupply:
    """The frames that a replay has brought so far, each step any of them with the same probability.

    Not each once an epoch: there are no epochs while frames come and go, and preferring new frames would fill
    steps in a row with frames of one place.

    Args:
        config: of the training.
        buffer: where somebody puts frames, from any thread.
        finish_steps: steps after the replay's end, see ``OpenSchedule``.

    Raises:
        ValueError: the configuration asks for what a replay cannot give.
    """

    def __init__(self, config: TrainConfig, buffer: ReplayBuffer, finish_steps: int):
        refused = {
            "hold_out_labels": (config.hold_out_labels, "whole stretches of a replay are held out instead"),
            "workers": (config.workers, "the frames of a replay are in memory"),
            "loss.voxel": (config.loss.voxel, "a replay has no labelled voxels"),
        }
        for name, (value, reason) in refused.items():
            if value:
                raise ValueError(f"{name} is {value:g}: {reason}; set it to 0")
        self.config, self.dataset = config, buffer
        self.schedule = OpenSchedule(config, finish_steps)
        self._ended = threading.Event()

    @property
    def indices(self) -> list[int]:
        """Frames that are trained on, of those held now."""
        return self.dataset.numbers(held_out=False)

    @property
    def validation(self) -> list[int]:
        """Held-out frames, spread over what is held now."""
        return spread(self.dataset.numbers(held_out=True), self.config.validation_frames)

    @property
    def frame_count(self) -> int:
        """Frames that were taken in."""
        return self.dataset.taken_in

    @property
    def scenes(self) -> list[str]:
        """What is validated on."""
        every = self.dataset.limits.hold_out_every
        return [f"every {every}th stretch"] if every else []

    def end(self) -> None:
        """No frame comes any more: the finishing steps begin. Any thread may say so."""
        self._ended.set()

    def check(self) -> None:
        """Frames were looked at when they were put."""

    def refresh(self, step: int, stop: Callable[[], bool]) -> set[int]:
        """Take in what has come, and wait for the first frame."""
        self.schedule.advance(step)
        forgotten: set[int] = set()
        while True:
            ended = self._ended.is_set()  # before the look: what came last must not be missed
            forgotten |= self.dataset.take_in()
            if ended:
                self.schedule.close(step)
            if self.indices or stop():
                return forgotten
            if ended:
                raise ValueError("the replay ended without a frame to train on")
            time.sleep(POLL_S)

    def draw(self, number: int) -> int:
        """One of the frames held now; a function of seed, number and what is held."""
        indices = self.indices
        return indices[int(np.random.default_rng((self.config.seed, number)).integers(len(indices)))]

    def identity(self) -> dict:
        """A replay brings other frames every time: it need only be one."""
        return {"source": "replay"}

    def resume_hint(self, out: Path) -> str:
        """What to start."""
        return f"go on with: trainer_node, training.out:={out} training.resume:=true, and play the bag again"
