"""Language models of the Llama architecture as HookedTransformers, from weights in memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformer_lens import HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions.llama import convert_llama_weights
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS
from transformers import LlamaForCausalLM

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.models.model import Model, bare_model

_CHECKED = 16  # tokens
_TOLERANCE = 1e-4  # of the largest logit, float32: SmolLM2 is at 1.5e-6


def hook_llama(hf_model: Any, n_ctx: int = 256) -> Model:
    """Return a Hugging Face model of the Llama architecture as a HookedTransformer.

    No weights are folded or centred, so residual stream and embeddings are those of `hf_model`.
    Logits agree to rounding, which is checked on a few tokens. TransformerLens loads models by name
    from a hub; this function takes the model itself.

    Args:
        hf_model: a transformers ``LlamaForCausalLM``; it keeps its weights, float32 is best.
        n_ctx: longest sequence, slots included; each layer keeps a mask of n_ctx x n_ctx.

    Raises:
        PrefixInterpError: another architecture, scaled rotations, biases, an adapter, more context
            than the model was made for, or logits that differ.
    """
    if not isinstance(hf_model, LlamaForCausalLM):
        raise PrefixInterpError(
            f"hf_model={type(hf_model).__name__} is not supported; give a transformers "
            "LlamaForCausalLM"
        )
    hf: Any = hf_model.config
    check_positive("n_ctx", n_ctx)
    if n_ctx > hf.max_position_embeddings:
        raise PrefixInterpError(
            f"n_ctx={n_ctx} is more than the model's {hf.max_position_embeddings}; give less"
        )
    rope = hf.rope_parameters
    d_head = hf.head_dim or hf.hidden_size // hf.num_attention_heads
    plain = {
        "rope_parameters['rope_type']": (rope["rope_type"], "default"),
        "attention_bias": (hf.attention_bias, False),
        "mlp_bias": (hf.mlp_bias, False),
        "head_dim": (d_head, hf.hidden_size // hf.num_attention_heads),
    }
    for name, (value, allowed) in plain.items():
        if value != allowed:
            raise PrefixInterpError(
                f"hf_model.config.{name}={value!r} is not supported, only {allowed!r}; use a "
                "model without it"
            )
    act_fn = "silu" if hf.hidden_act == "swish" else hf.hidden_act  # two names of one function
    if act_fn not in SUPPORTED_ACTIVATIONS:
        raise PrefixInterpError(
            f"hf_model.config.hidden_act={hf.hidden_act!r} is not one of TransformerLens's "
            f"{', '.join(map(repr, SUPPORTED_ACTIVATIONS))}; use a model with one of these"
        )
    with torch.device("meta"):
        more = sorted(set(hf_model.state_dict()) - set(LlamaForCausalLM(hf).state_dict()))
    if more:
        raise PrefixInterpError(
            f"hf_model holds {more[0]!r}, which a plain LlamaForCausalLM does not; merge an "
            "adapter into the weights first"
        )
    grouped = hf.num_key_value_heads != hf.num_attention_heads
    cfg = HookedTransformerConfig(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=hf.num_key_value_heads if grouped else None,
        d_head=d_head,
        d_mlp=hf.intermediate_size,
        d_vocab=hf.vocab_size,
        n_ctx=n_ctx,
        act_fn=act_fn,
        eps=hf.rms_norm_eps,
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        rotary_adjacent_pairs=False,
        rotary_dim=d_head,
        rotary_base=rope["rope_theta"],
        original_architecture="LlamaForCausalLM",
        tokenizer_prepends_bos=False,
        dtype=hf_model.dtype,
        device=str(hf_model.device),
        init_weights=False,
    )
    model = bare_model(cfg)
    with torch.no_grad():
        weights = {k: v.detach().clone() for k, v in convert_llama_weights(hf_model, cfg).items()}
        # Buffers (masks, rotations) stay those of the HookedTransformer.
        missing = model.load_state_dict(weights, strict=False).missing_keys
    left = set(missing) & {name for name, _ in model.named_parameters()}
    if left:
        raise PrefixInterpError(f"hf_model has no weights for {sorted(left)[0]}; use another model")
    if cfg.dtype in (torch.float16, torch.bfloat16):
        # In 16 bits, rounding over many layers can hide a wrong module: check a float32 copy.
        hook_llama(copy.deepcopy(hf_model).float(), min(n_ctx, _CHECKED))
    else:
        _check_same(hf_model, model)
    return model.eval()


def _check_same(hf_model: Any, model: Model) -> None:
    """Raise unless both models return the same logits: modules may do more than the config says."""
    n = min(_CHECKED, model.cfg.n_ctx)
    tokens = torch.linspace(0, model.cfg.d_vocab - 1, n, device=model.W_E.device).long()[None]
    training = [(module, module.training) for module in hf_model.modules()]
    try:
        with torch.no_grad():
            theirs, ours = hf_model.eval()(tokens).logits.double(), model.eval()(tokens).double()
    finally:
        for module, flag in training:
            module.training = flag
    largest = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
    off = float((ours - theirs).abs().max() / largest)
    if not off <= _TOLERANCE:
        raise PrefixInterpError(
            f"hf_model's logits differ by {off:.2g} of the largest, allowed is {_TOLERANCE:.2g}: a "
            "module does more than its config says, or .half() rounded its rotations; give a "
            "LlamaForCausalLM as from_pretrained(dtype=...) loads it"
        )
