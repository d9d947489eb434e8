from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.decomposition import parts_figure, spectrum_figure


@pytest.fixture(scope="module")
def parts():
    model = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
    prefix = pi.Prefix.random(model, 3, seed=0)
    tokens = pi.get_task("sort_descending").sample(4, seed=0).tokens
    space = pi.bias_subspace(model, prefix, tokens, layer=1, head=1)
    return pi.decompose_attention(pi.run_pair(model, prefix, tokens)), space


def test_parts_lines_are_the_columns_of_the_decomposition(parts):
    dec, _ = parts
    figure = parts_figure({"some prefix": dec}, layer=1, head=1, n_out=10)
    frame = dec.to_dataframe().query("layer == 1 and head == 1")
    for ax, column in zip(figure.axes, ("gate", "scaled_base", "bias"), strict=False):
        assert ax.lines[0].get_ydata() == pytest.approx(frame[column].to_numpy())


def test_spectrum_marks_the_bound(parts):
    dec, space = parts
    plain = torch.linalg.svdvals((dec.output[1, :, 1] - dec.base[1, :, 1]).flatten(0, 1))
    figure = spectrum_figure({"some prefix": space}, {"some prefix": plain})
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.texts] == ["bound 3"]
    assert ax.lines[2].get_xdata()[0] == 3.5
    share = (space.singular_values / space.singular_values[0]).numpy()
    assert ax.lines[0].get_ydata()[:3] == pytest.approx(share[:3])


def test_too_many_lines_are_refused(parts):
    dec, _ = parts
    with pytest.raises(PrefixInterpError, match="parts has 7 entries"):
        parts_figure({str(i): dec for i in range(7)})
    with pytest.raises(PrefixInterpError, match="parts has 0 entries"):
        parts_figure({})


def test_what_is_not_there_is_refused(parts):
    dec, space = parts
    with pytest.raises(PrefixInterpError, match="layer=2 must be between 0 and 1"):
        dec.plot(layer=2)
    with pytest.raises(PrefixInterpError, match="head=-1"):
        dec.plot(head=-1)
    none = replace(space, singular_values=space.singular_values * 0)
    with pytest.raises(PrefixInterpError, match=r"'layer 1, head 1'.* has no bias"):
        none.plot()
    assert none._repr_html_().count("<img") == 0


def test_a_spectrum_is_named_by_its_place(parts):
    _, space = parts
    assert space.plot().axes[0].get_title() == "layer 1, head 1"
    assert replace(space, head=None).place == "layer 1"
