"""What a head's bias says in words: the logits that it raises and lowers on the direct path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from prefix_interp.inspection.sentences import token_text
from prefix_interp.models.host import Model, host_of

N_TOKENS = 5  # of each end


@dataclass(frozen=True)
class Said:
    """The tokens whose logits the mean bias of a head raises and lowers most.

    Attributes:
        raised: tokens with their logits, the largest first.
        lowered: tokens with their logits, the smallest first.
    """

    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]


def bias_logits(
    model: Model, mean_bias: Float[Tensor, "layer head d_head"], final: Float[Tensor, "row d_model"]
) -> Float[Tensor, "layer head d_vocab"] | None:
    """Return by how much each head's mean bias raises each logit, less the mean over the tokens.

    The bias, through the head's W_O, is taken out of the residual stream behind the last layer:
    the logits that are missing then, through the final norm and the unembedding, are what it said.
    This counts the direct path alone, not what later layers make of the bias.

    Args:
        model: the model that ran.
        mean_bias: of each head, over positions and sequences.
        final: residual streams behind the last layer with the prefix; the mean over them counts.

    Returns:
        Logits, or None if a norm follows the attention, so that no head writes by itself.
    """
    host = host_of(model)
    if host.norms_attention_out:
        return None
    norm = host.final_norm if host.final_norm is not None else torch.nn.Identity()
    found = []
    with torch.no_grad():
        full = norm(final[None])[0]
        for layer, bias in enumerate(mean_bias):
            written = einsum(
                host.cast(bias), host.attention(layer).W_O,
                "head d_head, head d_head d_model -> head d_model",
            )  # fmt: skip
            without = norm(final[None] - written[:, None])  # head row d_model
            logits = (full - without).mean(dim=1) @ host.W_U
            found.append(logits - logits.mean(dim=-1, keepdim=True))
    return torch.stack(found)


def bias_words(
    model: Model, logits: Float[Tensor, "layer head d_vocab"], n: int = N_TOKENS
) -> list[list[Said]]:
    """Return the tokens that each head's bias raises and lowers most, layer by layer.

    Args:
        model: its tokenizer writes the tokens; without one they are numbers.
        logits: from `bias_logits`.
        n: tokens of each end.
    """
    n = min(n, max(1, logits.shape[-1] // 2))

    def ends(largest: bool) -> list[list[tuple[tuple[str, float], ...]]]:
        values, tokens = logits.topk(n, dim=-1, largest=largest)
        return [
            [
                tuple((token_text(model, t), v) for t, v in zip(ts, vs, strict=True))
                for ts, vs in zip(of_layer, own, strict=True)
            ]
            for of_layer, own in zip(tokens.tolist(), values.tolist(), strict=True)
        ]

    return [
        [Said(up, down) for up, down in zip(*both, strict=True)]
        for both in zip(ends(True), ends(False), strict=True)
    ]
