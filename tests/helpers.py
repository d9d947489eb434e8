"""Tiny random models, relative closeness, and the oracles that several tests share."""

import warnings

import torch
from hypothesis import strategies as st
from transformer_lens import HookedTransformer, HookedTransformerConfig

import prefix_interp as pi
from prefix_interp.seeds import derive_generator

N_CTX, D_VOCAB = 16, 13


def relative_error(actual, expected):
    """Largest difference over the largest value: 0 means equal, 1 means unrelated."""
    actual, expected = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} is not {tuple(expected.shape)}"
    assert torch.isfinite(actual).all() and torch.isfinite(expected).all()
    scale = expected.abs().max().clamp_min(1e-300)
    return float((actual - expected).abs().max() / scale)


def assert_close(actual, expected, tol=1e-10):
    error = relative_error(actual, expected)
    assert error <= tol, f"relative error {error:.3g} is above {tol:.3g}"


def assert_far(actual, expected, tol=1e-3):
    error = relative_error(actual, expected)
    assert error > tol, f"relative error {error:.3g} is not above {tol:.3g}"


def randomise(model, seed=0, gain=2.0, biases=True):
    """Fill every parameter with noise large enough that attention is far from uniform."""
    rng = derive_generator(seed, "test-weights")
    with torch.no_grad():
        for name, p in model.named_parameters():
            leaf = name.rsplit(".", 1)[-1].lstrip("_")
            rows = p.shape[-2] if p.ndim > 1 else 1
            noise = torch.randn(p.shape, generator=rng, dtype=torch.float64)
            if leaf == "w":
                noise = 1 + 0.3 * noise
            elif leaf.startswith("b"):
                noise = noise * 0.5 if biases else noise * 0
            elif not leaf.startswith("W_E") and not leaf.startswith("W_pos"):
                noise = noise * gain / rows**0.5
            p.copy_(noise)
    return model


def raw_model(seed=0, gain=2.0, biases=True, dtype=torch.float64, **overrides):
    """A random HookedTransformer with a configuration of TransformerLens's own."""
    settings = dict(
        n_layers=2, n_heads=2, d_model=8, d_head=4, d_mlp=12, n_ctx=N_CTX, d_vocab=D_VOCAB,
        act_fn="gelu", normalization_type="LN", init_weights=False, default_prepend_bos=False,
        device="cpu", dtype=dtype,
    ) | overrides  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig(**settings))
    return randomise(model, seed, gain, biases)


def toy(seed=0, dtype=torch.float64, gain=2.0, **settings):
    """A small toy with random weights instead of minGPT's initialisation."""
    settings = dict(n_layers=2, n_heads=2, d_model=8, n_prefix=2, n_content=7) | settings
    model = pi.to_dtype(pi.build_toy(pi.ToyConfig(**settings), seed=seed), dtype)
    return randomise(model, seed, gain)


def tokens_for(model, batch=2, length=5, seed=0):
    rng = derive_generator(seed, "test-tokens")
    return torch.randint(model.cfg.d_vocab, (batch, length), generator=rng)


def forward_hooks(model):
    """Every hook that stands on any module, TransformerLens's or torch's own, and added names."""
    count = sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.modules()
    )
    points = sum(len(p.fwd_hooks) + len(p.bwd_hooks) for p in model.hook_dict.values())
    return count, points, frozenset(vars(model))


@st.composite
def architectures(draw):
    """Settings of `raw_model`, over everything that a prefix is said to fit."""
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    n_heads, rotary = pick(1, 2, 4), pick(False, True)
    settings = dict(
        n_layers=pick(1, 2, 3),
        n_heads=n_heads,
        d_model=pick(6, 8, 12),
        d_head=pick(2, 4, 8),
        normalization_type=pick("LN", "LNPre", "RMS", "RMSPre", None),
        positional_embedding_type="rotary" if rotary else "standard",
        attn_only=pick(False, False, True),
        use_qk_norm=pick(False, False, True),
        attn_scores_soft_cap=pick(-1.0, -1.0, 3.0),
        clip_qkv=pick(None, None, None, 1.0),
        attention_dir=pick("causal", "causal", "causal", "bidirectional"),
        scale_attn_by_inverse_layer_idx=pick(False, False, True),
        use_attn_scale=pick(True, True, False),
        use_split_qkv_input=pick(False, False, True),
        use_attn_result=pick(False, False, True),
        output_logits_soft_cap=pick(-1.0, -1.0, 5.0),
        post_embedding_ln=pick(False, False, False, True),
    )
    if n_heads > 1 and pick(False, True):
        settings |= dict(n_key_value_heads=n_heads // 2)
        settings |= dict(ungroup_grouped_query_attention=pick(False, True))
    if rotary:
        settings |= dict(rotary_dim=pick(settings["d_head"], 2), rotary_adjacent_pairs=pick(0, 1))
        settings |= dict(rotary_base=pick(10000, 50))
    if not settings["attn_only"]:
        settings |= dict(
            parallel_attn_mlp=pick(False, True), gated_mlp=pick(False, True),
            act_fn=pick("gelu", "relu", "silu"),
        )  # fmt: skip
    if settings["normalization_type"] == "RMS":
        settings |= dict(use_normalization_before_and_after=pick(False, True))
    return settings
