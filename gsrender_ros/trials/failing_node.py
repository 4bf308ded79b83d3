"""The node with a network that can be made to fail, as it does for good after a lost CUDA context.

    python -m gsrender_ros.trials.failing_node --ros-args ...

SIGUSR1 makes every prediction raise, warming up of a network that is loaded anew included; SIGUSR2 ends that.
"""

import signal
import sys

from gsrender_core.predictor import Predictor
from gsrender_ros.occupancy_node import main

ERROR = "injected by the trial: CUDA error: unspecified launch failure"


def make_predictor_fail_on_signal() -> None:
    """Wrap ``Predictor.__call__``; what handles its errors is the node's own."""
    predict, failing = Predictor.__call__, False

    def on_signal(number: int, _frame) -> None:
        nonlocal failing
        failing = number == signal.SIGUSR1

    def call(self, *args, **kwargs):
        if failing:
            raise RuntimeError(ERROR)
        return predict(self, *args, **kwargs)

    Predictor.__call__ = call
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, on_signal)


if __name__ == "__main__":
    make_predictor_fail_on_signal()
    sys.exit(main())
