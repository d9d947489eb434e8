import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.attribution.coalitions import shapley_values
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.controls import head_effects, random_prefixes
from prefix_interp.attribution.elicitation import bias_logit_attribution, head_elicitation
from prefix_interp.attribution.metrics import METRICS, Target
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.prefixes.baselines import masked_hooks
from tests.helpers import architectures, assert_close, assert_far, raw_model, tokens_for, toy

Site = pi.Site
PARTS = ("gate", "bias", "propagated")
N, POS, OUT, SLOTS = 3, 6, 2, 2
VARIANTS = {
    "plain": {},
    "rotary and grouped": dict(
        positional_embedding_type="rotary", rotary_dim=4, n_key_value_heads=1
    ),
    "parallel, before and after": dict(
        parallel_attn_mlp=True, normalization_type="RMS", use_normalization_before_and_after=True
    ),
    "attention only, both ways": dict(attn_only=True, attention_dir="bidirectional"),
    "no norm, clipped": dict(normalization_type=None, clip_qkv=1.0),
}


def batch_for(model, n=N, n_out=OUT, seed=0):
    tokens = tokens_for(model, n, POS, seed)
    return pi.Batch(tokens, tokens_for(model, n, n_out, seed + 1), torch.zeros(n).long())


def measured(model, prefix, batch, **settings):
    return head_elicitation(model, prefix, batch, **(dict(n_random=2, progress=False) | settings))


def loop_coalition(pair, batch, direction, metric, layer, head, coalition):
    """The metric with some parts of one head, one run, by plain hooks and real slots."""
    model, prefix = pair.model, pair.prefix
    mass = pair.on[Site.PATTERN.at(layer)][:, head, :, :SLOTS]
    values = prefix.keys_values(model)[layer][1]
    if model.cfg.clip_qkv is not None:
        values = values.clamp(-model.cfg.clip_qkv, model.cfg.clip_qkv)
    values = values[:, head * values.shape[1] // model.cfg.n_heads]
    z = pair.held if "propagated" in coalition else pair.off
    z = z[Site.Z.at(layer)][:, :, head]
    if "gate" in coalition:
        z = (1 - mass.sum(-1))[..., None] * z
    if "bias" in coalition:
        z = z + mass @ values

    def write(x, hook):
        x = x.clone()
        x[:, -POS:, head] = z
        return x

    mine = [(Site.Z.at(layer), write)]
    with torch.no_grad():
        if direction == "denoise":
            hooks = [*masked_hooks(model, SLOTS), *mine]
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=hooks)
        else:
            with pi.attach(model, prefix):
                logits = model.run_with_hooks(batch.tokens, fwd_hooks=mine)
    n_out = batch.answers.shape[1]
    target = Target(batch.answers, pair.logits_on[:, -n_out:], pair.logits_off[:, -n_out:])
    return METRICS[metric](logits[:, -n_out:], target)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_is_the_mean_over_orders_of_putting_it_in(variant, direction):
    model = raw_model(seed=1, n_layers=2, **VARIANTS[variant])
    prefix, batch = pi.Prefix.random(model, SLOTS, seed=2), batch_for(model)
    metric = "kl" if variant == "plain" else "log_prob"
    found = measured(model, prefix, batch, direction=direction, metric=metric)
    pair = pi.run_pair(model, prefix, batch.tokens)
    for layer, head in itertools.product(range(2), range(2)):
        value = {
            frozenset(s): loop_coalition(pair, batch, direction, metric, layer, head, s)
            for k in range(4)
            for s in itertools.combinations(PARTS, k)
        }
        plain = value[frozenset()]
        expected = dict.fromkeys(PARTS, torch.zeros(N, dtype=torch.float64))
        for order in itertools.permutations(PARTS):
            for i, part in enumerate(order):
                step = value[frozenset(order[: i + 1])] - value[frozenset(order[:i])]
                expected[part] = expected[part] + step / math.factorial(3)
        expected["effect"] = value[frozenset(PARTS)] - plain
        alone = [value[frozenset([part])] - plain for part in PARTS]
        expected["interaction"] = expected["effect"] - sum(alone)
        for name, wanted in expected.items():
            got = getattr(found, name)[layer, head]
            assert float((got - wanted).abs().max()) < 1e-9, (name, layer, head)
        assert_far(expected["gate"], torch.zeros(N), 0)
    assert_far(found.propagated[1], torch.zeros(2, N), 0)


@settings(max_examples=15)
@given(
    architectures(),
    st.integers(0, 99),
    st.sampled_from(["denoise", "noise"]),
    st.sampled_from(["log_prob", "logit_difference", "kl"]),
    st.sampled_from([torch.float64, torch.float32]),
    st.sampled_from(["residual", "kv"]),
)
def test_the_parts_add_up_to_the_total(architecture, seed, direction, metric, dtype, kind):
    model = raw_model(seed, **(architecture | {"dtype": dtype}))
    prefix, batch = pi.Prefix.random(model, SLOTS, seed, kind), batch_for(model, seed=seed)
    found = measured(model, prefix, batch, direction=direction, metric=metric)
    size = max(1.0, float(found.effect.abs().max()))
    tol = (1e-12 if dtype == torch.float64 else 1e-6) * size
    assert float((found.gate + found.bias + found.propagated - found.effect).abs().max()) < tol
    assert not found.propagated[0].any()
    # The total is that of patching the head's whole output, found by other code.
    patched = patch_heads(
        model, prefix, batch, direction=direction, metrics=(metric,), progress=False
    ).effect(metric)
    loose = (1e-9 if dtype == torch.float64 else 1e-2) * max(size, float(found.off.abs().max()))
    assert float((found.effect - patched).abs().max()) < loose


@given(st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=20)
def test_shapley_values_are_means_over_orders(n_players, seed):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(1 << n_players, 3, generator=rng, dtype=torch.float64)
    expected = torch.zeros(n_players, 3, dtype=torch.float64)
    for order in itertools.permutations(range(n_players)):
        inside = 0
        for player in order:
            step = values[inside | 1 << player] - values[inside]
            expected[player] += step / math.factorial(n_players)
            inside |= 1 << player
    assert_close(shapley_values(values), expected, 1e-12)
    assert_close(shapley_values(values).sum(0), values[-1] - values[0], 1e-12)


@pytest.mark.parametrize("n", [1, 3, 6])
def test_shapley_values_need_every_coalition(n):
    with pytest.raises(pi.PrefixInterpError, match=f"values have {n} coalitions"):
        shapley_values(torch.zeros(n, 2))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("kind", ["residual", "kv"])
def test_stacked_prefixes_do_what_each_does_alone(direction, kind):
    model = raw_model(seed=3, n_layers=2, n_heads=2)
    prefixes = [pi.Prefix.random(model, SLOTS, seed, kind) for seed in range(60)]
    batch = batch_for(model)
    for metric in ("log_prob", "kl"):
        pair = contrast(model, prefixes[0], batch, metrics=(metric,))
        found = head_effects(pair, prefixes, direction)  # more than fit into one pass
        for i in (0, 1, 41, 43, 59):
            patched = patch_heads(
                model, prefixes[i], batch, direction=direction, metrics=(metric,), progress=False
            ).effect(metric)
            assert_close(found[i], patched, 1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logit_attribution_is_the_change_when_the_bias_is_taken_out(variant):
    """With every norm's scale frozen and later layers held, the logits are linear in the bias."""
    model = raw_model(seed=4, n_layers=2, **VARIANTS[variant])
    prefix, batch = pi.Prefix.random(model, SLOTS, seed=5), batch_for(model)
    pair = contrast(model, prefix, batch)
    parts = pi.decompose_attention(pair.runs)
    found = bias_logit_attribution(pair, parts)
    cache = pair.runs.on
    for layer, head in itertools.product(range(2), range(2)):
        block = model.blocks[layer]
        without = cache[Site.Z.at(layer)].clone()
        without[:, :, head] -= parts.bias[layer, :, head]
        streams = []
        with torch.no_grad():
            for z in (cache[Site.Z.at(layer)], without):
                out = torch.einsum("bqhk,hkd->bqd", z, block.attn.W_O) + block.attn.b_O
                if hasattr(block, "ln1_post"):
                    scale = cache[block.ln1_post.hook_scale.name]
                    out = out / scale * block.ln1_post.w
                last = cache[Site.RESID_POST.at(1)]
                now = torch.einsum("bqhk,hkd->bqd", cache[Site.Z.at(layer)], block.attn.W_O)
                now = now + block.attn.b_O
                if hasattr(block, "ln1_post"):
                    now = now / scale * block.ln1_post.w
                resid = last - now + out
                if hasattr(model, "ln_final"):
                    norm = model.ln_final
                    if "LayerNorm" in type(norm).__name__:
                        resid = resid - resid.mean(-1, keepdim=True)
                    resid = resid / cache[norm.hook_scale.name] * norm.w
                    resid = resid + getattr(norm, "b", 0)
                streams.append(model.unembed(resid)[:, -OUT:])
        on, off = streams
        assert_close(on, pair.target.logits_on, 1e-9)
        for b in range(N):
            change = []
            for i, answer in enumerate(batch.answers[b].tolist()):
                own = (on - off)[b, i]
                change.append(float(own[answer] - own.mean()))
            assert float(found[layer, head, b]) == pytest.approx(sum(change) / OUT, abs=1e-9)
    assert_far(found, torch.zeros_like(found), 0)


@pytest.fixture(scope="module")
def example():
    model = raw_model(seed=6, n_layers=2)
    prefix = pi.Prefix.random(model, SLOTS, seed=7)
    other = pi.Prefix.random(model, 1, seed=8, parameterization="kv")
    return model, prefix, other, batch_for(model, 8)


@pytest.fixture(scope="module")
def found(example):
    model, prefix, other, batch = example
    return measured(model, prefix, batch, n_random=5, seed=1, controls={"another task": other})


def test_table_is_what_a_loop_finds(example, found):
    model, prefix, _, batch = example
    table = found.to_dataframe(level=0.9)
    assert list(table.columns) == [
        "layer", "head", "effect", "low", "high", "recovered", "gate", "bias", "propagated",
        "interaction", "direct", "control", "excess", "excess_low", "excess_high",
        "beyond_random", "elicited", "logit_attribution",
    ]  # fmt: skip
    assert len(table) == 4 and found.level == pytest.approx(1 - 2 / 6)
    assert found.baseline == "masked"
    on, off = float(found.on.mean()), float(found.off.mean())
    draws = random_prefixes(model, prefix, 5, seed=1)["norm-matched"]
    for row in table.to_dict("records"):
        at = (row["layer"], row["head"])
        effect = float(found.effect[at].mean())
        assert row["effect"] == pytest.approx(effect)
        assert row["recovered"] == pytest.approx(effect / (on - off))
        for name in (*PARTS, "interaction", "logit_attribution"):
            assert row[name] == pytest.approx(float(getattr(found, name)[at].mean()))
        assert row["direct"] == pytest.approx(row["gate"] + row["bias"])
        low, high = bootstrap_interval(found.effect[at], level=0.9)
        assert (row["low"], row["high"]) == pytest.approx((float(low), float(high)))
        others = [
            float(patch_heads(model, p, batch, progress=False).effect()[at].mean()) for p in draws
        ]
        assert row["control"] == pytest.approx(sum(others) / 5)
        assert row["excess"] == pytest.approx(effect - sum(others) / 5)
        assert row["excess_low"] == pytest.approx(effect - max(others))
        assert row["excess_high"] == pytest.approx(effect - min(others))
        above, below = effect > max(others), effect < min(others)
        assert row["beyond_random"] == (above or below)
        assert row["elicited"] == ((above and row["low"] > 0) or (below and row["high"] < 0))
    assert table["effect"].abs().is_monotonic_decreasing


def test_a_strong_head_where_random_prefixes_do_as_much_is_named_as_such(found):
    effect = torch.zeros_like(found.effect)
    total = found.on.mean() - found.off.mean()
    effect[0, 1], effect[1, 0] = 0.31 * total, 0.02 * total
    draws = torch.zeros(5, *effect.shape, dtype=effect.dtype)
    draws[:, 0, 1] = torch.linspace(0, 0.4, 5, dtype=effect.dtype)[:, None] * total
    result = replace(found, effect=effect, controls={"norm-matched": draws})
    strong, weak = result.to_dataframe().to_dict("records")[:2]
    assert (strong["layer"], strong["head"], strong["recovered"]) == (0, 1, pytest.approx(0.31))
    assert not strong["beyond_random"] and not strong["elicited"]
    assert (weak["layer"], weak["head"]) == (1, 0) and weak["beyond_random"] and weak["elicited"]
    assert "elicited: 1.0 (2 %); as random prefixes do: 0.1 (31 %)" in result.caption()


def test_parts_come_with_intervals(found):
    table = found.parts_dataframe(level=0.8)
    assert len(table) == 4 * 5
    for row in table.to_dict("records"):
        value = getattr(found, row["part"])[row["layer"], row["head"]]
        low, high = bootstrap_interval(value, level=0.8)
        expected = (float(value.mean()), float(low), float(high))
        assert (row["value"], row["low"], row["high"]) == pytest.approx(expected)


def test_controls_table_is_what_patching_finds(example, found):
    model, prefix, other, batch = example
    table = found.controls_dataframe()
    assert list(table.columns) == [
        "control", "layer", "head", "draws", "effect", "low", "high",
    ]  # fmt: skip
    assert set(table["control"]) == {"norm-matched", "random", "another task"}
    one = patch_heads(model, other, batch, progress=False).effect()
    random = torch.stack(
        [
            patch_heads(model, p, batch, progress=False).effect()
            for p in random_prefixes(model, prefix, 5, seed=1)["random"]
        ]
    ).mean(-1)
    for row in table.to_dict("records"):
        at = (row["layer"], row["head"])
        got = (row["effect"], row["low"], row["high"])
        if row["control"] == "another task":
            low, high = bootstrap_interval(one[at])
            assert got == pytest.approx((float(one[at].mean()), float(low), float(high)))
            assert row["draws"] == 1
        elif row["control"] == "random":
            own = random[:, at[0], at[1]]
            assert got == pytest.approx([float(x) for x in (own.mean(), own.min(), own.max())])
            assert row["draws"] == 5


def test_random_prefixes_have_the_norms_and_shapes_they_should(example):
    model, prefix, other, _ = example
    for given_ in (prefix, other):
        drawn = random_prefixes(model, given_, 3, seed=0)
        for group in drawn.values():
            for name, tensor in given_.tensors.items():
                stack = torch.stack([p.tensors[name] for p in group])
                assert stack.shape == (3, *tensor.shape)
                assert len({float(x.sum()) for x in (*stack, tensor)}) == 4
                if group is drawn["norm-matched"]:
                    assert_close(stack.norm(dim=-1), torch.stack([tensor.norm(dim=-1)] * 3), 1e-12)


def test_the_seed_decides_everything(example):
    model, prefix, _, batch = example
    tables = [
        head_elicitation(model, prefix, batch, n_random=2, seed=seed, progress=False).to_dataframe()
        for seed in (0, 0, 1)
    ]
    assert tables[0].equals(tables[1])
    assert (tables[0]["effect"] == tables[2]["effect"]).all()
    assert (tables[0]["control"] != tables[2]["control"]).any()


def test_tasks_go_by_name():
    model = toy(n_layers=1, n_content=19, d_vocab=11, attn_only=True)
    prefix = pi.Prefix.random(model, 2, seed=1)
    found = head_elicitation(model, prefix, "add_one", n=4, n_random=2, progress=False)
    table = found.to_dataframe()
    batch = pi.get_task("add_one").sample(4, split="test", seed=0)
    effect = patch_heads(model, prefix, batch, progress=False).effect()[0].mean(-1)
    assert table["effect"].tolist() == pytest.approx(effect.tolist())


def test_random_prefixes_are_elicited_as_often_as_the_level_says(unchecked):
    """The null: a treatment that is itself one more draw, with fresh controls each time.

    At R = 4 draws the level is 1 - 2/5, so each of 2 heads must lie outside of the controls in 40%
    of 80 treatments (and be elicited no more often), give or take 4 binomial standard deviations
    (false alarm 1e-4 a head). The model answers well without a prefix, so that any prefix does
    harm: 95% intervals over examples exclude 0 far more often than in 5%.
    """
    n, draws, hits, wrong = 80, 4, torch.zeros(2), torch.zeros(2)
    share = 2 / (draws + 1)
    model = raw_model(seed=9, n_layers=1, attn_only=True)
    shape, tokens = pi.Prefix.random(model, 1, seed=0), tokens_for(model, 16, POS)
    with torch.no_grad():
        answers = model.run_with_hooks(tokens, fwd_hooks=masked_hooks(model, 1)).argmax(-1)
    batch = pi.Batch(tokens, answers[:, -OUT:], torch.zeros(16).long())
    for i in range(n):
        treatment = random_prefixes(model, shape, 1, seed=1000 + i)["norm-matched"][0]
        found = measured(model, treatment, batch, n_random=draws, seed=i)
        table = found.to_dataframe()
        outside = (table["excess_low"] > 0) | (table["excess_high"] < 0)
        assert not (table["elicited"] & ~outside).any()
        hits += torch.tensor(outside.tolist())
        wrong += torch.tensor(((table["low"] > 0) | (table["high"] < 0)).tolist())
    bound = 4 * math.sqrt(n * share * (1 - share))
    assert found.level == pytest.approx(1 - share)
    assert ((hits - n * share).abs() < bound).all(), hits
    assert (wrong > n * 0.05 + 4 * math.sqrt(n * 0.05 * 0.95)).all(), wrong


def test_an_excess_within_rounding_is_no_elicitation(found):
    effect = torch.zeros_like(found.effect)
    effect[0, 0], effect[0, 1], effect[1, 0] = 1e-14, 1e-6, -1e-6
    still = {"norm-matched": torch.zeros(5, *effect.shape, dtype=effect.dtype)}
    table = replace(found, effect=effect, controls=still).to_dataframe()
    table = table.sort_values(["layer", "head"])
    assert table["elicited"].tolist() == [False, True, True, False]
    assert table["beyond_random"].tolist() == [False, True, True, False]
    coarse = replace(found, effect=effect, controls=still, on=found.on.float())
    assert not coarse.to_dataframe()["elicited"].any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"direction": "up"}, "direction='up'"),
        ({"metric": "loss"}, "metric='loss'"),
        ({"n_random": 1}, "n_random=1 makes an interval of level 0"),
        ({"n_random": 0}, "n_random=0"),
        ({"controls": {"random": 0}}, "controls='random' is the name of a random control"),
    ],
)
def test_bad_arguments_are_refused(example, settings, message, unchecked):
    model, prefix, _, batch = example
    with pytest.raises(pi.PrefixInterpError, match=message):
        measured(model, prefix, batch, **settings)


def test_misfits_are_refused(example):
    model, prefix, _, batch = example
    small = pi.Prefix.random(raw_model(n_layers=1), SLOTS)
    with pytest.raises(pi.PrefixInterpError, match="needs"):
        measured(model, prefix, batch, controls={"another": small})
    with pytest.raises(pi.PrefixInterpError, match="n=1 example has no interval"):
        measured(model, prefix, batch_for(model, 1))
