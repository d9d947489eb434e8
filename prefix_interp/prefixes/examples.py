"""In-context examples: solved sequences in front of the one to solve."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import HookedTransformer

from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.toy import reserved_slots
from prefix_interp.prefixes.layout import check_vocabulary
from prefix_interp.prefixes.soft_prompt import SoftPrompt


def examples_prompt(model: HookedTransformer, examples: Int[Tensor, "example pos"]) -> SoftPrompt:
    """Return solved sequences as a prompt: inputs and all answers, one example after the other.

    In a toy each example stands at the positions that its content was trained at (the last answer,
    which is never fed in training, at the last of them), since it knows no others. In other models
    positions are counted through.

    Args:
        model: gives embeddings and positions.
        examples: inputs followed by all of their answers, one row each.

    Raises:
        PrefixInterpError: no examples, tokens outside the vocabulary, or more positions than the
            context holds.
    """
    start = reserved_slots(model)
    room = model.cfg.n_ctx - (start or 0) + 1  # the last answer is never fed
    if examples.ndim != 2 or examples.shape[1] > room:
        raise PrefixInterpError(
            f"examples have shape {tuple(examples.shape)}; give two axes, example and pos, of at "
            f"most {room} positions"
        )
    check_vocabulary(model, examples)
    whole = examples.to(model.W_E.device)
    with torch.no_grad():
        rows = model.embed(whole)
        if start is not None:
            length = whole.shape[1]
            position = (start + torch.arange(length)).clamp(max=model.cfg.n_ctx - 1)
            # What the layout adds to slots in front is taken off again.
            slot = torch.arange(len(whole) * length).clamp(max=start - 1)
            rows = rows + model.W_pos[position] - model.W_pos[slot].unflatten(0, (-1, length))
    return SoftPrompt(rows.flatten(0, 1)[None])
