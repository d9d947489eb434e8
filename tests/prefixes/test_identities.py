"""Eq. 6, eq. 7, the rank bound and the three injections, on random architectures in float64."""

import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.inject import prefix_cache
from prefix_interp.theory.subspace import subspaces_of
from tests.helpers import architectures, assert_close, raw_model, tokens_for

prefix_settings = st.fixed_dictionaries(
    {
        "n_slots": st.integers(1, 6),
        "parameterization": st.sampled_from(["residual", "kv"]),
        "std": st.sampled_from([0.5, 1.0, 3.0]),
    }
)


@given(
    architectures(),
    prefix_settings,
    st.integers(0, 999),
    st.booleans(),
    st.sampled_from([0.7, 2.0, 4.0]),
    st.integers(1, 3),
    st.integers(1, 7),
)
def test_the_theorem_and_the_three_injections(arch, spec, seed, biases, gain, batch, length):
    model = raw_model(seed, gain=gain, biases=biases, **arch)
    tokens = tokens_for(model, batch, length, seed)
    drawn = pi.Prefix.random(model, seed=seed, **spec)
    n, layers = drawn.n_slots, range(model.cfg.n_layers)
    event(f"{arch['normalization_type']}, {arch['positional_embedding_type']}")

    # Three injections: the same logits, and the same gradients with respect to the prefix.
    leaves = {k: v.clone().requires_grad_() for k, v in drawn.tensors.items()}
    prefix = pi.Prefix(drawn.parameterization, **leaves)
    outputs = {}
    for method in ("slots", "mixture"):
        with pi.attach(model, prefix, method):
            outputs[method] = model(tokens)
    if not arch.get("ungroup_grouped_query_attention"):  # TransformerLens has no cache for it
        cache = prefix_cache(model, prefix, batch)
        ones = torch.ones_like(tokens)
        outputs["cache"] = model(tokens, past_kv_cache=cache, attention_mask=ones)
    weights = torch.randn(outputs["slots"].shape, generator=torch.Generator().manual_seed(seed))
    grads = {
        name: torch.autograd.grad((out * weights).sum(), list(leaves.values()))
        for name, out in outputs.items()
    }
    for name in outputs.keys() - {"slots"}:
        assert_close(outputs[name].detach(), outputs["slots"].detach(), 1e-10)
        flat = [torch.cat([g.flatten() for g in grads[m]]) for m in (name, "slots")]
        # Where clip_qkv clips every number of a prefix, its gradient is rounding alone.
        assert (flat[0] - flat[1]).abs().max() <= 1e-9 * flat[1].abs().max().clamp_min(1e-3)

    # Eq. 6 and 7, read off the caches and not through decompose_attention.
    pair = pi.run_pair(model, drawn, tokens)
    for layer in layers:
        on, held = pair.on[pi.Site.PATTERN.at(layer)], pair.held[pi.Site.PATTERN.at(layer)]
        gate = on[..., :n].sum(-1, keepdim=True)
        assert_close(on.sum(-1), torch.ones_like(on[..., 0]), 1e-12)
        assert (on[..., n:] - (1 - gate) * held[..., n:]).abs().max() <= 1e-10
        bias = (
            pair.on[pi.Site.Z.at(layer)]
            - (1 - gate).transpose(1, 2) * pair.held[pi.Site.Z.at(layer)]
        )
        _, values = drawn.keys_values(model)[layer]
        if model.cfg.clip_qkv is not None:
            values = values.clamp(-model.cfg.clip_qkv, model.cfg.clip_qkv)
        values = values.repeat_interleave(model.cfg.n_heads // values.shape[1], dim=1)
        expected = torch.einsum("bhqs,shd->bqhd", on[..., :n], values)
        scale = pair.on[pi.Site.Z.at(layer)].abs().max()
        assert (bias - expected).abs().max() <= 1e-10 * scale
    errors = pi.decompose_attention(pair).max_errors()
    assert errors["eq6"] < 1e-10 and errors["eq7"] < 1e-10, errors
    first = pi.Site.RESID_PRE.at(0)
    assert torch.equal(pair.on[first], pair.off[first])
    assert_close(pair.held[pi.Site.Z.at(0)], pair.off[pi.Site.Z.at(0)], 1e-12)


@given(architectures(), st.integers(1, 3), st.sampled_from(["residual", "kv"]), st.integers(0, 999))
def test_a_bias_has_rank_n_s_a_head_and_n_s_n_heads_a_layer(arch, n, parameterization, seed):
    arch = arch | dict(d_model=24, d_head=8)
    if arch.get("rotary_dim"):
        arch["rotary_dim"] = 8
    model = raw_model(seed, **arch)
    tokens = tokens_for(model, batch=6, length=7, seed=seed)  # 42 rows
    prefix = pi.Prefix.random(model, n, seed=seed, parameterization=parameterization)
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    for layer in range(model.cfg.n_layers):
        # Without mass on the slots the bias is zero, and what is measured is the rounding of t.
        assume(parts.gate[layer].mean((0, 2)).min() > 1e-3)
        *heads, whole = subspaces_of(parts, model, n, layer)
        for space, bound in [(whole, min(24, n * len(heads))), *((each, n) for each in heads)]:
            assert space.bound == bound
            if bound < len(space.singular_values):
                assert space.singular_values[bound] < 1e-10 * space.singular_values[0]
            assert space.rank <= bound
            assert space.effective_rank <= space.rank + 1e-9
