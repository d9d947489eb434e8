import pytest
import torch

from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.attribution.integrated import IntegratedGradients
from prefix_interp.errors import PrefixInterpError
from prefix_interp.estimates import bootstrap_interval
from prefix_interp.views.effects import effects_figure


def grid_of(*shape, axes, metric="log_prob", n=5, **more):
    values = torch.randn(*shape, n, generator=torch.Generator().manual_seed(0))
    zero = {metric: torch.zeros(n)}
    return PatchGrid("denoise", "z of a head", axes, {metric: values}, zero, zero, **more)


def test_few_effects_are_bars_with_intervals():
    grid = grid_of(2, 3, axes=("layer", "head"))
    (ax,) = effects_figure(grid).axes
    assert [p.get_height() for p in ax.patches] == pytest.approx(
        grid.effect().mean(-1).flatten().tolist()
    )
    low, high = bootstrap_interval(grid.effect())
    for line, a, b in zip(
        ax.collections[0].get_segments(), low.flatten(), high.flatten(), strict=True
    ):
        assert sorted(line[:, 1]) == pytest.approx([float(a), float(b)])
    assert [t.get_text() for t in ax.get_xticklabels()][:4] == ["0.0", "0.1", "0.2", "1.0"]
    assert ax.get_ylabel() == "effect on log_prob\n(nats per output)"
    assert ax.get_xlabel() == "layer.head"


def test_many_effects_are_a_heat_map_with_white_at_zero():
    names = {"site": ("attn_out", "mlp_out")}
    grid = grid_of(2, 3, 7, axes=("site", "layer", "pos"), labels=names, metric="mine")
    ax, bar = effects_figure(grid, "mine").axes
    (image,) = ax.images
    shown = torch.as_tensor(image.get_array().filled())
    assert torch.allclose(shown, grid.effect().mean(-1).flatten(0, 1).double())
    low, high = image.get_clim()
    assert low == -high and high == pytest.approx(float(shown.abs().max()))
    rows = [t.get_text() for t in ax.get_yticklabels()]
    assert rows[0] == "attn_out.0" and rows[-1] == "mlp_out.2"
    assert [t.get_text() for t in ax.get_xticklabels()] == list("0123456")
    assert bar.get_ylabel() == "effect on mine\n(mine)"


def test_a_long_axis_has_fewer_labels_than_entries():
    ax = effects_figure(grid_of(12, 12, 40, axes=("layer", "head", "pos"))).axes[0]
    for axis in (ax.xaxis, ax.yaxis):
        labels = [t.get_text() for t in axis.get_ticklabels()]
        assert 20 <= len(labels) <= 48
    assert labels[:3] == ["0.0", "0.3", "0.6"]


def test_shares_of_a_path_and_single_examples_can_be_drawn():
    one = torch.tensor([[[2.0], [-1.0]]])
    shares = IntegratedGradients(
        "z_direct", "kl", ("layer", "head"), one, torch.zeros(1), torch.ones(1), (32,)
    )
    (ax,) = effects_figure(shares).axes
    assert [p.get_height() for p in ax.patches] == [2, -1]
    assert shares.caption().startswith("over z_direct; 1 layer x 2 heads; 1 example; kl changes")


def test_what_cannot_be_drawn_is_refused():
    grid = grid_of(2, 3, axes=("layer", "head"))
    with pytest.raises(PrefixInterpError, match="metric='kl' is unknown"):
        effects_figure(grid, "kl")
    grid.values["log_prob"][0, 0, 0] = torch.nan
    with pytest.raises(PrefixInterpError, match="NaN or infinite"):
        effects_figure(grid)
