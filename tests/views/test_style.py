import re

import numpy as np
from matplotlib import pyplot as plt
from matplotlib import rcParams
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


def test_the_users_settings_are_neither_used_nor_changed():
    plain = svg(_lines())
    rcParams["font.size"] = 3.0
    try:
        assert svg(_lines()) == plain
        assert rcParams["font.size"] == 3.0
    finally:
        rcParams["font.size"] = 10.0


def test_a_legend_below_has_every_label():
    (legend,) = _lines().legends
    assert [text.get_text() for text in legend.get_texts()] == ["a line"]
