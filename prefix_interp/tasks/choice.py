"""Multiple choice: each answer against the foils that are named with it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefix_interp.tasks.batch import NO_ANSWER


def logits_at(
    logits: Float[Tensor, "*stack batch n_out d_vocab"], tokens: Int[Tensor, "batch n_out n"]
) -> Float[Tensor, "*stack batch n_out n"]:
    """Return the logits of some tokens at each output; minus infinity where a token is -100.

    Args:
        logits: at the outputs.
        tokens: at each output, filled up with -100.
    """
    index = tokens.clamp(min=0).expand(*logits.shape[:-1], -1)
    return logits.gather(-1, index).masked_fill(tokens == NO_ANSWER, -torch.inf)


def beats_foils(
    logits: Float[Tensor, "*stack batch n_out d_vocab"],
    answers: Int[Tensor, "batch n_out"],
    foils: Int[Tensor, "batch n_out n_foil"],
) -> Bool[Tensor, "*stack batch"]:
    """Return whether every answer of a sequence has a higher logit than each of its foils.

    Args:
        logits: at the outputs.
        answers: the right ones; places without an answer do not count.
        foils: the wrong ones (see `Batch`).

    Example:
        >>> logits, answer = torch.tensor([[[2.0, 1.0, 5.0]]]), torch.tensor([[0]])
        >>> beats_foils(logits, answer, torch.tensor([[[1]]])).item()  # token 2 is no choice
        True
    """
    above = logits_at(logits, answers[..., None]) > logits_at(logits, foils)
    return (above.all(dim=-1) | (answers == NO_ANSWER)).all(dim=-1)
