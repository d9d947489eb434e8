import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.integrated import integrated_gradients
from prefix_interp.attribution.patching import patch_slots
from prefix_interp.prefixes.baselines import masked_hooks
from tests.attribution.made_up import LINEAR, POS, N, batch_for, log_prob, made, slots_run
from tests.helpers import architectures, assert_close, raw_model

Site = pi.Site


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
    scores = pair.runs.on[Site.ATTN_SCORES.at(0)][:, 0]  # batch query slots+key
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


def test_bad_input(unchecked, capsys):
    model, prefix, batch = made()
    case = model, prefix, batch
    with pytest.raises(pi.PrefixInterpError, match="metric='exact_match' has no gradient"):
        integrated_gradients(*case, metric="exact_match")
    with pytest.raises(pi.PrefixInterpError, match="metric='loss' is unknown"):
        integrated_gradients(*case, metric="loss")
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
