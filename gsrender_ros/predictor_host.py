"""The network in use: loads it, exchanges it while the node runs, and says what to do when it keeps failing.

All of it but ``check_file`` runs in the worker's thread, where torch keeps its threads.
"""

import sys
import time
from pathlib import Path

# So many equal failures in a row are no accident of one frame.
FAILURES_IN_A_ROW = 3


class PredictorHost:
    """Holds a ``Predictor`` and its checkpoint.

    Args:
        device, runtime: as the parameters.
        cameras: how many there will be; the network is warmed up for them.
        logger: says what is loaded, and what to do about failures.

    Attributes:
        predictor: None before the first ``load``.
        path: of the checkpoint in use.
        failures: how many frames in a row the network has failed on.
    """

    def __init__(self, device: str, runtime: str, cameras: int, logger):
        self._device, self._runtime = device, runtime
        self._cameras = cameras
        self._logger = logger
        self.predictor = None
        self.path = ""
        self.failures = 0
        self._failure = ""
        self._loaded_anew = False
        self._loaded_at = 0.0

    def load(self, path: str) -> None:
        """Read a checkpoint (empty: the packaged one) and use it from now on; the old one stays if this fails.

        Raises:
            FileNotFoundError, ValueError, RuntimeError: the file, the device or the memory will not do; one line.
        """
        try:
            from gsrender_core.checkpoint import default_checkpoint
            from gsrender_core.predictor import Predictor
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{sys.executable} cannot import {error.name}: install it for this interpreter (console scripts of "
                "`ros2 run` ignore virtual environments)"
            ) from error
        path = path or str(default_checkpoint())
        predictor = Predictor.load(path, device=self._device, runtime=self._runtime, cameras=self._cameras)
        if predictor.fallback:
            self._logger.warning(f"{predictor.fallback}; eager torch goes on, slower and with the same results")
        predictor.warm_up(self._cameras)  # else the first frames wait for seconds
        self.predictor, self.path, self._loaded_at = predictor, path, time.time()

    def __call__(self, frame, previous):
        """Predict; after several equal failures in a row, load the network anew once, and say what to do.

        Raises:
            Exception: whatever the network raised for this frame.
        """
        try:
            occupancy = self.predictor(frame, previous=previous)
        except Exception as error:
            self._on_failure(error)
            raise
        self.failures, self._failure, self._loaded_anew = 0, "", False
        return occupancy

    def _on_failure(self, error: Exception) -> None:
        import torch

        text = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        self.failures = self.failures + 1 if text == self._failure else 1
        self._failure = text
        out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError)
        if out_of_memory:
            torch.cuda.empty_cache()
        if self.failures % FAILURES_IN_A_ROW:
            return
        if not self._loaded_anew:
            self._loaded_anew = True
            self._logger.error(f"the network failed {self.failures} times in a row ({text}): loading it anew")
            try:
                self.load(self.path)
                return
            except Exception as failed:  # a lost CUDA context fails here as well
                text = f"{text}; loading it anew failed: {failed}"
        advice = (
            "end other programs on the GPU, use a smaller network, or device:=cpu"
            if out_of_memory
            else "restart the node (end it, where its launch file has respawn:=true); if it comes back, try "
            "device:=cpu or another checkpoint"
        )
        self._logger.error(f"the network has failed on {self.failures} frames in a row ({text}): {advice}")

    def facts(self) -> dict[str, str]:
        """What is loaded, as text."""
        predictor = self.predictor
        grid = predictor.grid
        facts = {
            "checkpoint": self.path,
            "loaded": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._loaded_at)),
            "grid": f"{'x'.join(str(n) for n in grid.shape)} voxels of {grid.voxel_size_m:g} m from "
            f"({', '.join(f'{low:g}' for low in grid.min_m)}) m",
            "tau": f"{predictor.tau:g}",
            "image_size": f"{predictor.image_size[0]}x{predictor.image_size[1]}",
            "device": str(predictor.device),
            "runtime": predictor.runtime + (f" ({predictor.fallback})" if predictor.fallback else ""),
            "precision": str(predictor.precision).removeprefix("torch."),
            "frames_before": str(predictor.frames_before),
        }
        return facts

    def gpu_memory_mb(self) -> float | None:
        """Memory that torch holds on the GPU, MB; None on the CPU."""
        import torch

        device = self.predictor.device
        return torch.cuda.memory_reserved(device) / 2**20 if device.type == "cuda" else None


def check_file(path: str) -> None:
    """Whether a checkpoint may be loaded, as far as its header says; reads no weights.

    Raises:
        FileNotFoundError, ValueError: no such file, not a checkpoint, another format; one line.
    """
    from gsrender_core.checkpoint import read_header

    if path:
        read_header(Path(path))
