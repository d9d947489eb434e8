"""Toys in which the heads that carry each skill are known, because they were put there.

The weights are set by hand, one skill a head, and then hidden: the residual stream and every
head's inside are rotated at random, heads and hidden units permuted. What a method says about
the toy can be held against the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_index, check_positive
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.model import model_id, to_dtype
from prefix_interp.models.toy import ToyConfig, build_toy
from prefix_interp.prefixes.prefix import Prefix
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks import Batch

SHARPNESS = 12.0  # score of the position attended to; all others have 0
CONTROL = 2.0  # what a prefix writes into its skill's control channel, with half of the mass
MARGIN = 0.1  # how far below its threshold the control alone leaves a hidden unit
STEEPNESS = 100.0  # of the hidden units, at which a GELU is a ReLU
GAIN = 40.0  # from a hidden unit to the logit
DECOY = 10.0  # what a prefix writes at the decoy


@dataclass(frozen=True, eq=False)
class Planted:
    """A toy with one skill a head: skill k answers each input token x with x + k, modulo tokens.

    Without a prefix no skill is on and all answers are equally likely.

    Attributes:
        model: the toy, in float64.
        prefixes: of each skill, one slot; switches that skill on.
        heads: of each skill, the head in layer 0 that carries it.
        decoys: of each layer, the head that gives every prefix nearly all of its mass and writes
            the largest bias, straight into the logits, where the MLP takes it back.
        relay: the head in layer 1 that brings the answers to the outputs, and that the prefix
            does nothing to but through its input; None in a toy of one layer.
        n_tokens: tokens of inputs and answers. The vocabulary has one more, which is never right.
        n_in: inputs, which is also the number of outputs.
    """

    model: Model
    prefixes: tuple[Prefix, ...]
    heads: tuple[int, ...]
    decoys: tuple[int, ...]
    relay: int | None
    n_tokens: int
    n_in: int

    def batch(self, skill: int, n: int, seed: int = 0) -> Batch:
        """Return `n` sequences of uniform tokens, answered by a skill.

        Args:
            skill: 0-based.
            n: how many, at least 1.
            seed: any integer.

        Raises:
            PrefixInterpError: no such skill, or `n` below 1.
        """
        check_positive("n", n)
        check_index("skill", skill, len(self.heads))
        rng = derive_generator(seed, "planted", "batch")
        inputs = torch.randint(self.n_tokens, (n, self.n_in), generator=rng)
        answers = (inputs + skill) % self.n_tokens
        tokens = torch.cat([inputs, answers[:, :-1]], dim=1)
        return Batch(tokens, answers, torch.full((n,), skill))


def plant(
    seed: int, n_skills: int = 4, n_layers: int = 1, n_tokens: int = 6, n_in: int = 4
) -> Planted:
    """Return a toy with `n_skills` planted heads and a decoy.

    Head k attends from each output to the input it answers and copies its token, moved by k, into
    a block of the residual stream of its own. A hidden unit for each skill and token fires if
    that block holds the token *and* the skill's control channel is on, which only head k can
    write, from a prefix that takes half of its mass. So the skill is the head's, and it is the
    bias that elicits it, through the MLP. The decoy beats the planted head in attention mass, in
    the norm of its bias and in direct logit attribution, and does nothing.

    With two layers the planted heads and the MLP of layer 0 find the answers at the inputs, and a
    head of layer 1 carries them to the outputs: its input alone makes the difference.

    Args:
        seed: decides the rotations and permutations.
        n_skills: planted heads, at most `n_tokens`.
        n_layers: 1 or 2.
        n_tokens: of inputs and answers.
        n_in: inputs.

    Raises:
        PrefixInterpError: a size out of range.
    """
    for name, value in (("n_skills", n_skills), ("n_tokens", n_tokens), ("n_in", n_in)):
        check_positive(name, value)
    if n_skills > n_tokens or n_layers not in (1, 2):
        raise PrefixInterpError(
            f"n_skills={n_skills}, n_layers={n_layers} is out of range; plant at most "
            f"n_tokens={n_tokens} skills in 1 or 2 layers"
        )
    n_heads = n_skills + 1
    at, width = _coordinates(
        token=n_tokens + 1, pos=2 * n_in, block=n_skills * n_tokens, control=n_skills,
        marker=n_heads, decoy=1, answer=n_tokens, logit=n_tokens + 1,
    )  # fmt: skip
    d_head = max(n_tokens + 1, n_in + 1, math.ceil(width / n_heads))
    cfg = ToyConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=n_heads * d_head, n_prefix=1,
        n_content=2 * n_in - 1, d_vocab=n_tokens + 1, d_mlp=n_skills * n_tokens + 2,
        normalization="none",
    )  # fmt: skip
    model = to_dtype(build_toy(cfg, seed), torch.float64)
    vectors = torch.zeros(n_skills, n_layers, 1, cfg.d_model, dtype=torch.float64)
    vectors[range(n_skills), 0, 0, at["marker"][:n_skills]] = 1
    vectors[..., at["marker"][-1]] = 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("unembed.b"):
                parameter.zero_()
        _write_ends(model, at)
        for layer in range(n_layers):
            _write_decoy(model, layer, at)
        _write_skills(model, at, n_skills, n_tokens, n_in, self_reading=n_layers == 2)
        if n_layers == 2:
            _write_relay(model, at, n_tokens, n_in)
        places, turn = _hide(model, derive_generator(seed, "planted", "hide"))
        vectors = vectors @ turn
    where = [place.argsort().tolist() for place in places]  # new index of each old head
    own = model_id(model)
    return Planted(
        model=model,
        prefixes=tuple(Prefix("residual", v, model_id=own) for v in vectors),
        heads=tuple(where[0][:n_skills]),
        decoys=tuple(heads[-1] for heads in where),
        relay=where[1][0] if n_layers == 2 else None,
        n_tokens=n_tokens,
        n_in=n_in,
    )


Places = dict[str, Int[Tensor, " coordinate"]]


def _coordinates(**sizes: int) -> tuple[Places, int]:
    """Return disjoint coordinates of the residual stream by what they hold, and their number."""
    total = sum(sizes.values())
    return dict(zip(sizes, torch.arange(total).split(list(sizes.values())), strict=True)), total


def _write_ends(model: Model, at: Places) -> None:
    """Tokens and positions as one-hot codes; logits read off, and the decoy's way into them."""
    n_vocab = host_of(model).d_vocab
    model.embed.W_E[range(n_vocab), at["token"]] = 1
    model.pos_embed.W_pos[range(host_of(model).n_ctx), at["pos"]] = 1
    model.unembed.W_U[at["logit"], range(n_vocab)] = 1
    # Away from the token that is never right: in favour of whatever is.
    model.unembed.W_U[at["decoy"], n_vocab - 1] = -1


def _write_decoy(model: Model, layer: int, at: Places) -> None:
    attn, mlp = model.blocks[layer].attn, model.blocks[layer].mlp
    attn.W_Q[-1, at["pos"], 0] = 2 * SHARPNESS * attn.attn_scale
    attn.W_K[-1, at["marker"][-1], 0] = 1
    attn.W_V[-1, at["marker"][-1], 0] = DECOY
    attn.W_O[-1, 0, at["decoy"]] = 1
    # gelu(x) - gelu(-x) = x: two hidden units take away exactly what the decoy wrote.
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64)
    mlp.W_in[at["decoy"], -2:] = signs
    mlp.W_out[-2:, at["decoy"]] = -signs[:, None]


def _attend(model: Model, layer: int, head: int, queries: Tensor, keys: Tensor) -> None:
    """Let a head attend from each of some coordinates of the query to one of the key."""
    attn, n = model.blocks[layer].attn, len(keys)
    attn.W_Q[head, queries, range(n)] = SHARPNESS * attn.attn_scale
    attn.W_K[head, keys, range(n)] = 1


def _write_skills(
    model: Model,
    at: Places,
    n_skills: int,
    n_tokens: int,
    n_in: int,
    self_reading: bool,
) -> None:
    """Planted heads of layer 0 and the hidden units that listen to them.

    With `self_reading` each input is answered where it stands instead of at its output.
    """
    first: Any = model.blocks[0]
    attn, mlp = first.attn, first.mlp
    block = at["block"].reshape(n_skills, n_tokens)
    inputs, outputs = at["pos"][1 : 1 + n_in], at["pos"][n_in:]
    tokens, answers = at["token"][:n_tokens], at["answer" if self_reading else "logit"][:n_tokens]
    for skill in range(n_skills):
        marker, control = at["marker"][skill], at["control"][skill]
        _attend(model, 0, skill, inputs if self_reading else outputs, inputs)
        # The marker scores as high as the position attended to, and so takes half of the mass.
        attn.W_Q[skill, at["pos"], n_in] = SHARPNESS * attn.attn_scale
        attn.W_K[skill, marker, n_in] = 1
        attn.W_V[skill, tokens, range(n_tokens)] = 1
        attn.W_V[skill, marker, n_tokens] = 2 * CONTROL
        attn.W_O[skill, range(n_tokens), block[skill].roll(-skill)] = 1
        attn.W_O[skill, n_tokens, control] = 1
        units = range(skill * n_tokens, (skill + 1) * n_tokens)
        mlp.W_in[block[skill], units] = STEEPNESS
        mlp.W_in[control, units] = STEEPNESS
        mlp.b_in[units] = -STEEPNESS * (CONTROL + MARGIN)
        mlp.W_out[units, answers] = GAIN / STEEPNESS


def _write_relay(model: Model, at: Places, n_tokens: int, n_in: int) -> None:
    attn = model.blocks[1].attn
    _attend(model, 1, 0, at["pos"][n_in:], at["pos"][1 : 1 + n_in])
    attn.W_V[0, at["answer"], range(n_tokens)] = 1
    attn.W_O[0, range(n_tokens), at["logit"][:n_tokens]] = 1


def _hide(
    model: Model, rng: torch.Generator
) -> tuple[list[Int[Tensor, " head"]], Float[Tensor, "d_model d_model"]]:
    """Rotate and permute a toy without norms, which leaves what it computes.

    Returns:
        The old head at each new place of each layer, and the rotation of the residual stream.
    """

    def rotation(size: int, *stack: int) -> Tensor:
        return torch.linalg.qr(torch.randn(*stack, size, size, generator=rng).double())[0]

    host = host_of(model)
    turn, places = rotation(host.d_model), []
    for w in (model.embed.W_E, model.pos_embed.W_pos):
        w.copy_(w @ turn)
    model.unembed.W_U.copy_(turn.T @ model.unembed.W_U)
    blocks: Any = model.blocks
    for block in blocks:
        attn, mlp = block.attn, block.mlp
        place = torch.randperm(host.n_heads, generator=rng)
        units = torch.randperm(len(mlp.b_in), generator=rng)
        scores, values = (rotation(host.d_head, host.n_heads) for _ in range(2))
        for w, inside in ((attn.W_Q, scores), (attn.W_K, scores), (attn.W_V, values)):
            w.copy_(turn.T @ w[place] @ inside)
        attn.W_O.copy_(values.mT @ attn.W_O[place] @ turn)
        mlp.W_in.copy_(turn.T @ mlp.W_in[:, units])
        mlp.b_in.copy_(mlp.b_in[units])
        mlp.W_out.copy_(mlp.W_out[units] @ turn)
        places.append(place)
    return places, turn
