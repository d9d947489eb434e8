import re

import numpy as np
from matplotlib import pyplot as plt
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.backends import backend_svg
from matplotlib.figure import Figure

from prefix_interp.views.style import legend_below, look, svg


def _maps():
    with look():
        figure, axes = plt.subplots(1, 3)
        for i, ax in enumerate(axes):
            ax.imshow(np.eye(3 + i))
    text = svg(figure)
    plt.close(figure)
    return text


def test_a_figure_gives_the_same_text_whatever_its_clip_paths_are_called(monkeypatch):
    first, make_id = _maps(), backend_svg.RendererSVG._make_id

    def renamed(self, kind, content):
        return make_id(self, kind, ("elsewhere", content) if kind == "p" else content)

    monkeypatch.setattr(backend_svg.RendererSVG, "_make_id", renamed)
    assert _maps() == first


def test_every_clip_path_that_is_used_is_there_once():
    text = _maps()
    made = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(made) == len(set(made)) == 3
    assert set(re.findall(r"url\(#([^)]+)\)", text)) == set(made)


def _lines():
    with look():
        figure = Figure(layout="constrained")
        ax = figure.subplots()
        ax.plot([1, 2], [3, 4], label="a line")
        ax.set_xlabel("x")
        legend_below(figure, ax)
    return figure


def test_svg_is_the_same_each_time_and_has_no_date():
    first, second = svg(_lines()), svg(_lines())
    assert first == second and "<dc:date>" not in first


def test_what_the_caller_set_is_used_and_nothing_is_changed():
    before = dict(rcParams)
    with rc_context({"font.size": 13.0, "font.family": "DejaVu Serif", "axes.grid": False}):
        mine = dict(rcParams)
        with look(8.0):
            assert rcParams["font.size"] == 13.0 and rcParams["font.family"] == ["DejaVu Serif"]
            assert rcParams["axes.spines.top"] is False  # what is free has the package's style
            (ax,) = _lines().axes
        assert dict(rcParams) == mine
        assert ax.xaxis.label.get_fontsize() == 13.0 and ax.xaxis.label.get_family() == [
            "DejaVu Serif"
        ]
    with look(8.0):
        assert rcParams["font.size"] == 8.0
        (ax,) = _lines().axes
    assert dict(rcParams) == before


def test_matplotlibs_defaults_give_the_same_text_whatever_the_caller_set():
    plain = svg(_lines())
    with rc_context({"font.size": 3.0, "axes.labelsize": 30.0, "svg.hashsalt": "mine"}):
        assert svg(_lines()) != plain
        with rc_context(rcParamsDefault):
            assert svg(_lines()) == plain


def test_a_legend_below_has_every_label():
    (legend,) = _lines().legends
    assert [text.get_text() for text in legend.get_texts()] == ["a line"]


def test_a_legend_has_as_many_columns_as_fit_and_breaks_what_fits_in_no_line():
    with look():
        figure = Figure(figsize=(3.0, 2.0), layout="constrained")
        ax = figure.subplots()
        for name in ("a", "b", "c", "a rather long name for one line", "d " * 60):
            ax.plot([0, 1], [0, 1], label=name)
        ax.plot([0, 1], [1, 0], label="_hidden")
        names = ax.get_legend_handles_labels()[1]
        for shown in (3, 4, 5):
            for line in ax.lines[shown:]:
                line.set_label("_" + line.get_label().removeprefix("_"))
            for line, name in zip(ax.lines[:shown], names, strict=False):
                line.set_label(name)
            legend = legend_below(figure, ax)
            assert legend.get_window_extent().width <= figure.bbox.width
            assert legend._ncols == {3: 3, 4: 2, 5: 1}[shown]
            assert ("\n" in legend.get_texts()[-1].get_text()) == (shown == 5)
            legend.remove()


def test_a_legend_of_several_panels_names_each_entry_once():
    with look():
        figure = Figure(layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], label="a")
        right.plot([0, 1], label="a")
        right.plot([1, 0], label="b")
        legend = legend_below(figure, [left, right])
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
