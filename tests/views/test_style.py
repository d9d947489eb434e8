import re

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.backends import backend_svg

from prefix_interp.views.style import look, svg


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
