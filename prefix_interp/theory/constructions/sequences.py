"""Theorem 1: any sequence of N tokens from one virtual token."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.theory.constructions.construction import Construction, finish
from prefix_interp.theory.constructions.precision import check_vocabulary_fits
from prefix_interp.theory.constructions.weights import (
    MARGIN,
    Decoder,
    Head,
    check_length,
    check_settings,
    write_model,
    write_selection,
)


def any_sequence(
    n_tokens: int,
    length: int,
    *,
    temperature: float | None = None,
    decoder: Decoder | str = "parabola",
    dtype: torch.dtype = torch.float64,
) -> Construction:
    """Return the model of Theorem 1: each of the V^N sequences has its own virtual token.

    The virtual token holds y_i / V in its i-th coordinate; tokens embed as 0. At position i head
    ``self`` brings e_i and head ``first`` the virtual token; their sum h minus 1 is above 0 only in
    coordinate i, which the MLP reads. Output 0 is read at the virtual token's own row.

    **Smallest T.** Position i sees i + 1 keys. A head spends eps = i / (e^T + i) of its attention
    on the wrong keys. Head ``first`` brings (1 - eps) s, head ``self`` 1 - eps in coordinate i and
    eps / i in those before it, where h <= (1 - eps) (V - 1) / V + eps / i <= 1: only coordinate i
    counts, and the MLP reads z = max(0, s_i - eps (1 + s_i)). The nearest code is right if and only
    if eps (1 + s_i) < 1 / (2V). The worst case is s_i = (V - 1) / V at the last position: (N - 1) /
    (e^T + N - 1) < 1 / (4V - 2), that is

        T > ln((4V - 3) (N - 1)).

    Args:
        n_tokens: V, at least 2. Codes are 0 to V - 1.
        length: N.
        temperature: T; None takes the smallest and 5.
        decoder: ``"parabola"``, the paper's, or ``"distance"``, one more block and a larger V.
        dtype: of the weights.

    Raises:
        PrefixInterpError: a size, temperature or decoder out of range, or more codes than `dtype`
            can tell apart (see `largest_vocabulary`).

    Example:
        >>> written = any_sequence(n_tokens=10, length=4)
        >>> written.run(torch.tensor([[3, 1, 4, 1]])).tolist()
        [[[3, 1, 4, 1]]]
    """
    check_length("length", length)
    check_settings(decoder, temperature)
    check_vocabulary_fits(n_tokens, dtype, decoder)
    smallest = math.log((4 * n_tokens - 3) * (length - 1)) if length > 1 else 0.0
    used = smallest + MARGIN if temperature is None else float(temperature)
    heads = (
        Head("self", {i: i for i in range(length)}, brings="position"),
        Head("first", {i: 0 for i in range(length)}, brings="token"),
    )
    sizes = {"token": length, "position": length, "selected": length}
    model, at = write_model(
        sizes, heads, used, n_tokens=n_tokens, n_blocks=1, decoder=decoder
    )  # fmt: skip
    with torch.no_grad():
        write_selection(model, 0, [(at["selected"], 1.0)], into=int(at["number"]))

    def pack(behaviours: Int[Tensor, "stack length"]) -> Float[Tensor, "stack 1 coordinate"]:
        return behaviours[:, None].double() / n_tokens

    return finish(
        "any_sequence", model, at, dtype, n_in=0, n_slots=1, temperature=used,
        smallest_temperature=smallest, hardest=torch.full((length,), n_tokens - 1),
        heads=tuple(head.name for head in heads), pack=pack,
    )  # fmt: skip
