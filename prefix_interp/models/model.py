"""Helpers for every model of the library: type, fingerprint, copy and precision."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

Model = HookedTransformer | TransformerBridge


def hub_model(model: TransformerBridge) -> PreTrainedModel:
    """Return the Hugging Face model under a bridge."""
    return cast(PreTrainedModel, model.original_model)


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
    if isinstance(model, HookedTransformer):
        model.to(dtype, print_details=False)
    else:
        model.to(dtype)
    return model


def clone(model: Model) -> Model:
    """Return an independent copy of `model` with the same weights and no added hooks."""
    copied = copy.deepcopy(model)
    copied.reset_hooks()
    return copied


def model_id(model: Model) -> str:
    """Return a fingerprint of everything in `model` that its outputs depend on.

    All weights, buffers, scales and settings count; device and precision do not, so a copy in
    float64 has the id of its float32 original. It is computed once and remembered until something
    changes. Version counters tell, and since a write through ``.data`` does not count, so does a
    sample: of a matrix with more than 20,000 weights every 61st, with more than two million every
    4,099th. A write through ``.data`` to a single weight of such a matrix can go unnoticed. 176
    million weights take half a second, once.

    Returns:
        32 hexadecimal digits.
    """
    state = _state(model)
    if _KNOWN.get(model, (None, ""))[0] != state:
        digest = hashlib.sha256(_settings(model).encode())
        for name, x in _tensors(model):
            name = name.replace("_orig_mod.", "")  # of a layer that is compiled
            digest.update(f"{name} {tuple(x.shape)}".encode())
            digest.update(_bytes_of_values(x))
        _KNOWN[model] = state, digest.hexdigest()[:32]
    return _KNOWN[model][1]


def has_id(model: Model, fingerprint: str) -> bool:
    """Return whether `fingerprint` is that of `model`, in today's form or that of version 0.2.

    Args:
        model: any model.
        fingerprint: from `model_id`; one of 16 digits is of the older form, which only sampled
            the weights.
    """
    own = _sampled_id(model) if len(fingerprint) == _OLD_DIGITS else model_id(model)
    return fingerprint == own


# What says where and how a model runs or was made, not what it computes.
_NOT_ITS_FUNCTION = {
    "device", "dtype", "n_devices", "seed", "n_params", "model_name", "tokenizer_name",
    "tokenizer_prepends_bos", "default_prepend_bos", "trust_remote_code", "from_checkpoint",
    "checkpoint_index", "checkpoint_label_type", "checkpoint_value", "init_mode", "init_weights",
    "initializer_range", "use_attn_result", "use_split_qkv_input", "use_hook_mlp_in",
    "use_attn_in", "use_hook_tokens", "ungroup_grouped_query_attention",
    "decoder_start_token_id", "layer_norm_folding", "tie_word_embeddings",
}  # fmt: skip
# The same of a configuration of Hugging Face.
NOT_OF_HUB = {
    "_name_or_path", "dtype", "torch_dtype", "use_cache", "transformers_version",
    "_attn_implementation_autoset", "output_attentions", "output_hidden_states", "return_dict",
    "problem_type", "architectures", "id2label", "label2id", "chunk_size_feed_forward",
}  # fmt: skip
_OLD_DIGITS = 16
_KNOWN: WeakKeyDictionary[Model, tuple[Any, str]] = WeakKeyDictionary()


def _settings(model: Model) -> str:
    """Return the configuration as text, and the scales that modules have taken from it.

    Settings at their default are left out: a newer TransformerLens may add some.
    """
    if isinstance(model, TransformerBridge):
        return _hub_settings(model)
    defaults = {f.name: f.default for f in fields(model.cfg)}
    said = [
        f"{name}={float(value) if type(value) is int else value}"
        for name, value in sorted(vars(model.cfg).items())
        if name not in _NOT_ITS_FUNCTION and value != defaults.get(name)
    ]
    for module in model.modules():
        own = vars(module)  # getattr on a module is slow
        said += [f"{name}={float(own[name])}" for name in ("attn_scale", "eps") if name in own]
        if "Norm" in type(module).__name__:  # those with folded weights have none that tell
            said.append(type(module).__name__)
    return "; ".join(said)


def _hub_settings(model: TransformerBridge) -> str:
    """Return a language model's configuration as text; its weights are Hugging Face's own."""
    found = hub_model(model).config.to_dict()
    said = [f"{name}={value}" for name, value in sorted(found.items()) if name not in NOT_OF_HUB]
    for module in hub_model(model).modules():
        own = vars(module)
        said += [f"{name}={own[name]}" for name in ("scaling", "eps") if name in own]
    return "; ".join(said)


def _tensors(model: Model) -> Iterator[tuple[str, Tensor]]:
    # A tensor that two layers share counts in both; rotations are buffers.
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _bytes_of_values(x: Tensor) -> bytes:
    """Return bytes that say the values of `x`, whatever precision holds them."""
    x = x.detach().cpu().contiguous()
    if x.is_floating_point():
        single = x.float()
        x = single if x.dtype != torch.float64 or torch.equal(single.double(), x) else x
    return x.flatten().view(torch.uint8).numpy().tobytes()


def _state(model: Model) -> tuple[Any, ...]:
    """Return what differs whenever the fingerprint could; cheap."""
    tensors = [x.detach() for _, x in _tensors(model)]
    counters = [
        (x.data_ptr(), x.dtype, x.shape, None if x.is_inference() else x._version) for x in tensors
    ]
    # A prime stride: with one that divides the length of a row, whole columns would be left out.
    some = [
        x.reshape(-1)[:: 1 if x.numel() < 20_000 else 61 if x.numel() < 2_000_000 else 4099]
        for x in tensors
        if x.is_floating_point()
    ]
    return counters, _settings(model), torch.cat(some).float().cpu().numpy().tobytes()


def _sampled_id(model: Model) -> str:
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // 4096)
        digest.update(name.encode() + str(tuple(parameter.shape)).encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:_OLD_DIGITS]
