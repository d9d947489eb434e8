"""Putting a soft prompt among the tokens: inserted rows, and which rows of the output to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.models.attention import expand_heads
from prefix_interp.models.host import Model, host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook
from prefix_interp.prefixes.soft_prompt import Layers, check_position

_WRITTEN = (("Q", Site.Q), ("K", Site.K), ("V", Site.V))


def soft_hooks(
    model: Model,
    vectors: Float[Tensor, "*stack layer slot d_model"],
    position: int = 0,
    layers: Layers | str = "embedding",
    *,
    predict_first: bool = False,
    read: bool = True,
) -> list[Hook]:
    """Return forward hooks that put rows among the tokens (see `attach`, which checks more).

    A stack is applied to as many equal blocks of the batch axis, in order; gradients flow to it.

    Positions: in a toy the content keeps its trained positions, slots in front have the reserved
    ones and later slots none. In other models positions are consecutive over slots and content.

    Args:
        model: a supported model.
        vectors: see `SoftPrompt`, with or without a stack axis.
        position: number of content tokens before the slots.
        layers: ``"embedding"`` or ``"all"``.
        predict_first: see `attach`.
        read: restrict the last residual stream to the rows that predict content; False keeps all.

    Raises:
        PrefixInterpError: vectors that do not fit the model or `layers`, unknown `layers`, a
            negative `position`, `predict_first` with a suffix or in GPT-2, or a tokenizer that pads
            on the left; while running, too few tokens, or a batch that the stack does not divide.
    """
    _check_vectors(model, vectors, position, layers)
    _check_padding(model)
    if predict_first and position:
        raise PrefixInterpError(
            f"predict_first=True does not go with position={position}: content stands before the "
            "slots; leave predict_first out"
        )
    host, n_slots = host_of(model), vectors.shape[-2]
    if predict_first and not host.adds_rows:
        raise PrefixInterpError(
            "predict_first=True does not go with a model that shapes its output as its tokens, as "
            "GPT-2 does; give a first token in place of the slot's own row"
        )
    stack = vectors if vectors.ndim == 4 else vectors[None]

    def insert(x: Tensor, rows: Tensor) -> Tensor:
        if x.shape[1] < position:
            raise PrefixInterpError(
                f"tokens have {x.shape[1]} positions, fewer than stand before the slots; give at "
                f"least position={position}"
            )
        return torch.cat([x[:, :position], rows, x[:, position:]], dim=1)

    def rows_for(x: Tensor, rows: Float[Tensor, "stack ..."]) -> Float[Tensor, "batch ..."]:
        if len(x) % len(rows):
            raise PrefixInterpError(
                f"tokens have {len(x)} sequences, no multiple of the {len(rows)} stacked prompts; "
                "give as many for each"
            )
        return rows.repeat_interleave(len(x) // len(rows), dim=0)

    def grow(embed: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        _check_padding(model)  # a call may have set another side
        if layers == "all":
            return insert(embed, embed.new_zeros(len(embed), n_slots, embed.shape[2]))
        return insert(embed, rows_for(embed, stack[:, 0]))

    def place(pos: Float[Tensor, "batch pos d_model"], hook: object) -> Tensor:
        n_content = pos.shape[1] - n_slots if host.places_rows else pos.shape[1]
        return host.position_rows(n_slots, n_content, position).expand(len(pos), -1, -1)

    def overwrite(layer: int, what: str) -> Callable[..., Tensor]:
        def write(x: Float[Tensor, "batch pos any_head d_head"], hook: object) -> Tensor:
            rows = host.attention(layer).project(stack[:, layer], what)
            rows = expand_heads(rows, x.shape[2])
            behind = x[:, position + n_slots :]
            return torch.cat([x[:, :position], rows_for(x, rows), behind], dim=1)

        return write

    def keep(resid: Float[Tensor, "batch all_pos d_model"], hook: object) -> Tensor:
        # The last slot takes over the prediction of the content row before the slots, if any.
        last_slot = position + n_slots - 1
        behind = resid[:, last_slot if position or predict_first else last_slot + 1 :]
        return torch.cat([resid[:, : max(position - 1, 0)], behind], dim=1)

    hooks: list[Hook] = [(Site.EMBED.at(), grow)]
    if host.learned_positions:
        hooks.append((Site.POS_EMBED.at(), place))
    if layers == "all":
        for layer in range(host.n_layers):
            hooks += [(site.at(layer), overwrite(layer, what)) for what, site in _WRITTEN]
    if read:
        hooks.append((Site.RESID_POST.at(host.n_layers - 1), keep))
    return hooks


def _check_vectors(model: Model, vectors: Tensor, position: int, layers: Layers | str) -> None:
    check_choice("layers", layers, get_args(Layers))
    check_position(position)
    host = host_of(model)
    n_layers = 1 if layers == "embedding" else host.n_layers
    shape = tuple(vectors.shape)
    fits = vectors.ndim in (3, 4) and 0 not in shape
    if not fits or (shape[-3], shape[-1]) != (n_layers, host.d_model):
        raise PrefixInterpError(
            f"vectors have shape {shape}; layers={layers!r} needs [stack,] layer, slot, d_model "
            f"with {n_layers} layer{'' if n_layers == 1 else 's'} and d_model of "
            f"{host.d_model}"
        )
    if vectors.dtype != host.dtype:
        raise PrefixInterpError(
            f"vectors are {vectors.dtype} but the model is {host.dtype}; convert them"
        )


def _check_padding(model: Model) -> None:
    if host_of(model).pads_left:
        raise PrefixInterpError(
            "model.tokenizer.padding_side='left' makes TransformerLens mask tokens equal to its "
            "padding token, by a mask without the slots; set it to 'right'"
        )
