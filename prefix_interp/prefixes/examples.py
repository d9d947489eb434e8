"""In-context examples: solved sequences in front of the one to solve."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model, host_of
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.soft_prompt import SoftPrompt


def examples_prompt(model: Model, examples: Int[Tensor, "example pos"]) -> SoftPrompt:
    """Return solved sequences as a prompt: inputs and all answers, one example after the other.

    In a toy, which has no other positions, each example stands at the positions that the content
    was trained at; the last answer, never fed in training, stands at the last of them. In other
    models positions are consecutive.

    Args:
        model: source of embeddings and positions.
        examples: inputs followed by all of their answers, one row each.

    Raises:
        PrefixInterpError: no examples, tokens outside the vocabulary, or more positions than the
            context holds.
    """
    host = host_of(model)
    room = host.room(0) + 1  # the last answer is never fed
    if examples.ndim != 2 or examples.shape[1] > room:
        raise PrefixInterpError(
            f"examples have shape {tuple(examples.shape)}; give two axes, example and pos, of at "
            f"most {room} positions"
        )
    check_vocabulary(model, examples)
    with torch.no_grad():
        rows = host.embed(examples)  # example pos d_model
        if host.n_reserved is not None:
            length = examples.shape[1]
            position = (host.n_reserved + torch.arange(length)).clamp(max=host.n_ctx - 1)
            # The layout will add positions to slots in front: subtract them here.
            added = host.slot_positions(examples.numel())
            added = rearrange(added, "(example pos) d_model -> example pos d_model", pos=length)
            rows = rows + host.W_pos[position] - added
    return SoftPrompt(rearrange(rows, "example pos d_model -> 1 (example pos) d_model"))
