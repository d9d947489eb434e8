import itertools
import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.gradients import (
    agreement,
    attribution_patch,
    integrated_gradients,
)
from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.attribution.patching import (
    HEAD_SITES,
    donor_activation,
    patch_heads,
    patch_slots,
)
from prefix_interp.prefixes.baselines import masked_hooks
from tests.attribution.made_up import ARCHITECTURES, batch_for, log_prob
from tests.helpers import architectures, assert_close, forward_hooks, raw_model

Site = pi.Site
N, POS = 2, 4
LINEAR = dict(attn_only=True, normalization_type=None)


def made(n_layers=2, gain=1.0, std=1.0, seed=1, **settings):
    model = raw_model(seed, gain=gain, n_layers=n_layers, **settings)
    prefix = pi.Prefix.random(model, N, 2, "kv", std=std)
    return model, prefix, batch_for(model, length=POS)


def slots_run(model, prefix, batch, base, hooks):
    """Return the answers' log-probabilities, the prefix standing in slots."""
    with torch.no_grad():
        if base == "off":
            hooks = [*masked_hooks(model, N), *hooks]
            return log_prob(model.run_with_hooks(batch.tokens, fwd_hooks=hooks), batch)
        with pi.attach(model, prefix):
            return log_prob(model.run_with_hooks(batch.tokens, fwd_hooks=hooks), batch)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
@pytest.mark.parametrize("name", ["plain", "rotary-grouped"])
def test_the_estimate_is_the_slope_of_moving_towards_the_donor(name, site, direction):
    model, prefix, batch = made(**ARCHITECTURES[name])
    pair = contrast(model, prefix, batch)
    base, donor = ("off", "on") if direction == "denoise" else ("on", "off")
    place = Site.Z if site == "pattern" else HEAD_SITES[site]
    grid = attribution_patch(model, prefix, batch, direction=direction, site=site, by_position=True)
    n_heads = pair.activation(base, place, 0).shape[2]
    assert grid.axes == ("layer", "head", "pos")
    assert grid.values["log_prob"].shape == (2, n_heads, POS, 2)
    for layer, head, pos in itertools.product(range(2), range(n_heads), (1, POS - 1)):
        given = donor_activation(pair, HEAD_SITES[site], layer, base, donor)
        move = given[:, pos, head] - pair.activation(base, place, layer)[:, pos, head]

        def run(eps, layer=layer, head=head, pos=pos, move=move):
            def write(x, hook):
                x = x.clone()
                x[:, N + pos, head] += eps * move
                return x

            return slots_run(model, prefix, batch, base, [(place.at(layer), write)])

        slope = (run(1e-4) - run(-1e-4)) / 2e-4
        change = grid.values["log_prob"][layer, head, pos] - getattr(pair, base)["log_prob"]
        assert (change - slope).abs().max() < 1e-6
    whole = attribution_patch(model, prefix, batch, direction=direction, site=site)
    assert_close(whole.effect(), grid.effect().sum(2))
    assert grid.effect().abs().max() > 1e-3


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_gate_is_the_slope_of_the_prefix_mass(direction):
    model, prefix, batch = made(std=0.3)
    grid = attribution_patch(model, prefix, batch, direction=direction, site="gate")
    base = 0.0 if direction == "denoise" else 1.0
    sign = 1 if direction == "denoise" else -1
    for at in itertools.product(range(2), range(2)):
        f = []
        for k in range(5):
            gates = torch.full((2, 2), base, dtype=torch.float64)
            gates[at] += sign * k * 1e-3
            with torch.no_grad(), pi.attach(model, prefix, gates=gates):
                f.append(log_prob(model(batch.tokens), batch))
        change = (-25 * f[0] + 48 * f[1] - 36 * f[2] + 16 * f[3] - 3 * f[4]) / 12e-3
        assert (grid.values["log_prob"][at] - f[0] - change).abs().max() < 1e-5
    assert grid.effect().abs().min() > 1e-4


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["z", "pattern"])
def test_where_the_metric_is_linear_the_estimate_is_the_patch(site, direction):
    model, prefix, batch = made(1, 2.0, **LINEAR)
    options = dict(direction=direction, site=site, by_position=True)
    exact = patch_heads(
        model, prefix, batch, **options, metrics=["logit_difference"], progress=False
    )
    estimate = attribution_patch(model, prefix, batch, **options, metric="logit_difference")
    for name in ("values", "on", "off"):
        a, b = (getattr(x, name)["logit_difference"] for x in (estimate, exact))
        assert_close(a, b)
    found = agreement(estimate, exact, "logit_difference")
    assert found.pearson == pytest.approx(1) and found.max_difference < 1e-9


def test_weights_are_left_alone_whatever_the_callers_grad_mode():
    model, prefix, batch = made()
    expected = attribution_patch(model, prefix, batch).values["log_prob"]
    hooks, flags = forward_hooks(model), [p.requires_grad for p in model.parameters()]
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(attribution_patch(model, prefix, batch).values["log_prob"], expected)
            integrated_gradients(model, prefix, batch, over="z_direct", progress=False)
    assert all(p.grad is None for p in model.parameters())
    assert forward_hooks(model) == hooks
    model.requires_grad_(False)
    assert_close(attribution_patch(model, prefix, batch).values["log_prob"], expected, 1e-12)
    assert not any(p.requires_grad for p in model.parameters()) and all(flags)


def test_a_metric_each_backward_pass():
    model, prefix, batch = made()
    mine = {
        "first": lambda logits, _: logits[..., 0, 0],
        "last": lambda logits, _: logits[..., -1, 0] * 2,
    }
    both = attribution_patch(model, prefix, batch, metric=mine)
    for name, metric in mine.items():
        alone = attribution_patch(model, prefix, batch, metric={name: metric})
        assert_close(both.values[name], alone.values[name], 1e-12)


def gentle(model):
    """Weaken attention, so that a loop over equal steps is near enough."""
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.mul_(0.5)
    return model


@settings(max_examples=12)
@given(architectures(), st.integers(0, 99), st.sampled_from(["gates", "z", "z_direct"]))
def test_shares_add_up_on_every_architecture(arch, seed, over):
    """The ends come from runs of their own: the masked baseline, attach, and one-by-one patches."""
    model = raw_model(seed, gain=0.7, **arch)
    prefix = pi.Prefix.random(model, N, seed, "kv", std=0.5)
    batch = batch_for(model, length=POS, seed=seed)
    found = integrated_gradients(
        model, prefix, batch, over=over, tolerance=1e-5, max_steps=60_000, progress=False
    )
    off = slots_run(model, prefix, batch, "off", [])
    layers, heads = arch["n_layers"], arch["n_heads"]
    if over == "z":
        pair = pi.run_pair(model, prefix, batch.tokens)
        for layer in range(layers):
            given = pair.on[Site.Z.at(layer)]

            def write(z, hook, given=given):
                return torch.cat([z[:, :N], given], dim=1)

            end = slots_run(model, prefix, batch, "off", [(Site.Z.at(layer), write)])
            assert (found.values[layer].sum(0) - (end - off)).abs().max() < 2e-5
        assert found.start.shape == found.end.shape == (layers, 2)
    else:
        on = slots_run(model, prefix, batch, "on", [])
        assert (found.values.flatten(0, -2).sum(0) - (on - off)).abs().max() < 2e-5
    assert found.values.shape == (layers, heads, *[N] * (over == "gates"), 2)
    assert found.completeness == pytest.approx(float(found.error.abs().max()))
    assert len(found.steps) == (layers if over == "z" else 1)


def midpoints(value, start, end, steps=120):
    """Integrate the gradient of value along a straight line, one equal step after the other."""
    total = torch.zeros_like(start)
    for i in range(steps):
        x = (start + (end - start) * (i + 0.5) / steps).requires_grad_()
        total += torch.autograd.grad(value(x), x)[0]
    return total * (end - start) / steps


def test_gates_against_a_loop_of_equal_steps():
    model, prefix, batch = made(2, 0.7, 0.3)
    model = gentle(model).requires_grad_(False)
    found = integrated_gradients(model, prefix, batch, tolerance=1e-7, progress=False)
    for b in range(2):
        own = type(batch)(batch.tokens[b : b + 1], batch.answers[b : b + 1], batch.skill[b : b + 1])

        def value(gates, own=own):
            with pi.attach(model, prefix, gates=gates):  # through the slots
                return log_prob(model(own.tokens), own).sum()

        start = torch.zeros(2, 2, N, dtype=torch.float64)
        expected = midpoints(value, start, start + 1)
        assert_close(found.values[..., b], expected, 1e-3)
    assert found.values.abs().max() > 1e-3


@pytest.mark.parametrize("over", ["z", "z_direct"])
def test_outputs_against_a_loop_of_equal_steps(over):
    model, prefix, batch = made(2, 0.7)
    model = gentle(model).requires_grad_(False)
    found = integrated_gradients(model, prefix, batch, over=over, tolerance=1e-7, progress=False)
    pair = pi.run_pair(model, prefix, batch.tokens)
    ends = [torch.stack([c[Site.Z.at(i)] for i in range(2)]) for c in (pair.off, pair.on)]
    for layers in [[0], [1]] if over == "z" else [[0, 1]]:

        def value(zs, layers=layers):
            def write(x, hook):
                return torch.cat([x[:, :N], zs[layers.index(hook.layer())]], dim=1)

            hooks = [*masked_hooks(model, N), *((Site.Z.at(i), write) for i in layers)]
            return log_prob(model.run_with_hooks(batch.tokens, fwd_hooks=hooks), batch).sum()

        expected = midpoints(value, *(z[layers] for z in ends)).sum((2, 4)).transpose(1, 2)
        assert_close(found.values[layers], expected, 1e-3)
    assert found.values.abs().min() > 1e-5


def test_two_slots_of_one_head_have_a_closed_form():
    """z(c) = (E t + c (e1 v1 + e2 v2)) / (E + c (e1 + e2)), read out by a linear metric."""
    model, prefix, batch = made(1, 2.0, n_heads=1, **LINEAR)
    metric = "logit_difference"
    found = integrated_gradients(
        model, prefix, batch, metric=metric, tolerance=1e-9, progress=False
    )
    pair = contrast(model, prefix, batch)
    scores = pair.pair.on[Site.ATTN_SCORES.at(0)][:, 0]  # batch query slots+key
    _, values = prefix.keys_values(model)[0]
    read = (model.W_O[0, 0] @ model.W_U).detach()
    for b in range(2):
        shares = torch.zeros(N, dtype=torch.float64)
        for out, q in enumerate(range(POS - 2, POS)):
            answer = int(batch.answers[b, out])
            foil = pair.target.logits_off[b, out].clone()
            foil[answer] = -torch.inf
            direction = read[:, answer] - read[:, int(foil.argmax())]
            e = [math.exp(float(scores[b, q, s])) for s in range(N)]
            big, small = sum(math.exp(float(x)) for x in scores[b, q, N:]), sum(e)
            t = pair.activation("off", Site.Z, 0)[b, q, 0] @ direction
            v = [values[s, 0] @ direction for s in range(N)]
            both = sum(x * y for x, y in zip(e, v, strict=True))
            log = math.log((big + small) / big)
            mixed = t / (big + small) + both * (log + big / (big + small) - 1) / small**2
            for s in range(N):
                shares[s] += e[s] * (v[s] * log / small - mixed) / 2
        assert_close(found.values[0, 0, :, b], shares, 1e-7)


def test_heads_side_by_side_before_a_linear_metric_have_their_patches():
    model, prefix, batch = made(1, 2.0, **LINEAR)
    metric = "logit_difference"
    exact = patch_slots(
        model, prefix, batch, axes=("layer", "head"), metrics=[metric], progress=False
    ).effect(metric)
    options = dict(metric=metric, tolerance=1e-9, progress=False)
    gates = integrated_gradients(model, prefix, batch, **options)
    assert_close(gates.values.sum(2), exact, 1e-7)
    for over in ("z", "z_direct"):
        z = integrated_gradients(model, prefix, batch, over=over, **options)
        assert_close(z.values, exact, 1e-9)


def test_direct_shares_are_what_each_head_writes_into_a_linear_readout():
    model, prefix, batch = made(3, 1.0, **LINEAR)
    metric = "logit_difference"
    found = integrated_gradients(
        model, prefix, batch, over="z_direct", metric=metric, progress=False
    )
    pair = contrast(model, prefix, batch)
    off = pair.target.logits_off.scatter(-1, batch.answers[..., None], -torch.inf)
    for layer, head, b in itertools.product(range(3), range(2), range(2)):
        z_on, z_off = (pair.activation(s, Site.Z, layer)[b, -2:, head] for s in ("on", "off"))
        logits = (z_on - z_off) @ model.W_O[layer, head].detach() @ model.W_U.detach()
        answers, foils = batch.answers[b], off[b].argmax(-1)
        share = sum(logits[i, answers[i]] - logits[i, foils[i]] for i in range(2)) / 2
        assert float(found.values[layer, head, b]) == pytest.approx(float(share), rel=1e-9)
    assert found.steps == (32,)


def test_too_few_steps_are_an_error_and_not_an_answer():
    model, prefix, batch = made(2, 4.0, 3.0)
    with pytest.raises(pi.PrefixInterpError, match="max_steps=40 are too few: shares miss"):
        integrated_gradients(model, prefix, batch, max_steps=40, progress=False)


def test_integrated_dataframe():
    model, prefix, batch = made()
    for over in ("gates", "z"):
        found = integrated_gradients(model, prefix, batch, over=over, progress=False)
        table = found.to_dataframe()
        assert list(table.columns) == [*found.axes, "metric", "effect", "low", "high", "share"]
        for row in table.to_dict("records"):
            at = tuple(row[a] for a in found.axes)
            values = found.values[at]
            assert row["effect"] == pytest.approx(float(values.mean()))
            assert row["low"] == pytest.approx(float(values.min()))  # two examples
            assert row["high"] == pytest.approx(float(values.max()))
        sums = table.groupby("layer")["share"].sum() if over == "z" else [table["share"].sum()]
        assert all(abs(x - 1) < 0.1 for x in sums)
    assert found.effect() is found.effect("log_prob") is found.values
    with pytest.raises(pi.PrefixInterpError, match="metric='kl' is unknown"):
        found.effect("kl")


def grid_of(effects, axes=("layer", "head"), direction="denoise"):
    values = torch.as_tensor(effects, dtype=torch.float64)[..., None] + torch.tensor([-1.0, 1.0])
    zero = {"log_prob": torch.zeros(2, dtype=torch.float64)}
    return PatchGrid(direction, "z", axes, {"log_prob": values}, zero, zero)


def test_agreement_against_pandas():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=rng).round(decimals=0)  # with ties
    b = torch.randn(3, 4, generator=rng).round(decimals=1)
    found = agreement(grid_of(a), grid_of(b))
    frame = pd.DataFrame({"a": a.flatten().tolist(), "b": b.flatten().tolist()})
    for method in ("spearman", "pearson"):
        expected = frame.corr(method=method).loc["a", "b"]
        assert getattr(found, method) == pytest.approx(expected)
    assert found.max_difference == pytest.approx((frame.a - frame.b).abs().max())
    monotone = agreement(grid_of([[1.0, 2, 3]]), grid_of([[1.0, 8, 27]]))
    assert monotone.spearman == pytest.approx(1) and monotone.pearson < 0.99
    assert math.isnan(agreement(grid_of([[1.0, 1]]), grid_of([[1.0, 2]])).spearman)


def test_agreement_of_unlike_things():
    one = grid_of([[1.0, 2]])
    with pytest.raises(pi.PrefixInterpError, match="estimate has axes"):
        agreement(one, grid_of([[1.0, 2]], axes=("layer", "slot")))
    with pytest.raises(pi.PrefixInterpError, match="estimate has axes"):
        agreement(one, grid_of([[1.0], [2]]))
    with pytest.raises(pi.PrefixInterpError, match="exact has 'noise'"):
        agreement(one, grid_of([[1.0, 2]], direction="noise"))
    with pytest.raises(pi.PrefixInterpError, match="metric='kl' is unknown"):
        agreement(one, one, "kl")


def test_estimates_rank_heads_as_exact_patches_do():
    model, prefix, batch = made(2, 0.7, 0.5, n_heads=4)
    exact = patch_heads(model, prefix, batch, progress=False)
    assert agreement(attribution_patch(model, prefix, batch), exact).spearman > 0.8
    path = integrated_gradients(model, prefix, batch, over="z", progress=False)
    assert agreement(path, exact).spearman > 0.8


def test_bad_input(unchecked, capsys):
    model, prefix, batch = made()
    case = model, prefix, batch
    with pytest.raises(pi.PrefixInterpError, match="by_position=True does not go with site='gate'"):
        attribution_patch(*case, site="gate", by_position=True)
    with pytest.raises(pi.PrefixInterpError, match="site='resid' is unknown"):
        attribution_patch(*case, site="resid")
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'noise'"):
        attribution_patch(*case, direction="noising")
    for call in (attribution_patch, integrated_gradients):
        with pytest.raises(pi.PrefixInterpError, match="metric='exact_match' has no gradient"):
            call(*case, metric="exact_match")
    with pytest.raises(pi.PrefixInterpError, match="over='gate' is unknown"):
        integrated_gradients(*case, over="gate")
    with pytest.raises(pi.PrefixInterpError, match="are several"):
        integrated_gradients(*case, metric=("kl", "log_prob"))
    for bad in (dict(tolerance=0.0), dict(max_steps=0)):
        with pytest.raises(pi.PrefixInterpError, match=next(iter(bad))):
            integrated_gradients(*case, **bad)
    capsys.readouterr()
    integrated_gradients(*case, progress=False)
    assert capsys.readouterr() == ("", "")
    integrated_gradients(*case)
    assert "gradients over gates" in capsys.readouterr().err
