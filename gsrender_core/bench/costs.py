"""Operations and bytes of a computation, counted, and how fast this machine is at either: a stage's floors."""

import time
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Cost:
    """``gflop``: multiplications and additions, 1e9; ``mbyte``: read and written, 1e6."""

    gflop: float
    mbyte: float


class CountedCosts(TorchDispatchMode):
    """Counts the products and convolutions that run inside of it.

    What lies between them is taken to be fused: bytes are those of their inputs, weights and outputs alone.
    """

    def __init__(self):
        super().__init__()
        self._flop, self._bytes = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        counted = flop_registry.get(function.overloadpacket)
        if counted is None:  # under inference_mode a linear layer arrives whole: counted are the products in it
            with self:
                out = function.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = function(*args, **kwargs)
        if counted is not None:
            self._flop += counted(*args, **kwargs, out_val=out)
            used = [t for t in tree_flatten((args, kwargs, out))[0] if isinstance(t, torch.Tensor)]
            self._bytes += sum(t.numel() * t.element_size() for t in used)
        return out

    @property
    def cost(self) -> Cost:
        return Cost(self._flop / 1e9, self._bytes / 1e6)


def matrix_product_gflop_s(size: int = 2048) -> float:
    """Speed of a large float32 matrix product on the CPU, 1e9 operations a second."""
    a, b = torch.rand(size, size), torch.rand(size, size)
    return 2 * size**3 / _least_seconds(lambda: torch.mm(a, b)) / 1e9


def copy_gb_s(mbyte: int = 256) -> float:
    """Speed of copying more than caches hold, 1e9 bytes read and written a second."""
    source = torch.zeros(mbyte * 1_000_000, dtype=torch.uint8)
    target = torch.zeros_like(source)
    return 2 * mbyte / 1e3 / _least_seconds(lambda: target.copy_(source))


def _least_seconds(call, repetitions: int = 5) -> float:
    call()
    least = float("inf")
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
    return least
