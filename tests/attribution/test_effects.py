import math

import pandas as pd
import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.gradients import attribution_patch
from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.attribution.integrated import integrated_gradients
from prefix_interp.attribution.patching import patch_heads
from tests.attribution.made_up import made


def grid_of(effects, axes=("layer", "head"), direction="denoise"):
    values = torch.as_tensor(effects, dtype=torch.float64)[..., None] + torch.tensor([-1.0, 1.0])
    zero = {"log_prob": torch.zeros(2, dtype=torch.float64)}
    return PatchGrid(direction, "z", axes, {"log_prob": values}, zero, zero)


def test_agreement_against_pandas():
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=rng).round(decimals=0)  # with ties
    b = torch.randn(3, 4, generator=rng).round(decimals=1)
    found = grid_of(a).compare_with(grid_of(b))
    frame = pd.DataFrame({"a": a.flatten().tolist(), "b": b.flatten().tolist()})
    for method in ("spearman", "pearson"):
        expected = frame.corr(method=method).loc["a", "b"]
        assert getattr(found, method) == pytest.approx(expected)
    assert found.max_difference == pytest.approx((frame.a - frame.b).abs().max())
    monotone = grid_of([[1.0, 2, 3]]).compare_with(grid_of([[1.0, 8, 27]]))
    assert monotone.spearman == pytest.approx(1) and monotone.pearson < 0.99
    assert math.isnan(grid_of([[1.0, 1]]).compare_with(grid_of([[1.0, 2]])).spearman)


def test_agreement_of_unlike_things():
    one = grid_of([[1.0, 2]])
    with pytest.raises(pi.PrefixInterpError, match="exact has axes"):
        one.compare_with(grid_of([[1.0, 2]], axes=("layer", "slot")))
    with pytest.raises(pi.PrefixInterpError, match="exact has axes"):
        one.compare_with(grid_of([[1.0], [2]]))
    with pytest.raises(pi.PrefixInterpError, match="exact has direction='noise'"):
        one.compare_with(grid_of([[1.0, 2]], direction="noise"))
    with pytest.raises(pi.PrefixInterpError, match="metric='kl' is unknown"):
        one.compare_with(one, "kl")


def test_estimates_rank_heads_as_exact_patches_do():
    model, prefix, batch = made(2, 0.7, 0.5, n_heads=4)
    exact = patch_heads(model, prefix, batch, progress=False)
    assert attribution_patch(model, prefix, batch).compare_with(exact).spearman > 0.8
    path = integrated_gradients(model, prefix, batch, over="z", progress=False)
    assert path.compare_with(exact).spearman > 0.8
