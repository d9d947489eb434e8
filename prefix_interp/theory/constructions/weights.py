"""Weights set by hand: a transformer of zeros, and the parts that make up the constructions.

Every part reads some coordinates of the residual stream and writes to unused ones, so later parts
read only what was written for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice, check_number, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import zero_model

Decoder = Literal["parabola", "distance"]
Places = Mapping[str, Int[Tensor, " coordinate"]]
MARGIN = 5.0  # from smallest to default temperature: the leak is e^5 = 148 times smaller
LARGEST = 2**28  # weights of a model
LONGEST = 4096  # positions, written one by one before the weights are counted


@dataclass(frozen=True)
class Head:
    """A head of the first block.

    Attributes:
        name: what it is called.
        looks: for each position that is read, the position that it attends to.
        brings: the coordinates that the head copies from there into ``selected``.
    """

    name: str
    looks: Mapping[int, int]
    brings: str


def check_settings(decoder: str, temperature: float | None) -> None:
    """Raise unless the decoder exists and the temperature is None, or finite and at least 0."""
    check_choice("decoder", decoder, get_args(Decoder))
    if temperature is not None:
        check_number("temperature", temperature)


def check_length(argument: str, value: int) -> None:
    """Raise unless `value` is a whole number of at least 1 that a model of 2 GB could hold."""
    check_positive(argument, value)
    if value > LONGEST:
        raise PrefixInterpError(
            f"{argument}={value} takes more weights than 2 GB hold; allowed are at most {LONGEST}, "
            "fewer with many tokens"
        )


def write_model(
    sizes: Mapping[str, int],
    heads: Sequence[Head],
    temperature: float,
    *,
    n_tokens: int,
    n_blocks: int,
    decoder: Decoder | str,
) -> tuple[Model, Places]:
    """Return a model in float64 with positions, heads and decoder, and its coordinates by name.

    Positions are one-hot in ``position``. The heads of block 0 write into ``selected``, which is as
    wide as ``token``; the decoder reads ``number``. All other weights are 0; the caller sets them.

    Args:
        sizes: number of coordinates by name, except ``number`` and those of the decoder.
        heads: of block 0.
        temperature: T, the score of the position that a head looks at; all others score 0.
        n_tokens: V.
        n_blocks: number of blocks, without the decoder's.
        decoder: ``"parabola"`` is only an unembedding, ``"distance"`` has its own block.

    Raises:
        PrefixInterpError: more weights than 2 GB hold.
    """
    far = decoder == "distance"
    wide, n_ctx = sizes["token"], sizes["position"]
    names = {**sizes, "number": 1} | ({"distance": n_tokens} if far else {})
    total = sum(names.values())
    d_head, d_mlp = max(wide, n_ctx), max(wide, 2 * n_tokens if far else 0)
    in_block = 4 * len(heads) * total * d_head + 2 * total * d_mlp
    _check_room(n_tokens, (n_blocks + far) * in_block + 2 * n_tokens * total)
    at = dict(zip(names, torch.arange(total).split(list(names.values())), strict=True))
    model = zero_model(  # its scores are plain products of queries and keys, so T is in W_Q
        n_layers=n_blocks + far,
        n_heads=len(heads),
        d_model=total,
        d_head=d_head,
        d_mlp=d_mlp,
        n_ctx=n_ctx,
        d_vocab=n_tokens,
    )
    with torch.no_grad():
        model.pos_embed.W_pos[range(n_ctx), at["position"]] = 1
        _write_heads(model, at, heads, temperature)
        (_write_distance if far else _write_parabola)(model, at)
    return model, at


def _check_room(n_tokens: int, n_weights: int) -> None:
    if n_weights > LARGEST:
        raise PrefixInterpError(
            f"n_tokens={n_tokens} takes {n_weights:.2g} weights with the other arguments; "
            f"allowed are {LARGEST:.2g}, 2 GB in float64: take fewer tokens or outputs, or "
            "decoder='parabola'"
        )


def _write_heads(model: Model, at: Places, heads: Sequence[Head], temperature: float) -> None:
    attn, position = model.blocks[0].attn, at["position"]
    for index, head in enumerate(heads):
        wide = len(at[head.brings])
        for query, key in head.looks.items():
            attn.W_Q[index, position[query], key] = temperature
            attn.W_K[index, position[key], key] = 1
        attn.W_V[index, at[head.brings], range(wide)] = 1
        attn.W_O[index, range(wide), at["selected"]] = 1


def write_selection(
    model: Model,
    block: int,
    reads: Sequence[tuple[Int[Tensor, " coordinate"], float]],
    into: int,
    gain: float = 1.0,
) -> None:
    """Make a block's MLP write ``gain * sum_i ReLU(h_i - 1)`` into one coordinate.

    If h_i = a_i + e_i, with numbers a_i below 1 and a one-hot code e, this sum is the entry a_i
    that e points to. Constructions read one entry of a vector in this way.

    Args:
        model: to write into.
        block: which.
        reads: coordinates with their weights; h is their weighted sum.
        into: the coordinate.
        gain: see above.
    """
    mlp: Any = model.blocks[block].mlp
    for coordinates, weight in reads:
        wide = len(coordinates)
        mlp.W_in[coordinates, range(wide)] = weight
        mlp.b_in[:wide] = -1
        mlp.W_out[:wide, into] = gain


def _write_parabola(model: Model, at: Places) -> None:
    """The paper's decoder: logit i is ``(2 c_i - 1) z + 1/4 - c_i^2`` with ``c_i = i / V``.

    This equals ``(z - 1/2)^2 - (z - c_i)^2``, so the nearest c_i wins. Neighbours differ by 1 /
    V^2, which is lost in rounding for V near 1 / sqrt(machine epsilon).
    """
    n_tokens = host_of(model).d_vocab
    grid = torch.arange(n_tokens, dtype=torch.float64) / n_tokens
    model.unembed.W_U[at["number"][0]] = 2 * grid - 1
    model.unembed.b_U[:] = 1 / 4 - grid.square()


def _write_distance(model: Model, at: Places) -> None:
    """Logit i is ``-|V z - i|``, from two hidden units each; neighbours differ by 1."""
    n_tokens = host_of(model).d_vocab
    mlp: Any = model.blocks[-1].mlp
    codes = torch.arange(n_tokens, dtype=torch.float64)
    for sign, units in ((1, slice(0, n_tokens)), (-1, slice(n_tokens, 2 * n_tokens))):
        mlp.W_in[at["number"][0], units] = sign * n_tokens
        mlp.b_in[units] = -sign * codes
        mlp.W_out[units, at["distance"]] = torch.eye(n_tokens, dtype=torch.float64)
    model.unembed.W_U[at["distance"]] = -torch.eye(n_tokens, dtype=torch.float64)
