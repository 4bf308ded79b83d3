"""Trains the small network of the tests as a process of its own: ``train_small.py OUT JSON [resume]``.

JSON: {"training": changes of ``small_training``, "frames": number of frames, "signal": [number, step, rank]}: the
process of that rank sends itself the signal in the middle of that step.
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


def main(out: str, options: str, resume: bool) -> int:
    logging.basicConfig(level=logging.INFO)
    options = json.loads(options)
    train.LOG_EVERY = 1
    config = small_training(**{k: tuple(v) if isinstance(v, list) else v for k, v in options["training"].items()})
    group = Group("cpu")
    trainer = train.Trainer(config, SmallData(frames=options["frames"]), Path(out), "cpu", group=group)
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
