"""``Group``: the processes that train one model together, as ``torchrun`` starts them."""

import contextlib
import inspect
import logging
import math
import os
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gsrender_core.predictor import resolve_device

logger = logging.getLogger(__name__)

# The others wait in a collective while the first process validates; torchrun itself ends them when one dies.
PATIENCE = timedelta(hours=2)
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class Group:
    """One process by itself, or one of several that ``torchrun`` has started.

    Attributes:
        rank: number of this process, 0 .. size - 1; process 0 alone writes files, logs and validates.
        size: how many there are.
        device: this process's own.
    """

    def __init__(self, device: str | torch.device = "auto"):
        """Join the group of torchrun's environment, or be alone where there is none.

        Raises:
            ValueError: more processes than GPUs on this machine, or a GPU number beside torchrun.
        """
        self.rank, self.size = 0, 1
        self.joined = all(name in os.environ for name in _VARIABLES)
        if not self.joined:
            self.device = resolve_device(str(device))
            return
        local, beside = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.device = resolve_device(str(device))
        if self.device.type == "cuda":
            if self.device.index is not None:
                raise ValueError(f"--device {device}: torchrun gives every process a GPU of its own; say cuda or auto")
            if beside > torch.cuda.device_count():
                raise ValueError(
                    f"{beside} processes on a machine with {torch.cuda.device_count()} GPUs: lower --nproc-per-node, "
                    "or train on the CPU with --device cpu"
                )
            self.device = torch.device("cuda", local)
            torch.cuda.set_device(self.device)
        dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if not self.is_first:
            logging.getLogger("gsrender_core").setLevel(logging.WARNING)  # once is enough

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's contiguous part of a list whose length is a multiple of ``size``."""
        each, rest = divmod(len(items), self.size)
        assert rest == 0, (len(items), self.size)
        return items[self.rank * each : (self.rank + 1) * each]

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over the group; itself where it is alone.

        Every forward pass that synchronises must use every parameter. Buffers are left alone: batch-norm
        statistics are averaged once a step by who owns them, constants are the same everywhere.
        """
        if not self.joined:
            return module
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.12
        return DistributedDataParallel(module, **{name: False})

    def accumulate(self, wrapped: nn.Module):
        """A context in which gradients of a wrapped module stay in this process, to be averaged by a later pass."""
        return wrapped.no_sync() if self.joined else contextlib.nullcontext()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, the same bits in each."""
        if self.joined:
            dist.all_reduce(values)
        return values

    def gather(self, value) -> list:
        """A picklable value of every process, in order of rank."""
        if not self.joined:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def first(self, function: Callable, *arguments):
        """Let process 0 call a function while the others wait; its result, or its error, in every process."""
        if not self.joined:
            return function(*arguments)
        outcome = [None, None]
        if self.is_first:
            try:
                outcome[0] = function(*arguments)
            except (ValueError, OSError) as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def require_equal(self, value: float, what: str) -> None:
        """Stop where processes that must agree do not; other hardware may round otherwise, by 1e-6 at most.

        Raises:
            ValueError: naming what differs and the values.
        """
        values = self.gather(value)
        if any(not math.isclose(v, values[0], rel_tol=1e-6) for v in values[1:]):
            raise ValueError(f"{what} differ between the processes: {values}; resume from the last checkpoint")

    def close(self) -> None:
        """Leave the group."""
        if self.joined and dist.is_initialized():
            dist.destroy_process_group()
