import pytest
import torch

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.sites import Site
from prefix_interp.views.attention import attention_view, plain_attention_view
from prefix_interp.views.heads import heads_figure, layer_outputs, outputs_figure


@pytest.fixture(scope="module")
def runs():
    model = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
    tokens = pi.get_task("add_one").sample(6, seed=0).tokens
    prefixes = {name: pi.Prefix.random(model, 2, i) for i, name in enumerate("ab")}
    return model, {n: pi.run_pair(model, p, tokens) for n, p in prefixes.items()}


@pytest.fixture(scope="module")
def views(runs):
    model, pairs = runs
    plain = plain_attention_view(model, pairs["a"].tokens, 0, "no prefix")
    return [plain, *(attention_view(pair, 0, name) for name, pair in pairs.items())]


def test_every_head_has_its_gate_and_its_content(views):
    figure = heads_figure(views, layer=1)
    assert len(figure.axes) == 3 * 2 * 2
    for row, view in enumerate(views):
        for head in range(2):
            left, right = figure.axes[4 * row + 2 * head : 4 * row + 2 * head + 2]
            shown = torch.tensor(left.images[0].get_array().filled()).flatten()
            assert torch.allclose(shown, view.slots[1, head].sum(-1).double())
            content = torch.tensor(right.images[0].get_array().filled())
            assert torch.allclose(content.sum(-1), torch.ones(19).double(), atol=1e-5)
    with pytest.raises(PrefixInterpError, match="layer=2"):
        heads_figure(views, layer=2)
    with pytest.raises(PrefixInterpError, match="views is empty"):
        heads_figure([])


def test_outputs_are_what_attention_writes(runs):
    _, pairs = runs
    found = layer_outputs(pairs, pos=9, layer=1, seed=3)
    assert torch.equal(found.on["b"], pairs["b"].on[Site.ATTN_OUT.at(1)][:, 9])
    assert torch.equal(found.off, pairs["a"].off[Site.ATTN_OUT.at(1)][:, 9])
    assert len(set(found.dims)) == 2 and layer_outputs(pairs, 9, 1, 3).dims == found.dims
    axes, shares = found.components()
    points = torch.cat([found.off, *found.on.values()]).double()
    covariance = torch.cov(points.T)
    eigenvalues, vectors = torch.linalg.eigh(covariance)  # an oracle that is no SVD
    assert shares[0] == pytest.approx((eigenvalues[-1] / eigenvalues.sum()).item(), rel=1e-4)
    assert abs(float(axes[0].double() @ vectors[:, -1])) == pytest.approx(1, abs=1e-3)
    frame = found.to_dataframe()
    dim = found.dims[1]
    assert frame[frame["prefix"] == "b"][f"on dim {dim}"].tolist() == pytest.approx(
        found.on["b"][:, dim].tolist()
    )
    figure = outputs_figure(found, n_arrows=4)
    assert [line.get_label() for line in figure.axes[1].lines] == ["a", "b", "no prefix"]
    assert figure.axes[1].lines[1].get_xdata() == pytest.approx(
        found.on["b"][:4, found.dims[0]].tolist()
    )


def test_runs_on_other_inputs_are_refused(runs):
    model, pairs = runs
    tokens = pi.get_task("add_one").sample(6, seed=1).tokens
    other = pi.run_pair(model, pi.Prefix.random(model, 1), tokens)
    with pytest.raises(PrefixInterpError, match="other tokens"):
        layer_outputs(pairs | {"c": other}, pos=9)
    with pytest.raises(PrefixInterpError, match="pairs is empty"):
        layer_outputs({}, pos=9)
