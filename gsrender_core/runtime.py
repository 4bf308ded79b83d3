"""Process-wide settings of the CPU runtime."""

import ctypes
import logging
import sys

import torch

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 in hardware: GPUs since Ampere, and CPUs with AMX.

    Others are many times slower by it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False))


def keep_freed_memory() -> bool:
    """Tell glibc to keep large freed blocks instead of handing them back to the kernel.

    A network allocates and frees the same tens of megabytes every frame; by default each of them is
    a fresh mmap whose pages fault in again, which costs about as much as the arithmetic. Memory
    then stays at its peak between frames. Returns False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_MAX, 0) and libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError) as error:
        logger.debug("allocator left as it is: %s", error)
        return False
