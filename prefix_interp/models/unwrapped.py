"""A Hugging Face model before it is wrapped: what it computes, and how it is put back.

TransformerLens rewires a model in place, and computes some architectures wrongly. So the model's
own logits are taken first and compared, and one that is refused is given back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from prefix_interp.errors import PrefixInterpError

_PROBE = 8  # tokens
# What a model that TransformerLens does not know raises, somewhere inside.
PROBLEMS = (
    ValueError, NotImplementedError, RuntimeError, AttributeError, AssertionError, KeyError,
    TypeError, IndexError,
)  # fmt: skip
_DICTS = ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def causal_logits(model: PreTrainedModel) -> Float[Tensor, "2 pos d_vocab"]:
    """Return the model's logits of two texts that differ in their last token.

    Raises:
        PrefixInterpError: an encoder-decoder, or an earlier position sees the last token.
    """
    if getattr(model.config, "is_encoder_decoder", False):
        raise PrefixInterpError(
            f"model={type(model).__name__} has an encoder and a decoder; only causal language "
            "models are supported"
        )
    logits = _run(model)
    if _apart(logits[0, :-1], logits[1, :-1]) > _tolerance(logits.dtype):
        raise PrefixInterpError(
            f"model={type(model).__name__} lets earlier positions see later ones; only causal "
            "language models are supported (of BERT and the like, is_decoder=True)"
        )
    return logits


def check_same_logits(model: PreTrainedModel, before: Float[Tensor, "2 pos d_vocab"]) -> None:
    """Raise unless the wrapped model still gives the logits that it gave.

    Args:
        model: wrapped.
        before: from `causal_logits`.
    """
    apart = _apart(_run(model), before)
    if not apart <= _tolerance(before.dtype):
        raise PrefixInterpError(
            f"model={type(model).__name__} is computed otherwise under TransformerLens: its logits "
            f"change by {apart:.1g} of the largest; it is not supported"
        )


@contextmanager
def unchanged_if_refused(model: PreTrainedModel) -> Iterator[None]:
    """Put the model back as it was if the block raises; its dtype and device stay.

    Args:
        model: to be wrapped in the block.

    Raises:
        PrefixInterpError: in place of what comes out of TransformerLens.
    """
    config: Any = model.config
    settings = dict(vars(config))
    kept = [(module, _copied(vars(module))) for module in model.modules()]
    try:
        yield
    except BaseException as error:
        for module, own in kept:
            vars(module).clear()
            vars(module).update(own)
        vars(config).clear()
        vars(config).update(settings)
        if isinstance(error, PROBLEMS) and not isinstance(error, PrefixInterpError):
            raise PrefixInterpError(
                f"model={type(model).__name__} is not supported under TransformerLens: "
                f"{first_line(error)}"
            ) from error
        raise


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a module, with copies of what it registers things in."""
    own = {name: state[name].copy() for name in _DICTS if name in state}
    return {**state, **own}


def _run(model: PreTrainedModel) -> Float[Tensor, "2 pos d_vocab"]:
    embedding: Any = model.get_input_embeddings()
    n = embedding.weight.shape[0]
    tokens = torch.arange(_PROBE, device=embedding.weight.device) % n
    other = tokens.clone()
    other[-1] = (tokens[-1] + 1) % n
    with torch.no_grad():
        found = model(input_ids=torch.stack([tokens, other]), use_cache=False)
    if not isinstance(getattr(found, "logits", None), Tensor):
        raise PrefixInterpError(
            f"model={type(model).__name__} gives no logits; give a causal language model, with its "
            "head"
        )
    return found.logits


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, over the largest value."""
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / b.abs().max().clamp_min(torch.finfo(b.dtype).tiny))


def _tolerance(dtype: torch.dtype) -> float:
    eps = torch.finfo(dtype).eps
    return 1e-4 if eps < 1e-5 else 20 * eps
