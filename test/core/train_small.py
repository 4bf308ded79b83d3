"""Trains the small network of the tests as a process of its own: ``train_small.py OUT JSON [resume]``.

JSON: {"training": changes of ``small_training``, "signal": [number, step, rank]}: the process of that rank sends
itself the signal in the middle of that step.
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

from small import SmallData, small_training

from gsrender_core import train
from gsrender_core.distributed import Group
from gsrender_core.stop_signals import Stopped

FRAMES, UNREADABLE, BROKEN_STEP, BROKEN_FRAME = 5, 3, 1, 0


class HardData(SmallData):
    """Five frames, one of which cannot be read."""

    def __init__(self):
        super().__init__(frames=FRAMES)

    def frame(self, i, labels=True):
        if i == UNREADABLE:
            raise ValueError(f"frame {i} is cut off")
        return self.frames[i]


def make_trainer(out: Path, training: dict, group: Group) -> train.Trainer:
    """A trainer that logs every step and whose loss is NaN once: for one frame in one step."""
    config = small_training(**{k: tuple(v) if isinstance(v, list) else v for k, v in training.items()})
    trainer = train.Trainer(config, HardData(), out, "cpu", group=group)
    frame_loss = getattr(trainer.gradient._frame_loss, "module", trainer.gradient._frame_loss)
    compute = frame_loss.objective

    def broken_once(i: int, render: bool):
        terms = compute(i, render)
        if (trainer.step, i) == (BROKEN_STEP, BROKEN_FRAME):
            terms["depth_net"] = terms["depth_net"] * float("nan")
        return terms

    frame_loss.objective = broken_once
    return trainer


def main(out: str, options: str, resume: bool) -> int:
    logging.basicConfig(level=logging.INFO)
    options = json.loads(options)
    train.LOG_EVERY = 1
    group = Group("cpu")
    trainer = make_trainer(Path(out), options["training"], group)
    if "signal" in options:
        number, step, rank = options["signal"]
        compute = trainer.gradient._frame_loss.forward

        def interrupted(*arguments):
            if (trainer.step, group.rank) == (step, rank):
                os.kill(os.getpid(), number)
            return compute(*arguments)

        trainer.gradient._frame_loss.forward = interrupted
    try:
        trainer.run(resume)
    except Stopped as stopped:
        print(stopped)
        return 130 if stopped.signal_number == signal.SIGINT else 0
    finally:
        group.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], "resume" in sys.argv[3:]))
