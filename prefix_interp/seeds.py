"""Random generators derived by SHA-256, so that a seed means the same in every process."""

from __future__ import annotations

import hashlib

import torch

from prefix_interp.errors import PrefixInterpError


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and every label, and on nothing else.

    Args:
        seed: the user's seed, any integer.
        labels: what the numbers are for, e.g. ``"init"`` or ``("batch", 12)``.

    Raises:
        PrefixInterpError: `seed` is not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise PrefixInterpError(f"seed={seed!r} must be a whole number")
    text = "\x1f".join([str(seed), *(f"{type(x).__name__}:{x}" for x in labels)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_generator(seed: int, *labels: str | int) -> torch.Generator:
    """Return a CPU generator seeded with `derive_seed`; no global random state is touched."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))
