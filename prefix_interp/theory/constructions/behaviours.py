"""Behaviours to ask of a construction: all those of a small one, or random ones."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from prefix_interp.seeds import derive_generator
from prefix_interp.theory.constructions.construction import Construction


def all_behaviours(built: Construction) -> Int[Tensor, "stack *behaviour"]:
    """Return every behaviour of a small construction."""
    size = built.hardest.numel()
    codes = torch.arange(built.n_tokens**size)
    digits = [codes // built.n_tokens**i % built.n_tokens for i in range(size)]
    return torch.stack(digits, dim=1).reshape(-1, *built.hardest.shape)


def random_behaviours(built: Construction, n: int, seed: int) -> Int[Tensor, "stack *behaviour"]:
    """Return uniform behaviours; for pairs, every second row of a map ends in code 0.

    The authors' digit extraction fails on such rows.

    Args:
        built: defines shape and vocabulary.
        n: number of behaviours.
        seed: any integer.
    """
    rng = derive_generator(seed, "constructions", built.name, built.n_tokens, built.n_out)
    drawn = torch.randint(built.n_tokens, (n, *built.hardest.shape), generator=rng)
    if built.n_in == 2:
        drawn[:, ::2, -1] = 0
    return drawn
