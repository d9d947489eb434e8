"""What a norm does with its scale held: a linear map, found by asking the norm itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prefix_interp.models.attention import without_hooks


def read_before(
    norm: nn.Module | None,
    inputs: Float[Tensor, "*any d_model"],
    read: Float[Tensor, "*any d_model"],
) -> Float[Tensor, "*any d_model"]:
    """Return the directions that `read` reads before a norm whose scale is held.

    A LayerNorm or RMSNorm is x W / s(x) + b, after taking off the mean or not. With s held at its
    value for `inputs` it is linear, and what it computes for probes of +1 and -1 tells W.

    Args:
        norm: LayerNorm or RMSNorm of any library; None reads the same.
        inputs: what the norm got.
        read: directions behind the norm.
    """
    if norm is None:
        return read
    gain, centred = _held(norm, inputs)
    before = read * gain
    return before - before.mean(dim=-1, keepdim=True) if centred else before


def read_behind(
    norm: nn.Module | None,
    inputs: Float[Tensor, "*any d_model"],
    parts: Float[Tensor, "part *any d_model"],
) -> Float[Tensor, "part *any d_model"]:
    """Return what becomes of each part of a norm's input while its scale is held.

    Parts that add up to `inputs` add up to the norm's output for it, less the constant that it adds
    (its output for 0).

    Args:
        norm: as in `read_before`; None and the identity change nothing.
        inputs: what the norm got; it decides the scale.
        parts: of an input.
    """
    if norm is None or isinstance(norm, nn.Identity):
        return parts
    gain, centred = _held(norm, inputs)
    return (parts - parts.mean(dim=-1, keepdim=True) if centred else parts) * gain


def _held(norm: nn.Module, inputs: Tensor) -> tuple[Tensor, bool]:
    """Return the factor of each coordinate at the scale of `inputs`, and whether means go first."""
    width = inputs.shape[-1]
    probe = inputs.new_ones(width)
    probe[1::2] = -1
    if width % 2:
        probe[-1] = 0  # an even number of both signs has no mean to take off
    with torch.no_grad(), without_hooks(norm):
        shift = norm(torch.zeros_like(probe))
        gain = (norm(probe) - shift) * probe
        if width % 2:
            gain[-1] = (norm(probe.flip(0)) - shift)[-1] * probe[0]
        centred = torch.allclose(norm(probe + 1), norm(probe), atol=1e-4)
        seen = inputs - inputs.mean(dim=-1, keepdim=True) if centred else inputs
        size = (seen * gain).norm(dim=-1) / (norm(inputs) - shift).norm(dim=-1)
    return gain / size[..., None], centred
