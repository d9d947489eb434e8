"""Every figure at the sizes of a paper: nothing is cut off, and no text covers another."""

import inspect

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import WIDTHS
from prefix_interp.result_object import ResultObject
from prefix_interp.views.circuit_graph import circuit_figure, circuit_svg
from prefix_interp.views.effects import effects_figure
from prefix_interp.views.sheet import Sheet, fit, sheet
from tests.made_up_results import made_up_results
from tests.structure import PACKAGE, files, module_name, tree
from tests.views.drawn import MODELS, circuit, drawn, figures, other_figures, patches

NAMES = (
    "elicitation", "elicitation of one", "patches", "effects by position", "effects", "attention",
    "attention of many slots", "query", "heads", "curves", "circuit",
)  # fmt: skip
OTHERS = (
    "parts",
    "spectra",
    "scores",
    "history",
    "search",
    "masses",
    "outputs",
    "terms",
    "drift",
    "pairs",
    "construction",
    "floors",
    "distance",
)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("heads", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_cut_or_covered(name, heads, width, monkeypatch):
    _check(figures(heads)[name](width=width), width, monkeypatch)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", OTHERS)
def test_figures_without_heads_fit_too(name, width, monkeypatch):
    _check(other_figures()[name](width=width), width, monkeypatch)


def _check(figure, width, monkeypatch):
    assert figure.get_figwidth() == WIDTHS[width] and figure.get_figheight() < 20
    for ending in ("pdf", "png"):  # letters differ in width
        found = drawn(figure, ending, monkeypatch)
        assert len(found.texts) >= 3
        assert found.outside() == [] and found.overlaps() == []


def test_every_figure_function_is_among_those_looked_at():
    made = set()
    for file in files(PACKAGE / "views"):
        for node in tree(file).body:
            name = getattr(node, "name", "")
            if name.endswith("_figure") and not name.startswith("_"):
                arguments = {a.arg for a in node.args.kwonlyargs}
                assert arguments >= {"figsize", "width"}, f"{module_name(file)}.{name}"
                made.add(name)
    source = inspect.getsource(inspect.getmodule(figures))
    assert all(f"{name}(" in source for name in made) and len(made) >= 13
    assert set(figures(4)) == set(NAMES) and set(other_figures()) == set(OTHERS)


@pytest.fixture(scope="module")
def results():
    return made_up_results()


def _classes(cls):
    return {cls}.union(*map(_classes, cls.__subclasses__()))


def test_every_plot_takes_a_size(results):
    for cls in _classes(ResultObject):
        if cls.__module__.startswith("prefix_interp."):
            assert {"figsize", "width"} <= set(inspect.signature(cls.plot).parameters), cls
    for result in results.values():
        assert result.plot(width="column").get_figwidth() == 3.25
        assert tuple(result.plot(figsize=(5, 4)).get_size_inches()) == (5, 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"figsize": (3, 2), "width": "column"}, "exclude each other; give one"),
        ({"width": "colum"}, "width='colum'.*column"),
        ({"figsize": (3, 0)}, r"figsize=\(3, 0\) must be a width and a height of 1 to 100 inches"),
        ({"figsize": (3, float("nan"))}, "figsize="),
        ({"figsize": 3}, "figsize=3 must be"),
    ],
)
def test_sizes_that_are_not_possible_are_refused(unchecked, asked, message):
    with pytest.raises(PrefixInterpError, match=message):
        Sheet(**{"figsize": None, "width": None} | asked)


def test_the_callers_fonts_are_used_and_kept():
    grid = patches(4, axes=("layer", "head"))
    with mpl.rc_context({"font.size": 6.0, "font.family": "DejaVu Serif"}):
        before = dict(mpl.rcParams)
        figure = effects_figure(grid, width="page")
        assert dict(mpl.rcParams) == before
    (ax,) = figure.axes
    labels = [ax.yaxis.label, *ax.get_xticklabels()]
    assert [x.get_family() for x in labels] == [["DejaVu Serif"]] * 5
    assert ax.yaxis.label.get_fontsize() == 6.0 and labels[1].get_fontsize() < 6.0
    assert effects_figure(grid, width="column").axes[0].yaxis.label.get_fontsize() < 8


def test_large_letters_of_the_caller_still_fit(monkeypatch):
    with mpl.rc_context({"font.size": 14.0}):
        for figure in (
            effects_figure(patches(16, axes=("layer", "head")), width="column"),
            other_figures()["scores"](width="column"),
        ):
            found = drawn(figure, "png", monkeypatch)
            assert found.outside() == [] and found.overlaps() == []


def test_labels_that_overlap_are_thinned_at_the_first_head_of_a_layer():
    with sheet(width="column") as room:
        ax = room.figure(3.0, 3.0).subplots()
        ax.set_xticks(range(270), [f"{i}.{j}" for i in range(30) for j in range(9)])
        ax.set_title("a title that is much too long for a single line of such a narrow figure")
    kept = [x.get_text() for x in ax.get_xticklabels()]
    assert 4 <= len(kept) <= 15 and all(x.endswith(".0") for x in kept)
    assert "\n" in ax.get_title()


def test_words_on_an_axis_are_turned_before_any_is_left_out():
    with sheet(width="column") as room:
        ax = room.figure(3.0, 3.0).subplots()
        ax.set_xticks(range(12), [f"token {'x' * i}" for i in range(12)])
    assert len(ax.get_xticklabels()) == 12
    assert {x.get_rotation() for x in ax.get_xticklabels()} == {90}


def test_a_figure_that_fits_stays_as_it_is():
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax = figure.subplots()
    ax.set(title="short", xticks=[0, 1, 2], xlabel="x")
    fit(figure)
    assert ax.get_title() == "short" and list(ax.get_xticks()) == [0, 1, 2]


def test_every_edge_of_a_circuit_is_drawn_and_nodes_without_one_are_named():
    made = circuit(270, n_inside=26)
    weak = sum(abs(edge.effect) < 0.02 for edge in made.edges)
    assert weak >= 40
    assert circuit_svg(made).count('class="edge"') == len(made.edges)
    joined = {x for edge in made.edges for x in (edge.source, edge.target)}
    alone = [node.name for node in made.nodes if node.name not in joined]
    text = " ".join(t.get_text() for t in circuit_figure(made, width="page").axes[0].texts)
    assert alone and all(name in text.split("without an edge:")[1] for name in alone)
    assert f"not drawn: {weak}" in " ".join(
        t.get_text() for t in circuit_figure(made, min_effect=0.02).axes[0].texts
    )
