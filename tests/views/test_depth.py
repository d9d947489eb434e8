import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.theory.depth import TERMS
from prefix_interp.views.depth import drift_figure, expansion_figure
from tests.views.drawn import drift, expansion


def test_bars_are_the_means_of_the_table_and_absent_terms_are_left_out():
    found = expansion()
    figure = expansion_figure(found)
    names = ["score_off", "score", *TERMS[:-1]]  # the last of the rest is 0
    frame = found.to_dataframe()
    for ax, column in zip(figure.axes, ("rms", "rms_in_row"), strict=True):
        bars = [bar.get_width() for bar in ax.patches]
        means = [frame.loc[frame["term"] == name, column].mean() for name in names]
        assert bars == pytest.approx(means)
        heads = frame.loc[frame["term"] == "pretrained", column]
        assert ax.lines[2].get_xdata() == pytest.approx(heads.to_numpy())
    labels = [x.get_text() for x in figure.axes[0].get_yticklabels()]
    assert labels[:4] == ["without prefix", "with prefix", "pretrained", "query only"]
    assert found.plot().axes[0].get_title() == "scores of layer 1"


def test_lines_are_means_over_heads_by_layer():
    found = drift(3)
    figure = drift_figure({"tuned": found, "random": drift(3, 1)})
    frame = found.to_dataframe()
    for ax, column in zip(figure.axes, ("distance", "flips"), strict=True):
        dots, line = ax.lines[:2]
        assert line.get_ydata() == pytest.approx(frame.groupby("layer")[column].mean().to_numpy())
        assert dots.get_ydata() == pytest.approx(frame[column].to_numpy())
        assert line.get_label() == "tuned" and line.get_ydata()[0] == 0
    assert [x.get_text() for x in figure.legends[0].get_texts()] == ["tuned", "random"]


def test_too_many_to_tell_apart_are_refused():
    with pytest.raises(PrefixInterpError, match="drifts has 7 entries; give 1 to 6"):
        drift_figure({str(i): drift(2) for i in range(7)})
    with pytest.raises(PrefixInterpError, match="drifts has 0 entries"):
        drift_figure({})
