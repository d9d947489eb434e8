import itertools

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.integrated import integrated_gradients
from prefix_interp.attribution.patching import HEAD_SITES, donor_activation, patch_heads
from tests.attribution.made_up import ARCHITECTURES, LINEAR, POS, N, log_prob, made, slots_run
from tests.helpers import assert_close, forward_hooks

Site = pi.Site


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
    estimate = attribution_patch(model, prefix, batch, **options, metrics=["logit_difference"])
    for name in ("values", "on", "off"):
        a, b = (getattr(x, name)["logit_difference"] for x in (estimate, exact))
        assert_close(a, b)
    found = estimate.compare_with(exact)
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


def test_each_metric_takes_its_own_backward_pass():
    model, prefix, batch = made()
    mine = {
        "first": lambda logits, _: logits[..., 0, 0],
        "last": lambda logits, _: logits[..., -1, 0] * 2,
    }
    both = attribution_patch(model, prefix, batch, metrics=mine)
    for name, metric in mine.items():
        alone = attribution_patch(model, prefix, batch, metrics={name: metric})
        assert_close(both.values[name], alone.values[name], 1e-12)


def test_bad_input(unchecked):
    model, prefix, batch = made()
    case = model, prefix, batch
    with pytest.raises(pi.PrefixInterpError, match="by_position=True does not go with site='gate'"):
        attribution_patch(*case, site="gate", by_position=True)
    with pytest.raises(pi.PrefixInterpError, match="site='resid' is unknown"):
        attribution_patch(*case, site="resid")
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'noise'"):
        attribution_patch(*case, direction="noising")
    with pytest.raises(pi.PrefixInterpError, match="metric='exact_match' has no gradient"):
        attribution_patch(*case, metrics=("exact_match",))
