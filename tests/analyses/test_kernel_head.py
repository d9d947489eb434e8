import math

import numpy as np
import pytest
import torch

import prefix_interp as pi
from analyses.universality.kernel_head import kernel_head, slots_for
from analyses.universality.sphere import (
    concentration,
    even_points,
    random_points,
    spacing,
    sphere_functions,
)
from prefix_interp.models.model import clone
from prefix_interp.seeds import derive_generator
from tests.helpers import assert_close, forward_hooks


def two_outputs(points):
    return torch.stack([points[:, 0] * points[:, 1], points[:, -1].abs()], dim=1)


def points_of(dim, n, label="points"):
    return random_points(dim, n, derive_generator(0, "test", label))


def loop(keys, offsets, values, points):
    """The softmax over slots and content, one query at a time, in numpy."""
    found = np.zeros((*points.shape[:2], values.shape[1]))
    for b, sequence in enumerate(points.numpy()):
        for i, x in enumerate(sequence):
            slots = np.exp([x @ k + c for k, c in zip(keys.numpy(), offsets.numpy(), strict=True)])
            content = np.exp([x @ y for y in sequence[: i + 1]])
            found[b, i] = slots @ values.numpy() / (slots.sum() + content.sum())
    return found


@pytest.fixture(scope="module")
def head():
    return kernel_head(2, 2, n_content=3)


def rmse(head, prefix, function, n=400):
    points = points_of(head.dim, n, "held out")
    return float((head.outputs(prefix, points[:, None])[:, 0] - function(points)).square().mean())


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_model_is_the_kernel_regression_of_a_loop(dim):
    head, n = kernel_head(dim, 3, n_content=4), 7
    rng = derive_generator(0, "slots", dim)
    keys, offsets, values = (
        torch.randn(shape, generator=rng, dtype=torch.float64)
        for shape in ((n, dim + 1), (n,), (n, 3))
    )
    points = points_of(dim, 12).unflatten(0, (3, 4))
    prefix = head.prefix(3 * keys, offsets, values)
    expected = loop(3 * keys, offsets, values, points)
    assert_close(head.outputs(prefix, points), expected, 1e-12)
    with head.feed(points) as tokens, pi.attach(head.model, prefix):  # the other injection
        assert_close(head.model(tokens), expected, 1e-12)
    ((k, v),) = prefix.keys_values(head.model)
    assert_close(k[:, 0, : dim + 1], 3 * keys, 1e-15)
    assert_close(v[:, 0, -3:], values, 1e-15)


def test_quadrature_is_the_loop_with_values_of_the_function(head):
    prefix = slots_for(head, two_outputs, 9, gate=0.8, seed=3)
    centres = even_points(2, 9, seed=3)
    keys, points = concentration(2, 9) * centres, points_of(2, 20)[:, None]
    (slots,) = prefix.vectors
    expected = loop(keys, slots[:, 6], two_outputs(centres) / 0.8, points)
    assert_close(head.outputs(prefix, points), expected, 1e-10)


def test_the_head_computes_nothing_without_a_prefix_and_its_weights_never_change(head):
    points = points_of(2, 6).unflatten(0, (2, 3))
    with head.feed(points) as tokens:
        assert head.model(tokens).abs().max() == 0
        _, cache = head.model.run_with_cache(tokens)
    weights = (points @ points.mT).exp().tril()
    average = weights @ points / weights.sum(-1, keepdim=True)
    assert_close(cache["z", 0][:, :, 0, :3], average, 1e-12)
    before = clone(head.model).state_dict()
    for n in (4, 64):
        head.outputs(slots_for(head, two_outputs, n, "least_squares"), points)
    assert all(torch.equal(x, before[k]) for k, x in head.model.state_dict().items())
    assert forward_hooks(head.model)[:2] == forward_hooks(kernel_head(2, 2, 3).model)[:2]


@pytest.mark.parametrize("method", ["quadrature", "least_squares"])
def test_error_falls_with_slots(head, method):
    errors = [rmse(head, slots_for(head, two_outputs, n, method), two_outputs) for n in
              (8, 32, 128)]  # fmt: skip
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_random_values_do_not_fit_and_least_squares_beats_quadrature(head):
    constant = float(two_outputs(points_of(2, 400, "held out")).square().mean())
    at = {m: rmse(head, slots_for(head, two_outputs, 64, m), two_outputs) for m in
          ("quadrature", "least_squares", "random")}  # fmt: skip
    assert at["least_squares"] < at["quadrature"] < constant / 10 < constant < at["random"]


def test_the_gate_is_the_given_one_on_average(head):
    prefix = slots_for(head, two_outputs, 100, gate=0.7)
    with head.feed(points_of(2, 50)[:, None]) as tokens:
        gate = pi.decompose_attention(pi.run_pair(head.model, prefix, tokens)).gate
    assert gate.logit().mean() == pytest.approx(math.log(0.7 / 0.3), abs=0.01)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_points_are_on_the_sphere_and_even(dim):
    points = even_points(dim, 64, seed=2)
    assert_close(points.norm(dim=1), torch.ones(64, dtype=torch.float64), 1e-12)
    assert torch.equal(points, even_points(dim, 64, seed=2))
    assert not torch.allclose(points, even_points(dim, 64, seed=3))
    assert points.mean(dim=0).norm() < (0.1 if dim > 2 else 0.02)
    nearest = (points @ points.T - 2 * torch.eye(64)).amax(dim=1).acos()
    if dim <= 2:  # of a square lattice it would be 1
        assert 0.85 < float(nearest.min()) / spacing(dim, 64) <= 1.1


def test_the_rule_for_kappa_is_near_the_best(head):
    """No kappa four times off does better than the rule's, at several numbers of slots."""
    for n in (16, 64, 256):
        errors = [
            rmse(head, slots_for(head, two_outputs, n, sharpness=s), two_outputs)
            for s in (0.25, 1.0, 4.0)
        ]
        assert errors[1] == min(errors)


def test_functions_have_mean_0_and_variance_1():
    parts = sphere_functions(points_of(2, 20_000))
    assert [v.shape[1] for v in parts.values()] == [1, 1, 1, 3]
    for values in parts.values():
        assert values.mean(dim=0).abs().max() < 0.03
        assert (values.std(dim=0) - 1).abs().max() < 0.03
    x = points_of(2, 5)
    ratio = sphere_functions(x)["harmonic"][:, 0] / (x[:, 0] * x[:, 1])
    assert ratio.mean() == pytest.approx(math.sqrt(15), rel=0.05)  # 1 / sd of x y on the sphere


def test_bad_input_is_one_line(head):
    slots = dict(keys=torch.zeros(2, 3), offsets=torch.zeros(2), values=torch.zeros(2, 2))
    points = points_of(2, 4)[:, None]
    for message, call in {
        "dim=0 must be": lambda: kernel_head(0, 1),
        "n_out=0 must be": lambda: kernel_head(2, 0),
        "n=0 must be": lambda: even_points(2, 0),
        "points have 1 coordinate": lambda: sphere_functions(torch.ones(3, 1)),
        "method='exact' is unknown": lambda: slots_for(head, two_outputs, 4, "exact"),
        "n_slots=0 must be": lambda: slots_for(head, two_outputs, 0),
        "gate=1.0 must be below 1": lambda: slots_for(head, two_outputs, 4, gate=1.0),
        "gate=0.0 must be": lambda: slots_for(head, two_outputs, 4, gate=0.0),
        "sharpness=-1.0 must be": lambda: slots_for(head, two_outputs, 4, sharpness=-1.0),
        r"function returns shape \(4,\)": lambda: slots_for(head, lambda p: p[:, 0], 4),
        "NaN or infinity": lambda: slots_for(head, lambda p: p[:, :2] * math.nan, 4),
        r"values has shape \(2, 5\)": lambda: head.prefix(**{**slots, "values": torch.zeros(2, 5)}),
        "points have 2 coordinates": lambda: head.outputs(head.prefix(**slots), points[..., :2]),
        "away from 1": lambda: head.outputs(head.prefix(**slots), 2 * points),
    }.items():
        with pytest.raises(pi.PrefixInterpError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
