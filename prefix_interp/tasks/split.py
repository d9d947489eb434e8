"""Hashes that put each sequence on one side of a split, the same in every process."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def mixed(codes: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return the 64-bit finaliser of MurmurHash3, in wrapping integer arithmetic."""
    x = codes.clone()
    for multiplier in (-49064778989728563, -4265267296055464877):
        x ^= (x >> 33) & 0x7FFFFFFF
        x *= multiplier
    return x ^ ((x >> 33) & 0x7FFFFFFF)


def row_codes(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """Return a 63-bit hash of each row; equal rows have equal codes."""
    codes = torch.zeros(len(tokens), dtype=torch.int64)
    for column in tokens.cpu().long().T:
        codes = mixed(codes * 6364136223846793005 + column + 1)
    return codes & ((1 << 63) - 1)
