import pandas as pd
import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.elicitation import elicitation_figure, patch_figure
from tests.views.drawn import MODELS, drawn, elicited


def _frame():
    return pd.DataFrame(
        {
            "layer": [0, 0], "head": [0, 1], "effect": [0.5, -0.2], "low": [0.4, -0.3],
            "high": [0.6, -0.1], "gate": [0.7, -0.1], "bias": [-0.2, -0.1], "propagated": [0, 0],
            "excess_low": [0.45, -0.3], "excess_high": [0.6, 0.0], "elicited": [True, False],
        }
    )  # fmt: skip


def test_bars_stack_up_and_down_to_the_total():
    figure = elicitation_figure({"one": _frame(), "two": _frame()})
    bars = figure.axes[0].patches
    # Controls reach from effect - excess_high to effect - excess_low.
    assert [(b.get_y(), b.get_y() + b.get_height()) for b in bars[:2]] == [
        (pytest.approx(-0.1), pytest.approx(0.05)), (pytest.approx(-0.2), pytest.approx(0.1)),
    ]  # fmt: skip
    gate, bias = bars[2:4], bars[4:6]
    assert [b.get_height() for b in gate] == pytest.approx([0.7, -0.1])
    assert bias[0].get_y() == 0 and bias[1].get_y() == pytest.approx(-0.1)
    filled, hollow = (figure.axes[0].lines[i] for i in (0, 1))  # the second is as random ones
    assert filled.get_ydata() == [0.5] and hollow.get_ydata() == [-0.2]
    assert filled.get_markerfacecolor() == "black" and hollow.get_markerfacecolor() == "white"
    with pytest.raises(PrefixInterpError, match="frames is empty"):
        elicitation_figure({})


def _with_controls(heads, low, high):
    frame = elicited(heads)
    return frame.assign(excess_low=frame["effect"] - high, excess_high=frame["effect"] - low)


def test_the_axis_holds_controls_that_reach_a_little_farther_than_the_effects():
    near = _with_controls(4, low=-0.9, high=0.2)
    ax = elicitation_figure({"a": near, "b": elicited(4, 1)}).axes[0]
    assert ax.get_ylim()[0] < -0.9 and not ax.texts


@pytest.mark.parametrize("width", [None, "column"])
@pytest.mark.parametrize("heads", MODELS)
def test_controls_beyond_the_axis_end_in_an_arrow_and_their_value(heads, width, monkeypatch):
    far = _with_controls(heads, low=-8.27, high=5.21)
    figure = elicitation_figure({"a": far, "b": elicited(heads, 1)}, width=width)
    cut, whole = figure.axes
    assert -2 < cut.get_ylim()[0] and cut.get_ylim()[1] < 2  # effects can still be seen
    said = [text.get_text() for text in cut.texts]
    for value in ("−8.3", "5.2"):
        assert said.count(value) == heads or said.count(f"to {value}") == 1
    arrows = [line for line in cut.lines if line.get_label() == "goes on to the number"]
    assert [len(line.get_xdata()) for line in arrows] == [heads, heads]
    assert not whole.texts
    found = drawn(figure, "pdf", monkeypatch)
    assert found.outside() == [] and found.overlaps() == []


def test_patches_are_drawn_as_what_they_recover():
    values = {"log_prob": torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]])}
    values = {"log_prob": values["log_prob"][..., None].expand(2, 2, 2, 3)}
    ends = {"log_prob": torch.full((3,), 10.0)}, {"log_prob": torch.zeros(3)}
    grid = PatchGrid("denoise", "z", ("layer", "head", "pos"), values, *ends)
    figure = patch_figure({"a": grid})
    shown = figure.axes[0].images[0].get_array().filled()
    assert shown.flatten().tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == ["0.0", "0.1", "1.0", "1.1"]
    other = PatchGrid("denoise", "z", ("layer", "head"), values, *ends)
    with pytest.raises(PrefixInterpError, match="by_position=True"):
        patch_figure({"a": other})
    with pytest.raises(PrefixInterpError, match="grids is empty"):
        patch_figure({})


def test_a_real_sweep_can_be_drawn():
    model = pi.build_toy(pi.ToyConfig(n_layers=1, n_heads=2, d_model=8))
    prefix = pi.Prefix.random(model, 1)
    grid = pi.patch_heads(model, prefix, "add_one", by_position=True, n=3, progress=False)
    assert patch_figure({"a": grid, "b": grid, "c": grid}).axes
