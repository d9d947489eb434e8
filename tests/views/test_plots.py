import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.plots import sweep_figure
from prefix_interp.views.style import data_uri, svg, variant_label
from tests.views.made_up import made_up_table1


def test_sweep_lines_are_the_means_over_seeds():
    figure = sweep_figure(made_up_table1(learned=0.2))
    exact = figure.axes[0].lines
    assert [line.get_label() for line in exact] == ["residual, 1 slot", "kv, 10 slots"]
    assert exact[1].get_ydata() == pytest.approx([0.0, 0.2])
    assert exact[1].get_xdata() == pytest.approx([0.01, 0.1])


def test_sweep_of_another_task_is_refused():
    with pytest.raises(PrefixInterpError, match="task='add_one'"):
        sweep_figure(made_up_table1(), task="add_one")


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
