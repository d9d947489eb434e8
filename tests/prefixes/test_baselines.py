import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.baselines import baseline_pattern, fast_baseline
from tests.helpers import assert_close, assert_far, raw_model, tokens_for, toy

Site = pi.Site
N = 3


def models():
    return [
        pytest.param(lambda: raw_model(seed=1), N, id="learned"),
        pytest.param(lambda: raw_model(seed=1, positional_embedding_type="rotary"), N, id="rotary"),
        pytest.param(lambda: toy(seed=1), 2, id="toy"),
    ]


def place(model, start):
    """Hooks that put the content at positions from `start`."""
    if model.cfg.positional_embedding_type != "standard":
        return []
    return [(Site.POS_EMBED.at(), lambda x, hook: model.W_pos[start:][: x.shape[1]].expand_as(x))]


@pytest.mark.parametrize("build, start", models())
@pytest.mark.parametrize("baseline", ["masked", "placeholder", "unshifted"])
def test_each_baseline_is_what_it_says(build, start, baseline):
    model = build()
    tokens, prefix = tokens_for(model), pi.Prefix.random(model, N, seed=2)
    pair = pi.run_pair(model, prefix, tokens, baseline)
    if baseline == "masked":
        with model.hooks(fwd_hooks=place(model, start)):
            expected, cache = model.run_with_cache(tokens)
    elif baseline == "placeholder":
        pads = torch.zeros(len(tokens), start, dtype=torch.long)
        expected, cache = model.run_with_cache(torch.cat([pads, tokens], 1))
        expected = expected[:, start:]
    else:
        expected, cache = model.run_with_cache(tokens)
    assert_close(pair.logits_off, expected, 1e-11)
    for layer in range(2):
        for site in (Site.RESID_PRE, Site.Q, Site.Z, Site.MLP_OUT):
            assert_close(pair.off[site.at(layer)], cache[site.at(layer)][:, -5:], 1e-11)
        content = pair.off[Site.PATTERN.at(layer)][..., -5:]
        assert_close(content, cache[Site.PATTERN.at(layer)][:, :, -5:, -5:], 1e-11)
    fast_tokens, hooks = fast_baseline(model, N, tokens, baseline)
    fast = model.run_with_hooks(fast_tokens, fwd_hooks=hooks)[:, -5:]
    assert_close(fast, pair.logits_off, 1e-11)


def test_the_three_baselines_differ():
    model = raw_model(seed=1)
    tokens, prefix = tokens_for(model), pi.Prefix.random(model, N)
    names = ("masked", "placeholder", "unshifted")
    off = {b: pi.run_pair(model, prefix, tokens, b).logits_off for b in names}
    assert_far(off["masked"], off["placeholder"])
    assert_far(off["masked"], off["unshifted"])
    assert_far(off["placeholder"], off["unshifted"])


@pytest.mark.parametrize("arch", [{}, dict(use_qk_norm=True, d_head=8), dict(n_key_value_heads=1)])
@pytest.mark.parametrize("baseline", ["masked", "placeholder", "unshifted"])
def test_caches_are_aligned_on_the_content(arch, baseline):
    model = raw_model(seed=2, use_attn_result=True, **arch)
    tokens, prefix = tokens_for(model), pi.Prefix.random(model, N, seed=3)
    pair = pi.run_pair(model, prefix, tokens, baseline)
    with pi.attach(model, prefix):
        logits, cache = model.run_with_cache(tokens)
    assert torch.equal(pair.logits_on, logits)
    assert pair.baseline == baseline and pair.tokens is tokens
    assert set(pair.on) == set(pair.off) == set(pair.held) == set(cache)
    for name, x in pair.on.items():
        if "pattern" in name or "scores" in name:
            assert x.shape == (2, 2, 5, 5 + N)
            assert pair.off[name].shape[2] == 5
        else:
            assert x.shape == pair.off[name].shape == pair.held[name].shape, name
            rows = cache[name]
            if (
                "attn.q_norm" in name or "attn.k_norm" in name
            ):  # batch, position and head on one axis
                rows = rows.unflatten(0, (2, 8, -1))[:, N:].flatten(0, 2)
                assert torch.equal(x, rows)
            else:
                assert torch.equal(x, rows[:, -5:])


def test_held_gives_every_layer_its_prefixed_input():
    model = raw_model(seed=4, n_layers=3)
    tokens, prefix = tokens_for(model), pi.Prefix.random(model, N, seed=5)
    pair = pi.run_pair(model, prefix, tokens)
    for layer in range(3):
        given = Site.RESID_PRE.at(layer)
        assert torch.equal(pair.held[given], pair.on[given])
        for site in (Site.Q, Site.K, Site.V):  # computed from it alone
            assert_close(pair.held[site.at(layer)], pair.on[site.at(layer)], 1e-12)
        assert torch.equal(
            pair.held[Site.PATTERN.at(layer)][..., :N], torch.zeros(2, 2, 5, N).double()
        )
        # The layer alone, run on that input without a prefix.
        with model.hooks(fwd_hooks=[]):
            alone = model(pair.on[given], start_at_layer=layer, stop_at_layer=layer + 1)
        assert_close(pair.held[Site.RESID_POST.at(layer)], alone, 1e-11)
    for site in (Site.Z, Site.PATTERN, Site.RESID_POST):
        assert_close(pair.held[site.at(0)], pair.off[site.at(0)], 1e-12)
    assert_far(pair.held[Site.Z.at(1)], pair.off[Site.Z.at(1)])


def test_running_leaves_the_model_and_gradients_alone():
    model = raw_model(seed=1)
    tokens, prefix = tokens_for(model), pi.Prefix.random(model, N)
    before = model(tokens)
    pair = pi.run_pair(model, prefix, tokens)
    assert torch.equal(model(tokens), before)
    assert not pair.logits_on.requires_grad and all(p.grad is None for p in model.parameters())


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_baseline_is_refused():
    model = raw_model()
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'masked'"):
        pi.run_pair(model, pi.Prefix.random(model, 2), tokens_for(model), "mask")


def test_a_masking_that_has_no_effect_is_noticed(monkeypatch):
    """As in TransformerLens 4's native models, which ignore writes to hook_attn_scores."""
    from prefix_interp.prefixes import baselines

    monkeypatch.setattr(baselines, "masked_hooks", baselines.layout_hooks)
    model = raw_model()
    with pytest.raises(pi.PrefixInterpError, match="no effect"):
        pi.run_pair(model, pi.Prefix.random(model, 2), tokens_for(model))


def test_a_baseline_pattern_is_that_of_the_masked_run():
    model = toy(seed=1, n_layers=2)
    tokens = tokens_for(model)
    pair = pi.run_pair(model, pi.Prefix.random(model, 5), tokens)
    for layer in range(2):
        expected = pair.off[Site.PATTERN.at(layer)][..., -tokens.shape[1] :]
        assert_close(baseline_pattern(model, tokens, layer), expected, 1e-12)
    bare = raw_model(seed=1)
    with torch.no_grad():
        _, cache = bare.run_with_cache(tokens)
    assert_close(baseline_pattern(bare, tokens), cache[Site.PATTERN.at(0)])
