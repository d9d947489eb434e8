import numpy as np
import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.views.style import svg
from prefix_interp.views.universality import universality_figure

METHODS = ("quadrature", "least squares", "least squares, flat", "random values")
NAMES = ("harmonic", "bumps", "kink", "waves")


@pytest.fixture(scope="module")
def result():
    rng, records = np.random.default_rng(0), []
    for seed in (0, 1, 2):
        about = {"seed": seed, "part": "fit", "dim": 2}
        flat = {m: dict.fromkeys(NAMES, 1.0) for m in ("rmse", "max_error")}
        records.append({**about, "method": "constant", "n_slots": 0, **flat})
        for method in METHODS:
            for n in (4, 16, 64):
                errors = {
                    m: {k: float(rng.uniform(0.5, 1) / n) for k in NAMES}
                    for m in ("rmse", "max_error")
                }
                records.append({
                    **about, "method": method, "n_slots": n, **errors, "eq6": 1e-16 * (seed + 1),
                    "eq7": 3e-16, "rank": min(n, 6), "bound": min(n, 13),
                })  # fmt: skip
        records.append({**about, "part": "order", "method": "quadrature", "rmse": {}})
    return Result("universality", "smoke", [0, 1, 2], {}, records)


def panel(figure, title):
    (ax,) = [ax for ax in figure.axes if ax.get_title() == title]
    return ax


def test_lines_are_means_over_seeds_and_bands_their_range(result):
    ax = panel(universality_figure(result, metric="max_error"), "kink on $S^2$")
    (line,) = [x for x in ax.lines if x.get_label() == "least squares, same keys"]
    own = [[r["max_error"]["kink"] for r in result.records if r["method"] == "least squares"
            and r["n_slots"] == n] for n in (4, 16, 64)]  # fmt: skip
    assert line.get_xdata() == pytest.approx([4, 16, 64])
    assert line.get_ydata() == pytest.approx([np.mean(x) for x in own])
    band = ax.collections[1].get_paths()[0].vertices
    at_16 = band[np.isclose(band[:, 0], 16), 1]
    assert (at_16.min(), at_16.max()) == pytest.approx((min(own[1]), max(own[1])))
    (floor,) = [x for x in ax.lines if x.get_label() == "constant"]
    assert floor.get_ydata() == pytest.approx([1, 1])


def test_what_stays_as_it_is_stands_beside(result):
    figure = universality_figure(result)
    named = {x.get_label(): x for x in panel(figure, "largest violation, all methods").lines}
    assert named["eq. 6"].get_ydata() == pytest.approx([3e-16] * 3)
    named = {x.get_label(): x for x in panel(figure, "rank of the bias, all methods").lines}
    assert named["rank of the bias"].get_ydata() == pytest.approx([4, 6, 6])
    assert named["min(slots, d_head)"].get_ydata() == pytest.approx([4, 13, 13])


def test_figures_are_the_same_each_time(result):
    assert svg(universality_figure(result)) == svg(universality_figure(result))


def test_what_cannot_be_drawn_is_refused(result):
    with pytest.raises(PrefixInterpError, match="give one from universality"):
        universality_figure(Result("table1", "smoke", [0], {}, [{"method": "prefix"}]))
    with pytest.raises(PrefixInterpError, match="dim=3 was not measured"):
        universality_figure(result, dim=3)
    with pytest.raises(PrefixInterpError, match="metric='loss' is unknown"):
        universality_figure(result, metric="loss")
