"""The devices on which models run."""

from __future__ import annotations

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
