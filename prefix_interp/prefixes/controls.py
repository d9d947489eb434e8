"""Prefixes to compare with: what any prefix does, whatever it was tuned for."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.prefixes.soft_prompt import SoftPrompt

Context = TypeVar("Context", Prefix, SoftPrompt)


def norm_matched(prefix: Context, rng: torch.Generator) -> Context:
    """Return a prefix or soft prompt of random directions in which every vector keeps its norm.

    Args:
        prefix: whose norms to keep; each slot's vector in each layer (and head, for ``"kv"``).
        rng: where the directions come from.
    """
    turned = {}
    for name, tensor in prefix.tensors.items():
        noise = torch.randn(tensor.shape, generator=rng).to(tensor)
        turned[name] = noise * (
            tensor.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        )
    return replace(prefix, **turned, metadata={"control": "norm-matched random directions"})
