"""What the package's Triton kernels share: whether a device runs them, and the checks of their inputs.

Triton comes with torch's CUDA wheels. A machine without a GPU needs none: ``triton`` and ``tl`` are None then, and the
modules of the kernels define functions and references, but no kernel.
"""

import contextlib

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

FLOATS = (torch.float32, torch.bfloat16)
WARPS = 4  # of a program: a warp group, as the matrix units of sm_90 want


def _nothing():
    pass


# Triton's interpreter (TRITON_INTERPRET=1), which runs kernels on any device, is chosen when a kernel is defined.
_INTERPRETED = triton is not None and not isinstance(triton.jit(_nothing), triton.JITFunction)


def serve(device: torch.device) -> bool:
    """Whether kernels run on a device: Triton is there, and the device is a GPU or all is interpreted."""
    return triton is not None and (device.type == "cuda" or _INTERPRETED)


def kernels_on(device: torch.device, reference: str):
    """The device made current, as Triton launches there; an error where there are no kernels for it."""
    if triton is None:
        raise RuntimeError(f"Triton cannot be imported: install it, or call {reference}")
    if not serve(device):
        raise ValueError(f"The tensors are on {device}; a CUDA device is wanted: move them, or call {reference}")
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def check_axes(name: str, tensor: torch.Tensor, letters: str) -> None:
    """Raise ValueError unless a tensor has as many axes as ``letters`` names, with commas in between."""
    if tensor.ndim != letters.count(",") + 1:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; [{letters}] is wanted")


def check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], dtypes, device: torch.device) -> None:
    """Raise ValueError unless a tensor is contiguous and has this shape, one of these dtypes and this device."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}; {list(shape)} is wanted")
    if tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tensor.dtype}; {' or '.join(map(str, dtypes))} is wanted")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {list(tensor.stride())}; contiguous memory is wanted")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; {device}, where the other tensors are, is wanted")


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(0, number - 1).bit_length()
