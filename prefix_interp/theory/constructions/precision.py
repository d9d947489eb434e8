"""How many codes fit into the precision of a dtype."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from prefix_interp.errors import PrefixInterpError, check_choice

Kind = Literal["parabola", "distance", "packed"]
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def largest_vocabulary(dtype: torch.dtype = torch.float64, kind: Kind | str = "parabola") -> int:
    """Return the largest V that a construction allows in `dtype`.

    These bounds hold at the default temperature. Their proofs add up half a last digit for every
    rounding; eps is the machine epsilon (distance from 1 to the next number):

    - ``"parabola"``, the paper's decoder: V <= 1 / sqrt(2 eps). Neighbouring logits are 1 / V^2
      apart; each is off by up to eps / 4 from its slope, product and bias, eps / 8 from its sum.
    - ``"distance"``: V <= 1 / (4 eps). The number read is off by up to 1.25 eps, and V times it by
      V eps / 2 more; half a code is allowed.
    - ``"packed"``, V codes in one number (`any_map_of_pairs`): V^V <= 1 / (8 eps). The number is
      off by about 2.5 eps; half a unit V^-V is allowed.

    Some larger V still come out right, by luck of the rounding.

    Args:
        dtype: float64, float32, float16 or bfloat16.
        kind: see above.

    Raises:
        PrefixInterpError: another dtype or kind.

    Example:
        >>> [largest_vocabulary(torch.float64, "packed"), largest_vocabulary(torch.float16)]
        [13, 22]
    """
    check_choice("kind", kind, get_args(Kind))
    check_choice("dtype", dtype_name(dtype), DTYPES)
    eps = torch.finfo(dtype).eps
    if kind == "parabola":
        return math.isqrt(round(1 / (2 * eps)))
    if kind == "distance":
        return round(1 / (4 * eps))
    codes = 1
    while (codes + 1) ** (codes + 1) <= 1 / (8 * eps):
        codes += 1
    return codes


def dtype_name(dtype: torch.dtype) -> str:
    """Return e.g. ``"float64"``."""
    return str(dtype).removeprefix("torch.")


def check_vocabulary_fits(n_tokens: int, dtype: torch.dtype, *kinds: Kind | str) -> None:
    """Raise unless `n_tokens` codes fit the precision of `dtype` for each of `kinds`.

    Raises:
        PrefixInterpError: fewer than 2 codes, more than fit, or an unknown dtype or kind.
    """
    if isinstance(n_tokens, bool) or not isinstance(n_tokens, int) or n_tokens < 2:
        raise PrefixInterpError(f"n_tokens={n_tokens!r} must be a whole number of at least 2")
    for kind in kinds:
        largest = largest_vocabulary(dtype, kind)
        if n_tokens > largest:
            why, what = _REASONS[kind]
            raise PrefixInterpError(
                f"n_tokens={n_tokens} is too large for {dtype_name(dtype)}, {why}; allowed is at "
                f"most {largest}: {what}"
            )


_REASONS = {
    "parabola": (
        "whose rounding drowns the logits' steps of 1 / V^2",
        "take a finer dtype or decoder='distance'",
    ),
    "distance": ("whose rounding drowns codes 1 / V apart", "take a finer dtype"),
    "packed": ("which cannot hold V codes of V values in one number", "take a finer dtype"),
}
