"""Helpers for every model of the library: type, fingerprint, copy and precision."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

Model = HookedTransformer


@contextmanager
def quiet_deprecation() -> Iterator[None]:
    """Silence TransformerLens 3.9's warning at every construction that 4.0 drops the class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def bare_model(cfg: HookedTransformerConfig) -> Model:
    """Return a model of this configuration; the caller must set its weights."""
    with quiet_deprecation():
        return HookedTransformer(cfg)


def zero_model(
    *, n_layers: int, n_heads: int, d_model: int, d_head: int, d_mlp: int, n_ctx: int, d_vocab: int
) -> Model:
    """Return a float64 transformer of zeros: ReLU, no norms, scores that are not scaled.

    For weights that are set by hand: every nonzero weight is then one that the caller wrote.

    Args:
        n_layers: number of blocks.
        n_heads: heads of a block.
        d_model: width of the residual stream.
        d_head: width of a head.
        d_mlp: hidden width of the MLP.
        n_ctx: positions.
        d_vocab: tokens.
    """
    model = bare_model(
        HookedTransformerConfig(
            n_layers=n_layers,
            n_heads=n_heads,
            d_model=d_model,
            d_head=d_head,
            d_mlp=d_mlp,
            n_ctx=n_ctx,
            d_vocab=d_vocab,
            act_fn="relu",
            normalization_type=None,
            use_attn_scale=False,
            init_weights=False,
            default_prepend_bos=False,
            device="cpu",
            dtype=torch.float64,
        )
    )
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def to_dtype(model: Model, dtype: torch.dtype) -> Model:
    """Return `model` itself, converted; its norms compute in `dtype` from then on too.

    Example:
        >>> pi.to_dtype(model, torch.float64).W_E.dtype
        torch.float64
    """
    model.cfg.dtype = dtype  # TransformerLens casts to this dtype, not to that of the weights
    model.to(dtype, print_details=False)
    return model


def clone(model: Model) -> Model:
    """Return an independent copy of `model` with the same weights and no added hooks."""
    copied = copy.deepcopy(model)
    copied.reset_hooks()
    return copied


def model_id(model: Model) -> str:
    """Return a short fingerprint of everything in `model` that a prefix depends on.

    Large weights are only sampled: enough, at little cost, to tell fine-tuned copies apart.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // 4096)
        digest.update(name.encode() + str(tuple(parameter.shape)).encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
