"""Prefixes to compare with: what any prefix does, regardless of tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from prefix_interp.prefixes.context import Context

AnyContext = TypeVar("AnyContext", bound=Context)


def norm_matched(context: AnyContext, rng: torch.Generator) -> AnyContext:
    """Return a prefix or soft prompt of random directions in which every vector keeps its norm.

    Args:
        context: its norms are kept, one per slot and layer (and head, for ``"kv"``).
        rng: source of the directions.
    """
    turned = {}
    for name, tensor in context.tensors.items():
        noise = torch.randn(tensor.shape, generator=rng).to(tensor)
        turned[name] = noise * (
            tensor.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        )
    return replace(context, **turned, metadata={"control": "norm-matched random directions"})
