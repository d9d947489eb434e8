"""The expansion of a layer's scores, and attention drift, against plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.prefixes.baselines import RunPair
from prefix_interp.theory.depth import (
    TERMS,
    attention_drift,
    expand_attention_logits,
    jensen_shannon,
)
from tests.helpers import architectures, assert_close, raw_model, tokens_for
from tests.tiny_language_models import every_kind, language_model, random_tokens

Site = pi.Site
BATCH, POS = 2, 5


def pair_of(n_slots=2, seed=1, batch=BATCH, pos=POS, **settings):
    model = raw_model(seed, **settings)
    prefix = pi.Prefix.random(model, n_slots, seed=seed + 1)
    return pi.run_pair(model, prefix, tokens_for(model, batch, pos))


def head(model, layer, x, keys, values):
    """One head's output and its masses on `keys`, from weights, for the last row of x."""
    attn = model.blocks[layer].attn
    q = x @ attn.W_Q[0]
    mass = torch.softmax(torch.stack([q @ k for k in keys]) / attn.attn_scale, 0)
    return sum(m * v for m, v in zip(mass, values, strict=True)), mass


@torch.no_grad()
def test_the_papers_expansion_from_the_weights():
    """One slot, one head, no norm, no MLP, no bias: a_i, t_i and mu of the paper, by hand."""
    pair = pair_of(
        1, n_layers=2, n_heads=1, attn_only=True, normalization_type=None, biases=False
    )  # fmt: skip
    model, one = pair.model, pair.model.blocks[0].attn
    slot = pair.prefix.vectors[0, 0]
    mu = slot @ one.W_V[0] @ one.W_O[0]
    h = model.blocks[1].attn.W_Q[0] @ model.blocks[1].attn.W_K[0].T
    found = expand_attention_logits(pair, layer=1)
    for b in range(BATCH):
        x = [model.W_E[t] + model.W_pos[1 + i] for i, t in enumerate(pair.tokens[b])]
        k, v = ([e @ w[0] for e in x] for w in (one.W_K, one.W_V))
        content, gates = [], []
        for i in range(POS):
            t, _ = head(model, 0, x[i], k[: i + 1], v[: i + 1])
            _, mass = head(model, 0, x[i], [slot @ one.W_K[0], *k[: i + 1]], [0, *v[: i + 1]])
            gates.append(mass[0])
            content.append(x[i] + (1 - mass[0]) * (t @ one.W_O[0]))
        for i in range(POS):
            for j in range(i + 1):
                bias_i, bias_j = gates[i] * mu, gates[j] * mu
                by_hand = {
                    "pretrained": content[i] @ h @ content[j],
                    "query_only": content[i] @ h @ bias_j,
                    "key_only": bias_i @ h @ content[j],
                    "constant": bias_i @ h @ bias_j,
                }
                for name, expected in by_hand.items():
                    expected = expected / model.blocks[1].attn.attn_scale
                    assert float(found.term(name)[b, 0, i, j]) == pytest.approx(
                        float(expected), rel=1e-10, abs=1e-10
                    )
    assert found.max_error < 1e-10
    assert not found.terms[4:].any()
    assert all(found.term(name).abs().max() > 1e-2 for name in TERMS[:4])
    assert torch.equal(found.scores, pair.on[Site.ATTN_SCORES.at(1)][..., 1:])


@torch.no_grad()
def test_every_term_of_full_blocks_is_that_of_a_loop():
    """LayerNorm, MLPs, biases, two heads, layer 2 of 3: parts of the stream, then products."""
    pair = pair_of(n_layers=3)
    model, layer = pair.model, 2
    attn, norm = model.blocks[layer].attn, model.blocks[layer].ln1
    slots = pair.prefix.keys_values(model)
    found = expand_attention_logits(pair, layer)

    def parts(b, i):
        on, off = (c[Site.RESID_PRE.at(layer)][b, i] for c in (pair.on, pair.off))
        content, bias, moved, mlp = off.clone(), 0, 0, 0
        for m in range(layer):
            at, values = Site.Z.at(m), slots[m][1]
            for h in range(2):
                mass = pair.on[Site.PATTERN.at(m)][b, h, i, :2]
                gate, w = mass.sum(), model.blocks[m].attn.W_O[h]
                t_off, t = pair.off[at][b, i, h], pair.held[at][b, i, h]
                content = content - gate * (t_off @ w)
                bias = bias + (mass[0] * values[0, h] + mass[1] * values[1, h]) @ w
                moved = moved + (1 - gate) * ((t - t_off) @ w)
            out = Site.MLP_OUT.at(m)
            mlp = mlp + pair.on[out][b, i] - pair.off[out][b, i]

        def scaled(x, by):
            return (x - x.mean()) / (by.var(unbiased=False) + norm.eps).sqrt() * norm.w

        own = scaled(content, off) + norm.b
        shift = scaled(content, on) - scaled(content, off)
        return [own, scaled(bias, on), shift, scaled(moved, on), scaled(mlp, on)]

    for b, h in np.ndindex(BATCH, 2):
        rows = [parts(b, i) for i in range(POS)]
        q = [[x @ attn.W_Q[h] for x in row] for row in rows]
        k = [[x @ attn.W_K[h] for x in row] for row in rows]
        for row in range(POS):
            q[row][0] = q[row][0] + attn.b_Q[h]
            k[row][0] = k[row][0] + attn.b_K[h]
        for i in range(POS):
            for j in range(i + 1):
                sums = dict.fromkeys(TERMS, 0.0)
                for a in range(5):
                    for c in range(5):
                        first_four = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (1, 1): 3}
                        which = first_four.get((a, c), max(a, c) + 2)
                        sums[TERMS[which]] += float(q[i][a] @ k[j][c]) / attn.attn_scale
                for name, expected in sums.items():
                    assert float(found.term(name)[b, h, i, j]) == pytest.approx(
                        expected, rel=1e-9, abs=1e-9
                    )
    assert found.max_error < 1e-10
    assert all(found.term(name).abs().max() > 1e-2 for name in TERMS[:-1])
    assert not found.term("cap").any()


@given(architectures(), st.integers(1, 3), st.sampled_from(["residual", "kv"]), st.integers(0, 999))
def test_the_sum_is_exact_on_random_architectures(arch, n_slots, kind, seed):
    assume(not arch.get("use_normalization_before_and_after"))
    arch = arch | {"n_layers": max(arch["n_layers"], 2)}
    model = raw_model(seed, **arch)
    prefix = pi.Prefix.random(model, n_slots, parameterization=kind, seed=seed)
    pair = pi.run_pair(model, prefix, tokens_for(model, 2, 5, seed))
    for layer in range(1, arch["n_layers"]):
        found = expand_attention_logits(pair, layer)
        assert found.max_error < 1e-10
        plain = arch["normalization_type"] is None and not arch["use_qk_norm"]
        if plain and arch["clip_qkv"] is None:
            assert found.term("norm").abs().max() < 1e-10 * found.terms.abs().max()
        if arch["attn_only"]:
            assert not found.term("mlp").any()
        if arch["attn_scores_soft_cap"] < 0:
            assert not found.term("cap").any()
        if layer == 1:
            assert found.term("propagated").abs().max() < 1e-10 * found.terms.abs().max()
    drift = attention_drift(pair)
    assert drift.distance[0].max() < 1e-10 and not drift.flipped[0].any()
    assert (drift.distance >= 0).all() and (drift.distance <= 1 + 1e-12).all()


def test_a_wrong_run_shows_in_the_error():
    """The terms come from gates and biases, not from the scores that they add up to."""
    pair = pair_of(n_layers=2, attn_only=True, normalization_type=None)
    wrong = dict(pair.on)
    wrong[Site.PATTERN.at(0)] = wrong[Site.PATTERN.at(0)] * 1.01
    broken = RunPair(**{**vars(pair), "on": type(pair.on)(wrong, pair.model)})
    assert expand_attention_logits(broken).max_error > 1e-3


def test_sizes_are_those_of_a_loop_over_what_is_seen():
    pair = pair_of(n_layers=2)
    content = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = expand_attention_logits(pair, 1, content)
    frame = found.to_dataframe()
    assert list(frame.columns) == ["head", "term", "rms", "rms_in_row"]
    assert len(frame) == 2 * (len(TERMS) + 2)
    named = {
        "score": found.scores,
        "score_off": found.scores_off,
        "key_only": found.term("key_only"),
    }
    for name, x in named.items():
        for h in range(2):
            rows = [x[b, h, i, : i + 1].numpy() for b, n in ((0, 5), (1, 3)) for i in range(n)]
            row = frame[(frame["head"] == h) & (frame["term"] == name)].iloc[0]
            whole, inside = np.concatenate(rows), np.concatenate([r - r.mean() for r in rows])
            assert row["rms"] == pytest.approx(np.sqrt((whole**2).mean()))
            assert row["rms_in_row"] == pytest.approx(np.sqrt((inside**2).mean()))
    assert torch.equal(found.scores_off, pair.off[Site.ATTN_SCORES.at(1)][..., 2:])


def test_drift_is_that_of_two_runs_and_a_loop():
    pair = pair_of(n_layers=2, batch=3, pos=6)
    drift = attention_drift(pair)
    with pi.attach(pair.model, pair.prefix):
        _, on = pair.model.run_with_cache(pair.tokens)
    for layer, b, h, i in np.ndindex(2, 3, 2, 6):
        p = on[Site.PATTERN.at(layer)][b, h, 2 + i, 2 : 3 + i].tolist()
        p = [x / sum(p) for x in p]
        q = pair.off[Site.PATTERN.at(layer)][b, h, i, 2 : 3 + i].tolist()
        mixed = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
        bits = sum(
            x * math.log2(x / m) / 2 for r in (p, q) for x, m in zip(r, mixed, strict=True) if x > 0
        )
        at = layer, b, h, i
        assert float(drift.distance[at]) == pytest.approx(math.sqrt(max(bits, 0)), abs=3e-8)
        flips = layer > 0 and p.index(max(p)) != q.index(max(q))
        assert bool(drift.flipped[at]) == flips
        assert bool(drift.counted[at]) == (i > 0)
    assert drift.distance[0].max() < 1e-14 and drift.distance[1].max() > 0.1
    assert drift.flipped[1].any()
    frame = drift.to_dataframe()
    for row in frame.to_dict("records"):
        own = drift.distance[row["layer"], :, row["head"], 1:]
        assert row["n_rows"] == 15
        assert row["distance"] == pytest.approx(float(own.mean()))
        assert row["largest"] == float(own.max())
        flips = drift.flipped[row["layer"], :, row["head"], 1:].double().mean()
        assert row["flips"] == pytest.approx(float(flips))


def test_padding_changes_nothing():
    model = raw_model(1)
    prefix = pi.Prefix.random(model, 2, seed=2)
    tokens = tokens_for(model, 3, 7)
    content = torch.arange(7) < torch.tensor([[4], [4], [4]])
    padded = tokens.where(content, 0)
    whole = attention_drift(pi.run_pair(model, prefix, padded), content)
    short = attention_drift(pi.run_pair(model, prefix, tokens[:, :4]))
    assert_close(whole.distance[..., :4], short.distance, 1e-10)
    assert not whole.counted[..., 4:].any() and not whole.distance[..., 4:].any()
    a, b = whole.to_dataframe(), short.to_dataframe()
    assert a["distance"].to_numpy() == pytest.approx(b["distance"].to_numpy(), abs=1e-12)
    assert a[["flips", "n_rows"]].equals(b[["flips", "n_rows"]])


@pytest.mark.parametrize(("baseline", "same"), [("placeholder", True), ("unshifted", False)])
def test_drift_is_against_the_baseline_of_the_pair(baseline, same):
    pair = pair_of(n_layers=2)
    other = pi.run_pair(pair.model, pair.prefix, pair.tokens, baseline)
    drift = attention_drift(other)
    assert drift.baseline == baseline and baseline in repr(drift)
    # Placeholders are slots too, which leave relative attention alone; other positions do not.
    assert (drift.distance[0].max() < 1e-12) == same
    assert drift.distance[1].max() > 1e-3


def test_rows_without_attention_on_the_content_do_not_count():
    model = raw_model(seed=1, n_layers=2, normalization_type=None, gain=1.0)
    with torch.no_grad():
        model.blocks[0].attn.W_Q.zero_()
        model.blocks[0].attn.b_Q.fill_(1.0)
    keys = torch.zeros(2, 1, 2, 4, dtype=torch.float64)
    keys[0] = 1e4
    pair = pi.run_pair(model, pi.Prefix("kv", None, keys, keys * 0 + 1), tokens_for(model))
    drift = attention_drift(pair)
    assert not drift.counted[0].any() and drift.counted[1, ..., 1:].all()
    assert torch.isfinite(drift.distance).all() and not drift.flipped[0].any()
    first = drift.to_dataframe().query("layer == 0")
    assert first["distance"].isna().all() and (first["n_rows"] == 0).all()


@every_kind
def test_drift_and_terms_of_a_language_model(kind):
    model = language_model(kind, torch.float64)
    prefix = pi.Prefix.random(model, 3, parameterization="kv", seed=1)
    pair = pi.run_pair(model, prefix, random_tokens())
    drift = attention_drift(pair)
    assert drift.distance.shape == (3, 2, 4, 7)
    # OPT takes its softmax in float32.
    assert drift.distance[0].max() < (1e-6 if kind == "opt" else 1e-10)
    assert not drift.flipped[0].any()
    assert drift.distance[1:].amax((1, 2, 3)).min() > 1e-2
    exact = 1e-10 if kind == "gpt2" else 1e-6  # the others compute norms or rotations in float32
    for layer in (1, 2):
        found = expand_attention_logits(pair, layer)
        assert found.max_error < exact
        assert torch.equal(found.seen[0, 0], torch.ones(7, 7, dtype=torch.bool).tril())
        sizes = found.terms.abs().amax((1, 2, 3, 4))
        assert (sizes[:5] > 1e-3).all() and sizes[-1] == 0
        assert (sizes[5] > 1e-3) == (layer == 2)


def rows(seed, n=6, keys=5):
    rng = torch.Generator().manual_seed(seed)
    return torch.softmax(4 * torch.randn(n, keys, generator=rng, dtype=torch.float64), -1)


@given(st.integers(0, 999), st.integers(1000, 1999))
def test_the_distance_is_one(a, b):
    p, q, r = rows(a), rows(b), rows(a + b)
    assert torch.equal(jensen_shannon(p, q), jensen_shannon(q, p))
    assert not jensen_shannon(p, p).any()
    assert (jensen_shannon(p, r) <= jensen_shannon(p, q) + jensen_shannon(q, r) + 1e-12).all()
    m = (p + q) / 2
    bits = ((p * (p / m).log2() + q * (q / m).log2()) / 2).sum(-1)
    assert_close(jensen_shannon(p, q), bits.sqrt(), 1e-9)


def test_a_distance_of_rounding_has_the_size_of_rounding():
    p = rows(1)
    for small in (1e-3, 1e-6, 1e-9, 1e-12):
        q = p * (1 + small * torch.tensor([1.0, -1, 1, -1, 1]))
        second_order = ((q - p).square() / p).sum(-1).sqrt() / math.sqrt(8 * math.log(2))
        assert_close(jensen_shannon(p, q), second_order, 3 * small + 1e-3 * (small < 1e-11))
    apart = torch.eye(2, dtype=torch.float64)
    assert jensen_shannon(apart, apart.flip(0)).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: expand_attention_logits(p, 0), "layer=0 reads the embedding.*from 1 to 1"),
        (lambda p: expand_attention_logits(p, 2), "layer=2 must be between 0 and 1"),
        (lambda p: expand_attention_logits(p, 1, torch.ones(2, 4).bool()), r"content has shape"),
        (lambda p: attention_drift(p, torch.ones(1, 5).bool()), r"content has shape \(1, 5\)"),
        (lambda p: expand_attention_logits(p).term("bias"), "name='bias' is unknown"),
        (
            lambda p: expand_attention_logits(
                pi.run_pair(p.model, p.prefix, p.tokens, "unshifted")
            ),
            "baseline 'unshifted'.*masked",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(PrefixInterpError, match=message):
        call(pair_of(n_layers=2))


def test_a_norm_behind_the_heads_is_refused(unchecked):
    pair = pair_of(normalization_type="RMS", use_normalization_before_and_after=True)
    with pytest.raises(PrefixInterpError, match="norm behind its heads"):
        expand_attention_logits(pair)
    assert attention_drift(pair).distance[0].max() < 1e-12
    with pytest.raises(PrefixInterpError, match="pair is a str"):
        attention_drift("pair")
