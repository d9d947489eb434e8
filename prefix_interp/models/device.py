"""The devices on which models run, and which precision suits the processor."""

from __future__ import annotations

import time
from functools import lru_cache
from statistics import median

import torch

from prefix_interp.errors import PrefixInterpError, check_choice

DEVICES = ("cpu", "cuda", "mps")


def check_device(device: str) -> None:
    """Raise unless models can run on `device` on this machine.

    Args:
        device: one of `DEVICES`.

    Raises:
        PrefixInterpError: an unknown name, or a device that this machine or this torch lacks.

    Example:
        >>> check_device("cpu")
    """
    check_choice("device", device, DEVICES)
    lacking = {}
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None or torch.version.hip is not None
        lacking["cuda"] = (
            "torch finds no GPU that it can use" if built else "this torch was built without CUDA"
        )
    if not torch.backends.mps.is_available():
        lacking["mps"] = "torch finds no GPU of Apple's"
    if device in lacking:
        here = ", ".join(repr(each) for each in DEVICES if each not in lacking)
        raise PrefixInterpError(
            f"device={device!r} is not available here: {lacking[device]}; choose one of {here}"
        )


@lru_cache
def fastest_precision() -> str:
    """Return ``"bfloat16"`` if this processor multiplies such matrices faster, else ``"float32"``.

    What a processor says it can do decides wrongly: AVX512-BF16 is 2 times as fast as float32 on
    one and slower on another. So a product of the size of the paper's toys is timed, once a
    process, on one thread; bfloat16 must be 1.2 times as fast.

    Example:
        >>> fastest_precision() in ("float32", "bfloat16")
        True
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            seconds = {dtype: _product_seconds(dtype) for dtype in (torch.bfloat16, torch.float32)}
    finally:
        torch.set_num_threads(threads)
    faster = seconds[torch.float32] >= 1.2 * seconds[torch.bfloat16]
    return "bfloat16" if faster else "float32"


def _product_seconds(dtype: torch.dtype) -> float:
    """Return the median time of this thread in a product of 1,216 rows of width 256."""
    rows, weight = torch.zeros(1216, 256, dtype=dtype), torch.zeros(256, 1024, dtype=dtype)
    times = []
    for _ in range(9):
        began = time.thread_time()
        _ = rows @ weight
        times.append(time.thread_time() - began)
    return median(times[2:])
