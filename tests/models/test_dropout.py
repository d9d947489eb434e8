import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.dropout import dropout_hooks
from tests.helpers import toy


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rate_and_mean(p):
    _, drop = dropout_hooks(toy(), p, rng())[0]
    x = torch.full((400, 500), 3.0)
    y, n = drop(x, None), x.numel()
    dropped = float((y == 0).float().mean())
    assert abs(dropped - p) < 4 * (p * (1 - p) / n) ** 0.5
    assert y.unique().tolist() == pytest.approx([0.0, 3 / (1 - p)])
    assert abs(float(y.mean()) - 3) < 4 * 3 * (p / (1 - p) / n) ** 0.5
    assert not torch.equal(drop(x, None), y)  # a fresh mask at every call


def test_places_and_reproducibility():
    model = toy(dtype=torch.float32)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    sites = [pi.Site.RESID_PRE.at(0)]
    for site in (pi.Site.PATTERN, pi.Site.ATTN_OUT, pi.Site.MLP_OUT):
        sites += [site.at(0), site.at(1)]
    assert [name for name, _ in dropout_hooks(model, 0.1, rng())] == sites
    attention = dropout_hooks(toy(attn_only=True), 0.1, rng())
    assert not any("mlp" in name for name, _ in attention) and len(attention) == 5
    run = lambda seed: model.run_with_hooks(  # noqa: E731
        tokens, fwd_hooks=dropout_hooks(model, 0.3, rng(seed))
    )
    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_zero_is_no_hooks_and_moves_no_generator():
    generator = rng()
    before = generator.get_state()
    assert dropout_hooks(toy(), 0.0, generator) == []
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_a_probability_out_of_range_is_refused(p):
    with pytest.raises(pi.PrefixInterpError, match="p="):
        dropout_hooks(toy(), p, rng())
