import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.claims import plain_difference_spectrum
from prefix_interp.views.plots import parts_figure, spectrum_figure, sweep_figure
from prefix_interp.views.style import data_uri, svg, variant_label
from tests.views.made_up import made_up_table1


@pytest.fixture(scope="module")
def parts():
    model = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
    prefix = pi.Prefix.random(model, 3, seed=0)
    tokens = pi.get_task("sort_descending").sample(4, seed=0).tokens
    space = pi.bias_subspace(model, prefix, tokens, layer=1, head=1)
    return pi.decompose_attention(pi.run_pair(model, prefix, tokens)), space


def test_sweep_lines_are_the_means_over_seeds():
    figure = sweep_figure(made_up_table1(learned=0.2))
    exact = figure.axes[0].lines
    assert [line.get_label() for line in exact] == ["residual, 1 slot", "kv, 10 slots"]
    assert exact[1].get_ydata() == pytest.approx([0.0, 0.2])
    assert exact[1].get_xdata() == pytest.approx([0.01, 0.1])


def test_sweep_of_another_task_is_refused():
    with pytest.raises(PrefixInterpError, match="task='add_one'"):
        sweep_figure(made_up_table1(), task="add_one")


def test_parts_lines_are_the_columns_of_the_decomposition(parts):
    dec, _ = parts
    figure = parts_figure({"some prefix": dec}, layer=1, head=1, n_out=10)
    frame = dec.to_dataframe().query("layer == 1 and head == 1")
    for ax, column in zip(figure.axes, ("gate", "scaled_base", "bias"), strict=False):
        assert ax.lines[0].get_ydata() == pytest.approx(frame[column].to_numpy())


def test_spectrum_marks_the_bound(parts):
    dec, space = parts
    plain = plain_difference_spectrum(dec, layer=1, head=1)
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


def test_svg_is_the_same_each_time_and_has_no_date():
    first, second = (svg(sweep_figure(made_up_table1())) for _ in range(2))
    assert first == second and "<dc:date>" not in first
    assert data_uri(sweep_figure(made_up_table1())).startswith("data:image/svg+xml;base64,")


def test_the_users_settings_are_neither_used_nor_changed():
    plain = svg(sweep_figure(made_up_table1()))
    rcParams["font.size"] = 3.0
    try:
        assert svg(sweep_figure(made_up_table1())) == plain
        assert rcParams["font.size"] == 3.0
    finally:
        rcParams["font.size"] = 10.0


def test_variant_labels():
    assert variant_label("kv", 1) == "kv, 1 slot"
    assert variant_label("residual", 10) == "residual, 10 slots"
    assert variant_label(None, None) == "no prefix"


def test_figures_need_no_pyplot():
    assert isinstance(sweep_figure(made_up_table1()), Figure)
