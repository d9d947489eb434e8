import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.prefixes.layout import offset_hooks
from prefix_interp.theory.projection import (
    projection_hooks,
    random_subspace_like,
    through_output,
)
from prefix_interp.theory.subspace import BiasSubspace, bias_subspaces
from tests.helpers import architectures, assert_close, assert_far, raw_model, tokens_for

Site = pi.Site
N = 2


def setting(seed=1, n=N, **overrides):
    model = raw_model(seed, **dict(n_layers=2, d_model=12, d_head=6) | overrides)
    tokens = tokens_for(model, 4, 7)
    return model, pi.Prefix.random(model, n, seed=seed + 1), tokens


def run(model, prefix, tokens, hooks, method="slots"):
    """Logits, and what stands behind the hooks: the cache's own hooks are added last."""
    with torch.no_grad(), pi.attach(model, prefix, method), model.hooks(fwd_hooks=hooks):
        logits, cache = model.run_with_cache(tokens)
    return logits, cache


def written(cache, site, layer, n_content):
    return cache[site.at(layer)][:, -n_content:]


def project(x, basis):
    """The loop: take off each direction's share."""
    y = torch.zeros_like(x)
    for direction in basis:
        y = y + (x @ direction)[..., None] * direction
    return y


def test_heads_lose_what_a_loop_takes_off():
    model, prefix, tokens = setting()
    pair = pi.run_pair(model, prefix, tokens)
    dec = pi.decompose_attention(pair)
    space = pi.bias_subspace(model, prefix, tokens, layer=1, head=0)
    wide = random_subspace_like(space, 5)  # of the same place, but not the bias's own
    for own in (space, wide):
        on, off, bias = pair.on["z", 1][:, :, 0], pair.off["z", 1][:, :, 0], dec.bias[1, :, 0]
        oracles = {
            "output": on - project(on, own.basis),
            "restore": on - project(on, own.basis) + project(off, own.basis),
            "isolate": off + project(on - off, own.basis),
            "bias": on - project(bias, own.basis),
        }
        for remove, expected in oracles.items():
            options = {"plain": pair.off} if remove in ("restore", "isolate") else {}
            options |= {"prefix": prefix} if remove == "bias" else {}
            hooks = projection_hooks(model, [own], remove, **options)
            _, cache = run(model, prefix, tokens, hooks)
            z = written(cache, Site.Z, 1, 7)
            assert_close(z[:, :, 0], expected, 1e-10)
            other = pair.off if remove == "isolate" else pair.on
            assert_close(z[:, :, 1], other["z", 1][:, :, 1], 1e-12)
            assert_close(written(cache, Site.Z, 0, 7), pair.on["z", 0], 1e-12)
    assert_far(pair.on["z", 1][:, :, 0], project(pair.on["z", 1][:, :, 0], space.basis), 1e-2)


def test_a_layer_loses_what_a_loop_takes_off_and_keeps_b_o():
    model, prefix, tokens = setting(seed=3)
    pair = pi.run_pair(model, prefix, tokens)
    dec = pi.decompose_attention(pair)
    (*_, own) = bias_subspaces(model, prefix, tokens, layer=1)
    w_o, b_o = model.blocks[1].attn.W_O.detach(), model.blocks[1].attn.b_O.detach()
    on, off = (cache[Site.ATTN_OUT.at(1)] for cache in (pair.on, pair.off))
    bias = sum(dec.bias[1, :, h] @ w_o[h] for h in range(2))
    heads = sum(pair.on["z", 1][:, :, h] @ w_o[h] for h in range(2))
    oracles = {
        "output": heads - project(heads, own.basis) + b_o,
        "restore": on - project(on - off, own.basis),
        "isolate": off + project(on - off, own.basis),
        "bias": on - project(bias, own.basis),
    }
    for remove, expected in oracles.items():
        options = {"plain": pair.off} if remove in ("restore", "isolate") else {}
        options |= {"prefix": prefix} if remove == "bias" else {}
        _, cache = run(model, prefix, tokens, projection_hooks(model, [own], remove, **options))
        assert_close(written(cache, Site.ATTN_OUT, 1, 7), expected, 1e-10)
    assert b_o.abs().max() > 0.1


def test_without_the_bias_a_head_writes_what_is_left_of_the_pretrained_output():
    """Eq. 7: taking the bias out of its own subspace leaves (1 - g) t, in a layer as in heads."""
    model, prefix, tokens = setting(seed=4, n_layers=1)
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    *heads, layer = bias_subspaces(model, prefix, tokens)
    logits, cache = run(
        model, prefix, tokens, projection_hooks(model, heads, "bias", prefix=prefix)
    )
    left = parts.scaled_base[0].transpose(1, 2)
    assert_close(written(cache, Site.Z, 0, 7), left, 1e-10)
    whole, _ = run(model, prefix, tokens, projection_hooks(model, [layer], "bias", prefix=prefix))
    assert_close(whole, logits, 1e-10)


@pytest.mark.parametrize("remove", ["output", "restore", "isolate"])
def test_twice_is_once_and_nothing_removed_is_nothing_changed(remove):
    model, prefix, tokens = setting(seed=5)
    pair = pi.run_pair(model, prefix, tokens)
    options = {"plain": pair.off} if remove != "output" else {}
    spaces = bias_subspaces(model, prefix, tokens, layer=0)[:2]
    hooks = projection_hooks(model, spaces, remove, **options)
    once, _ = run(model, prefix, tokens, hooks)
    twice, _ = run(model, prefix, tokens, [*hooks, *hooks])
    assert_close(twice, once, 1e-10)
    assert_far(once, pair.logits_on)
    assert_far(once, pair.logits_off)
    empty = [BiasSubspace("head", 0, h, 2, torch.zeros(1).double(), s.directions[:1], 9)
             for h, s in enumerate(spaces)]  # fmt: skip
    same, _ = run(model, prefix, tokens, projection_hooks(model, empty, remove, **options))
    # Nothing removed; or, if everything else is held, all heads of layer 0 without the prefix.
    if remove == "isolate":
        assert_far(same, pair.logits_on)
    else:
        assert torch.equal(same, pair.logits_on)


def test_a_subspace_that_nothing_is_written_in_does_not_matter():
    model, prefix, tokens = setting(seed=6, n_layers=1, n_heads=1, d_head=8)
    with torch.no_grad():  # values live in the first 5 dimensions
        model.blocks[0].attn.W_V[..., 5:] = 0
        model.blocks[0].attn.b_V[..., 5:] = 0
    pair = pi.run_pair(model, prefix, tokens)
    corner = torch.eye(8, dtype=torch.float64)[5:]
    free = BiasSubspace("head", 0, 0, 3, torch.ones(3).double(), corner, 28)
    for remove in ("output", "restore"):
        options = {"plain": pair.off} if remove == "restore" else {}
        logits, _ = run(model, prefix, tokens, projection_hooks(model, [free], remove, **options))
        assert_close(logits, pair.logits_on, 1e-12)
    logits, _ = run(model, prefix, tokens, projection_hooks(model, [free], "isolate",
                                                            plain=pair.off))  # fmt: skip
    assert_close(logits, pair.logits_off, 1e-12)


def test_the_whole_space_restored_is_the_run_without_prefix():
    model, prefix, tokens = setting(seed=7)
    pair = pi.run_pair(model, prefix, tokens)
    spaces = [
        BiasSubspace("head", layer, h, 6, torch.ones(6).double(), torch.eye(6).double(), 28)
        for layer in range(2) for h in range(2)
    ]  # fmt: skip
    for remove, expected in (("restore", pair.logits_off), ("isolate", pair.logits_on)):
        for method in ("slots", "mixture"):
            hooks = projection_hooks(model, spaces, remove, plain=pair.off)
            logits, _ = run(model, prefix, tokens, hooks, method)
            assert_close(logits, expected, 1e-10)


def test_a_plain_run_can_lose_a_subspace():
    model, prefix, tokens = setting(seed=8)
    spaces = bias_subspaces(model, prefix, tokens, layer=1)[:2]
    hooks = [*offset_hooks(model, N), *projection_hooks(model, spaces)]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        _, cache = model.run_with_cache(tokens)
    off = pi.run_pair(model, prefix, tokens).off
    for h, space in enumerate(spaces):
        expected = off["z", 1][:, :, h] - project(off["z", 1][:, :, h], space.basis)
        assert_close(cache["z", 1][:, :, h], expected, 1e-10)


@settings(max_examples=25)
@given(architectures(), st.integers(1, 3), st.integers(0, 99))
def test_dropping_the_bias_leaves_the_gated_output_in_every_architecture(overrides, n, seed):
    model = raw_model(seed, **overrides)
    prefix, tokens = pi.Prefix.random(model, n, seed), tokens_for(model, 3, 5)
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    heads = bias_subspaces(model, prefix, tokens, layer=0)[:-1]
    # Values in place of measured directions: rank may be short of what rounding leaves.
    _, values = prefix.keys_values(model)[0]
    if model.cfg.clip_qkv is not None:
        values = values.clamp(-model.cfg.clip_qkv, model.cfg.clip_qkv)
    values = values.detach().repeat_interleave(model.cfg.n_heads // values.shape[1], dim=1)
    for h, space in enumerate(heads):
        rank = min(n, model.cfg.d_head)
        vh = torch.linalg.svd(values[:, h], full_matrices=False)[2][:rank]
        heads[h] = BiasSubspace("head", 0, h, rank, torch.ones(rank).double(), vh, space.n_rows)
    _, cache = run(model, prefix, tokens, projection_hooks(model, heads, "bias", prefix=prefix))
    assert_close(written(cache, Site.Z, 0, 5), parts.scaled_base[0].transpose(1, 2), 1e-9)


@pytest.mark.parametrize("layer", [0, 1])
def test_all_subspaces_at_once_are_those_found_one_by_one(layer):
    model, prefix, tokens = setting(seed=9, n=3, n_key_value_heads=1)
    for found in bias_subspaces(model, prefix, tokens, layer):
        alone = pi.bias_subspace(model, prefix, tokens, layer, found.head)
        for name in ("level", "layer", "head", "bound", "n_rows", "rank"):
            assert getattr(found, name) == getattr(alone, name)
        assert_close(found.singular_values, alone.singular_values, 1e-10)
        assert found.scale == pytest.approx(alone.scale)
        assert found.principal_angles(alone).max() < 1e-7


@pytest.mark.parametrize("head", [0, 1, None])
def test_a_random_subspace_is_orthonormal_of_equal_rank_and_another_each_time(head):
    model, prefix, tokens = setting(seed=10)
    space = pi.bias_subspace(model, prefix, tokens, layer=1, head=head)
    draws = [random_subspace_like(space, seed) for seed in range(3)]
    for drawn in draws:
        assert (drawn.level, drawn.layer, drawn.head) == (space.level, 1, head)
        assert drawn.rank == space.rank and drawn.basis.shape == space.basis.shape
        assert_close(drawn.basis @ drawn.basis.T, torch.eye(space.rank).double(), 1e-12)
    assert draws[0].principal_angles(draws[1]).min() > 1e-3
    assert torch.equal(random_subspace_like(space, 2).basis, draws[2].basis)
    if head is not None:
        twin = pi.bias_subspace(model, prefix, tokens, layer=1, head=1 - head)
        assert draws[0].principal_angles(random_subspace_like(twin, 0)).min() > 1e-3


def test_random_subspaces_are_uniform():
    """E cos^2 of a random line in d dimensions with any fixed one is 1 / d."""
    line = BiasSubspace("head", 0, 0, 1, torch.ones(1).double(), torch.eye(1, 8).double(), 50)
    cos2 = [float(random_subspace_like(line, s).basis[0, 0] ** 2) for s in range(2000)]
    spread = math.sqrt(2 * 7 / (8**2 * 10)) / math.sqrt(2000)  # of a Beta(1/2, 7/2) mean
    assert abs(np.mean(cos2) - 1 / 8) < 4 * spread


def test_nothing_to_imitate_gives_nothing():
    none = BiasSubspace("head", 0, 0, 1, torch.zeros(2).double(), torch.eye(2, 6).double(), 9)
    drawn = random_subspace_like(none, 0)
    assert drawn.rank == 0 and drawn.basis.shape == (0, 6)
    model = raw_model(d_head=6)
    assert through_output(model, none).rank == 0


def test_through_the_output_a_head_spans_its_share_of_the_layer():
    model, prefix, tokens = setting(seed=11)
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    *heads, layer = bias_subspaces(model, prefix, tokens, layer=1)
    for h, head in enumerate(heads):
        sent = through_output(model, head)
        rows = (parts.bias[1, :, h] @ model.blocks[1].attn.W_O[h].detach()).flatten(0, 1)
        oracle = torch.linalg.svdvals(rows)[: head.rank]
        assert_close(sent.singular_values, oracle, 1e-9)
        assert_close(project(rows, sent.basis), rows, 1e-9)
        assert sent.principal_angles(layer).max() < 1e-6  # part of the layer's
    with pytest.raises(pi.PrefixInterpError, match="level='layer'"):
        through_output(model, layer)


def test_bad_arguments_are_one_line():
    model, prefix, tokens = setting(seed=12)
    *heads, layer = bias_subspaces(model, prefix, tokens, layer=1)
    plain = pi.run_pair(model, prefix, tokens).off
    narrow = BiasSubspace("head", 0, 0, 1, torch.ones(1).double(), torch.eye(1, 4).double(), 9)
    deep = BiasSubspace("head", 2, 0, 1, torch.ones(1).double(), torch.eye(1, 6).double(), 9)
    many = BiasSubspace("head", 0, 2, 1, torch.ones(1).double(), torch.eye(1, 6).double(), 9)
    skew = BiasSubspace("head", 0, 0, 1, torch.ones(1).double(), torch.ones(1, 6).double(), 9)
    for spaces, options, match in (
        ([], {}, "empty"),
        ([narrow], {}, "4 dimensions"),
        ([deep], {}, "layer=2 must be between 0 and 1"),
        ([many], {}, "head=2 must be between 0 and 1"),
        ([skew], {}, "not orthonormal"),
        ([heads[0], heads[0]], {}, "twice"),
        ([layer, layer], {}, "twice"),
        ([layer, heads[0]], {}, "twice"),
        ([heads[0], layer], {}, "twice"),
        (heads, {"remove": "outputs"}, "remove='outputs' is unknown"),
        (heads, {"remove": "restore"}, "plain=None"),
        (heads, {"plain": plain}, "plain=given"),
        (heads, {"remove": "bias"}, "prefix=None"),
        (heads, {"prefix": prefix}, "prefix=given"),
    ):
        with pytest.raises(pi.PrefixInterpError, match=match) as error:
            projection_hooks(model, spaces, **options)
        assert "\n" not in str(error.value)
    for call in (bias_subspaces,):
        with pytest.raises(pi.PrefixInterpError, match="layer=2"):
            call(model, prefix, tokens, 2)
    normed = raw_model(normalization_type="RMS", use_normalization_before_and_after=True,
                       d_model=12, d_head=6)  # fmt: skip
    with pytest.raises(pi.PrefixInterpError, match="behind its attention"):
        projection_hooks(normed, [layer])


def test_what_cannot_be_removed_while_running_is_an_error():
    model, prefix, tokens = setting(seed=13)
    heads = bias_subspaces(model, prefix, tokens, layer=1)[:2]
    hooks = projection_hooks(model, heads, "bias", prefix=prefix)
    with pytest.raises(pi.PrefixInterpError, match="not in the slots of layer 1"):
        run(model, prefix, tokens, hooks, "mixture")
    with pytest.raises(pi.PrefixInterpError, match="not in the slots"), torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
    other = pi.Prefix.random(model, N, seed=99)
    with pytest.raises(pi.PrefixInterpError, match="not in the slots"):
        run(model, other, tokens, hooks)
    plain = pi.run_pair(model, prefix, tokens[:2]).off
    with pytest.raises(pi.PrefixInterpError, match="plain holds"):
        run(model, prefix, tokens, projection_hooks(model, heads, "restore", plain=plain))
