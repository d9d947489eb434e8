"""Theorem 2 and longer responses: any map from a token to n_Y tokens from n_Y virtual tokens."""

from __future__ import annotations

import math
from dataclasses import replace

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


def any_map(
    n_tokens: int,
    *,
    temperature: float | None = None,
    decoder: Decoder | str = "parabola",
    dtype: torch.dtype = torch.float64,
) -> Construction:
    """Return the model of Theorem 2: each of the V^V maps of a token has a virtual token for it.

    The virtual token holds m(a) / V in coordinate a, where token a has its one-hot code. At the
    input x head ``answer`` brings the virtual token, head ``input`` the token x; their sum, less
    1, is above 0 in coordinate x alone.

    **Smallest T.** There is none. Each head looks at one of two keys, and what leaks out of one
    leaks into the other: (1 - eps) s + eps x + (1 - eps) x + eps s = s + x, even with uniform
    attention at T = 0. `any_map_to_sequences` with one output is the same model.

    Args:
        n_tokens: V, at least 2. Codes are 0 to V - 1.
        temperature: T; None takes 5.
        decoder: ``"parabola"``, the paper's, or ``"distance"``, one more block and a larger V.
        dtype: of the weights.

    Raises:
        PrefixInterpError: see `any_sequence`.

    Example:
        >>> mapped = any_map(n_tokens=3)
        >>> mapped.run(torch.tensor([[2, 0, 0]]))[0, :, 0].tolist()  # of the inputs 0, 1, 2
        [2, 0, 0]
    """
    built = any_map_to_sequences(n_tokens, 1, temperature=temperature, decoder=decoder, dtype=dtype)
    wide = built.pack

    def pack(behaviours: Int[Tensor, "stack d_vocab"]) -> Float[Tensor, "stack 1 coordinate"]:
        return wide(behaviours[..., None])

    return replace(built, name="any_map", hardest=built.hardest[:, 0], pack=pack)


def any_map_to_sequences(
    n_tokens: int,
    n_out: int,
    *,
    temperature: float | None = None,
    decoder: Decoder | str = "parabola",
    dtype: torch.dtype = torch.float64,
) -> Construction:
    """Return a model with n_Y virtual tokens for each map of a token to n_Y tokens.

    Slot k holds the answers' k-th tokens: m(a)_k / V in coordinate a. Output k is read n_Y
    positions behind slot k; there head ``answer`` brings that slot and head ``input`` the input
    token x, and their sum, less 1, is above 0 in coordinate x alone. There are V^(V n_Y) maps.

    **Smallest T.** Let n = n_Y. Output k sees n + k + 1 keys; with d = 1 / (e^T + n + k) each head
    brings e^T d of what it looks at and d of everything else. The sum is
    d ((e^T - 1) (s_k + e_x) + 2 S) with S the sum of all keys' values: slots, x and earlier
    outputs. In coordinate x this is 1 + s_k + d D with

        D = 2 (sigma + 1 + c) - (n + k + 1) (1 + s_k),

    where sigma is the sum of all slots' entries there and c the number of earlier outputs equal to
    x. D is at least -(n + k - 1) (1 + s_k), reached if the other slots hold 0 there. The worst case
    is the last output with s_k = (V - 1) / V: -(2n - 2) (2V - 1) / V. It is at most (n - 1) (2V -
    2) / V, which is smaller. The next lower code wins if and only if d D <= -1 / (2V), so all
    outputs are right if and only if e^T + 2n - 1 > 2 (2n - 2) (2V - 1), that is

        T > ln((8V - 6) (n - 1) - 1).

    In other coordinates the sum is at most d ((e^T + 2n - 1) (V - 1) / V + 2 (n - 1)), which is
    below 1 for e^T >= 2 V (n - 1) - 2n + 1, a weaker condition. For n = 1 there is no leak
    (`any_map`).

    Args:
        n_tokens: V, at least 2. Codes are 0 to V - 1.
        n_out: n_Y.
        temperature: T; None takes the smallest and 5.
        decoder: ``"parabola"``, the paper's, or ``"distance"``, one more block and a larger V.
        dtype: of the weights.

    Raises:
        PrefixInterpError: see `any_sequence`.

    Example:
        >>> mapped = any_map_to_sequences(n_tokens=3, n_out=2)
        >>> mapped.run(torch.tensor([[[0, 1], [2, 2], [1, 0]]]))[0].tolist()
        [[0, 1], [2, 2], [1, 0]]
    """
    check_length("n_out", n_out)
    check_settings(decoder, temperature)
    check_vocabulary_fits(n_tokens, dtype, decoder)
    smallest = math.log((8 * n_tokens - 6) * (n_out - 1) - 1) if n_out > 1 else 0.0
    used = smallest + MARGIN if temperature is None else float(temperature)
    heads = (
        Head("answer", {n_out + k: k for k in range(n_out)}, brings="token"),
        Head("input", {n_out + k: n_out for k in range(n_out)}, brings="token"),
    )
    sizes = {"token": n_tokens, "position": 2 * n_out, "selected": n_tokens}
    model, at = write_model(sizes, heads, used, n_tokens=n_tokens, n_blocks=1, decoder=decoder)
    with torch.no_grad():
        model.embed.W_E[range(n_tokens), at["token"]] = 1
        write_selection(model, 0, [(at["selected"], 1.0)], into=int(at["number"]))

    def pack(
        behaviours: Int[Tensor, "stack d_vocab n_out"],
    ) -> Float[Tensor, "stack slot coordinate"]:
        return behaviours.mT.double() / n_tokens

    hardest = torch.zeros(n_tokens, n_out, dtype=torch.long)
    hardest[1:, -1] = n_tokens - 1  # input 0 would meet outputs equal to it
    return finish(
        "any_map_to_sequences", model, at, dtype, n_in=1, n_slots=n_out, temperature=used,
        smallest_temperature=smallest, hardest=hardest,
        heads=tuple(head.name for head in heads), pack=pack,
    )  # fmt: skip
