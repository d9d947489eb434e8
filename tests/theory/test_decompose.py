import numpy as np
import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.baselines import RunPair
from tests.helpers import assert_close, assert_far, raw_model, tokens_for

Site = pi.Site
BATCH, POS, N = 4, 6, 3


@pytest.fixture(scope="module")
def pair():
    model = raw_model(seed=1, n_layers=2, d_model=12, d_head=6, n_key_value_heads=1)
    prefix = pi.Prefix.random(model, N, seed=2)
    return pi.run_pair(model, prefix, tokens_for(model, BATCH, POS))


@pytest.fixture(scope="module")
def parts(pair):
    return pi.decompose_attention(pair)


def test_every_part_is_what_a_loop_finds(pair, parts):
    for layer in range(2):
        _, slot_values = pair.prefix.keys_values(pair.model)[layer]
        on = {s: pair.on[s.at(layer)] for s in (Site.PATTERN, Site.Z)}
        held = {s: pair.held[s.at(layer)] for s in (Site.PATTERN, Site.Z)}
        for b, h, q in np.ndindex(BATCH, 2, POS):
            at = (layer, b, h, q)
            mass = [float(on[Site.PATTERN][b, h, q, s]) for s in range(N)]
            bias = sum(m * slot_values[s, 0] for s, m in enumerate(mass))
            gate, base = sum(mass), held[Site.Z][b, q, h]
            assert parts.gate[at] == pytest.approx(gate, rel=1e-12)
            assert_close(parts.bias[at], bias, 1e-12)
            assert torch.equal(parts.base[at], base)
            assert_close(parts.scaled_base[at], (1 - gate) * base, 1e-12)
            assert_close(parts.output[at], on[Site.Z][b, q, h], 1e-10)
            content = on[Site.PATTERN][b, h, q, N:]
            assert_close(parts.content_pattern[at], content / content.sum(), 1e-12)
            assert torch.equal(parts.base_pattern[at], held[Site.PATTERN][b, h, q, N:])
            assert_close(parts.propagated[at], base - pair.off[Site.Z.at(layer)][b, q, h], 1e-12)
    assert parts.residual.abs().max() < 1e-10 and parts.pattern_residual.abs().max() < 1e-10
    assert 1e-3 < parts.gate.mean() < 0.999


def test_the_plain_difference_is_not_low_rank(parts):
    """z_pt - t has full rank, since the gate scales t; only z_pt - (1 - g) t has rank n_s."""
    for layer in range(2):
        for head in range(2):
            plain = (parts.output - parts.base)[layer, :, head].flatten(0, 1)
            mended = (parts.output - parts.scaled_base)[layer, :, head].flatten(0, 1)
            assert torch.linalg.matrix_rank(plain, rtol=1e-10) == 6
            assert torch.linalg.matrix_rank(mended, rtol=1e-10) == N


def test_relative_attention_moves_in_layer_two_but_not_given_its_input(pair, parts):
    off = pair.off[Site.PATTERN.at(1)][..., N:]
    moved = (parts.content_pattern[1] - off).abs().sum(-1) / 2
    assert moved.max() > 0.1
    assert parts.pattern_change().max() < 1e-10
    first = pair.off[Site.PATTERN.at(0)][..., N:]
    assert_close(parts.content_pattern[0], first, 1e-10)
    assert parts.propagated[1].abs().max() > 1e-3
    assert parts.propagated[0].abs().max() < 1e-12


@pytest.mark.parametrize("baseline", ["placeholder", "unshifted"])
def test_only_propagated_depends_on_the_baseline(pair, parts, baseline):
    other = pi.run_pair(pair.model, pair.prefix, pair.tokens, baseline)
    split = pi.decompose_attention(other)
    for name in ("gate", "base", "bias", "residual", "content_pattern", "base_pattern"):
        assert torch.equal(getattr(split, name), getattr(parts, name))
    assert split.propagated[0].abs().max() > 1e-3


def test_max_errors_see_a_broken_identity(pair):
    """The residual is a measurement: a wrong run must show in it."""
    wrong = dict(pair.held)
    wrong[Site.Z.at(1)] = wrong[Site.Z.at(1)] * 1.01
    wrong[Site.PATTERN.at(0)] = wrong[Site.PATTERN.at(0)].flip(-1)
    broken = RunPair(**{**vars(pair), "held": type(pair.held)(wrong, pair.model)})
    errors = pi.decompose_attention(broken).max_errors()
    assert errors["eq6"] > 0.1 and errors["eq7"] > 1e-3


def test_two_contents_with_one_query_share_the_prefix_numerator():
    """Identity (a): outputs of two contents lie on segments that start at one common point."""
    model = raw_model(seed=3, n_layers=1, normalization_type=None, n_heads=1, d_head=8)
    prefix = pi.Prefix.random(model, 2, seed=4)
    tokens = torch.tensor([[1, 2, 3, 9], [4, 5, 6, 9]])  # the same last token at the same place
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    points = [(parts.bias / parts.gate[..., None])[0, b, 0, -1] for b in range(2)]
    assert_close(points[0], points[1], 1e-12)
    assert_far(parts.output[0, 0, 0, -1], parts.output[0, 1, 0, -1])


def test_dataframe_values_are_those_of_a_loop(parts):
    table = parts.to_dataframe()
    assert len(table) == 2 * 2 * POS
    assert list(table.columns) == [
        "layer", "head", "pos", "gate", "base", "scaled_base", "bias", "propagated", "residual",
    ]  # fmt: skip
    for row in table.to_dict("records"):
        at = (row["layer"], slice(None), row["head"], row["pos"])
        assert row["gate"] == pytest.approx(float(parts.gate[at].mean()))
        for name in ("base", "scaled_base", "bias", "propagated"):
            norms = [float((x * x).sum() ** 0.5) for x in getattr(parts, name)[at]]
            assert row[name] == pytest.approx(sum(norms) / BATCH)
        worst = max(float((x * x).sum() ** 0.5) for x in parts.residual[at])
        assert row["residual"] == pytest.approx(worst)


def test_a_prefix_that_takes_all_attention_is_no_nan():
    model = raw_model(seed=1, n_layers=1, normalization_type=None, gain=1.0)
    keys = torch.zeros(1, 1, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.blocks[0].attn.b_Q.fill_(1.0)
    prefix = pi.Prefix("kv", None, keys + 1e4, keys + 1)
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens_for(model)))
    assert torch.equal(parts.gate, torch.ones_like(parts.gate))
    assert torch.isfinite(parts.content_pattern).all()
    assert_close(parts.bias, torch.ones_like(parts.bias), 1e-12)
