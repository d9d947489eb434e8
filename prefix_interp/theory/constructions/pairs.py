"""Two-token inputs: any map of two tokens from one virtual token, with a digit extractor of ReLUs.

Entry a of the virtual token holds the whole row m(a, .) as the digits of one number in base V. The
authors extract the digits with a function outside the model, which fails on some inputs; here the
model's own MLPs extract them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.models.host import Model, host_of
from prefix_interp.theory.constructions.construction import Construction, finish
from prefix_interp.theory.constructions.precision import check_vocabulary_fits
from prefix_interp.theory.constructions.weights import (
    MARGIN,
    Decoder,
    Head,
    Places,
    check_settings,
    write_model,
    write_selection,
)

_ROUNDING = 2.5  # the number read is off by this many eps at most


def any_map_of_pairs(
    n_tokens: int,
    *,
    temperature: float | None = None,
    decoder: Decoder | str = "parabola",
    dtype: torch.dtype = torch.float64,
) -> Construction:
    """Return a model with one virtual token for each of the V^(V^2) maps of two tokens to one.

    Entry a of the virtual token is r_a = sum_j m(a, j) V^-(j + 1), below 1. At the second input
    head ``first`` brings the virtual token, head ``before`` the first input x_1; block 0 reads r at
    x_1 from their sum and adds half a unit, V^-V / 2, and two blocks per digit extract the digits
    (see `_write_digits`). The last block reads the digit that the second input points to, whose
    embedding still stands in the residual stream.

    **Smallest T.** Three keys; with d = 1 / (e^T + 2) the sum of the heads is
    d ((e^T + 1) (s + e_x1) + 2 e_x2), so that r is read with an error of -d (1 + r), or d (1 - r)
    if x_1 = x_2. Other coordinates are below 1 for e^T >= V^V - 1. The digits are right if the
    error is above -(1 / 2 - ramp) V^-V and at most V^-V / 2. Rounding takes up to 2.5 eps of that
    room (see `largest_vocabulary`). The worst case is a row of codes V - 1, r = 1 - V^-V, whose
    last digit is too low for an error of -(1 / 2 - ramp / 2) V^-V or less. Hence

        T >= ln((2 V^V - 1) / (1 / 2 - ramp - 2.5 eps V^V) - 2),

    which is about ln(4 V^V - 4), suffices (ramp = sqrt(eps)). Without rounding, no T suffices below
    the bound with denominator 1 / 2 - ramp / 2. In float64 the two bounds are less than 1e-6 apart
    up to V = 9, and 1e-5, 3e-4, 0.01 and 0.4 apart at V = 10 to 13. Between them rounding decides.

    Args:
        n_tokens: V, at least 2; at most 13 in float64, 7 in float32. Codes are 0 to V - 1.
        temperature: T; None takes the smallest and 5.
        decoder: ``"parabola"``, the paper's, or ``"distance"``, one more block.
        dtype: of the weights.

    Raises:
        PrefixInterpError: a temperature or decoder out of range, or V codes of V values that do
            not fit into one number (see `largest_vocabulary`).

    Example:
        >>> mapped = any_map_of_pairs(n_tokens=2)
        >>> mapped.run(torch.tensor([[[0, 1], [1, 0]]]))[0, :, 0].tolist()  # of 00, 01, 10, 11
        [0, 1, 1, 0]
    """
    check_settings(decoder, temperature)
    check_vocabulary_fits(n_tokens, dtype, "packed", decoder)
    rows, eps = n_tokens**n_tokens, torch.finfo(dtype).eps
    ramp = eps**0.5
    smallest = math.log((2 * rows - 1) / (0.5 - ramp - _ROUNDING * eps * rows) - 2)
    used = smallest + MARGIN if temperature is None else float(temperature)
    heads = (Head("first", {2: 0}, brings="token"), Head("before", {2: 1}, brings="token"))
    sizes = {"token": n_tokens, "position": 3, "selected": n_tokens, "digits": n_tokens}
    for digit in range(n_tokens):
        sizes |= {f"rest {digit}": 1, f"above {digit}": n_tokens - 1}
    n_blocks = 2 + 2 * n_tokens
    model, at = write_model(
        sizes, heads, used, n_tokens=n_tokens, n_blocks=n_blocks, decoder=decoder
    )
    with torch.no_grad():
        model.embed.W_E[range(n_tokens), at["token"]] = 1
        into = int(at["rest 0"])
        write_selection(model, 0, [(at["selected"], 1.0)], into, gain=float(n_tokens))
        first: Any = model.blocks[0]
        first.mlp.b_out[into] = n_tokens * 0.5 / rows
        for digit in range(n_tokens):
            _write_digits(model, at, digit, ramp)
        reads = [(at["digits"], 1 / n_tokens), (at["token"], 1.0)]
        write_selection(model, n_blocks - 1, reads, int(at["number"]))

    def pack(
        behaviours: Int[Tensor, "stack d_vocab d_vocab"],
    ) -> Float[Tensor, "stack 1 coordinate"]:
        powers = torch.tensor([n_tokens ** (n_tokens - 1 - j) for j in range(n_tokens)])
        # Whole numbers below 2^53, so only the division is rounded.
        return (behaviours * powers).sum(-1)[:, None].double() / rows

    return finish(
        "any_map_of_pairs", model, at, dtype, n_in=2, n_slots=1, temperature=used,
        smallest_temperature=smallest,
        hardest=torch.full((n_tokens, n_tokens), n_tokens - 1),
        heads=tuple(head.name for head in heads), pack=pack,
    )  # fmt: skip


def _write_digits(model: Model, at: Places, digit: int, ramp: float) -> None:
    """Remove the leading digit of ``rest k`` and write V times the remainder to ``rest k+1``.

    The rest y_k is below V, and its digit is how many of 1..V - 1 are at most y_k. What follows the
    digit is a multiple of the unit u = V^-(V - 1 - k) plus half a unit, so each count may rise from
    0 to 1 over ``ramp u`` above the integer. The first block writes ReLU(y_k - j), the second
    counts 1 - ReLU(1 - ReLU(y_k - j) / (ramp u)): this is exactly 0 at or below j and exactly 1
    past the ramp, so digits are exact integers.
    """
    n_tokens = host_of(model).d_vocab
    steps, unit = n_tokens - 1, float(n_tokens) ** (digit + 1 - n_tokens)
    rest, above = at[f"rest {digit}"], at[f"above {digit}"]
    blocks: Any = model.blocks
    over, count = (blocks[1 + 2 * digit + i].mlp for i in range(2))
    over.W_in[rest, :steps] = 1
    over.b_in[:steps] = -torch.arange(1.0, n_tokens, dtype=torch.float64)
    over.W_out[range(steps), above] = 1
    count.W_in[above, range(steps)] = -1 / (ramp * unit)
    count.b_in[:steps] = 1
    count.W_out[:steps, at["digits"][digit]] = -1
    count.b_out[at["digits"][digit]] = steps
    if digit + 1 < n_tokens:
        following = at[f"rest {digit + 1}"]
        count.W_in[rest, steps] = 1  # passes y_k on, which is above 0
        count.W_out[steps, following] = n_tokens
        count.W_out[:steps, following] = n_tokens
        count.b_out[following] = -n_tokens * steps
