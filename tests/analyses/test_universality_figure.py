import numpy as np
import pytest

from analyses.registry import evidence_of
from analyses.universality import STUDY
from analyses.universality.figure import universality_figure
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result

METHODS = ("quadrature", "least squares", "least squares, flat", "random values")
NAMES = ("harmonic", "bumps", "kink", "waves")


@pytest.fixture(scope="module")
def result():
    rng, rows = np.random.default_rng(0), []
    for seed in (0, 1, 2):
        about = {"seed": seed, "dim": 2}
        flat = {m: dict.fromkeys(NAMES, 1.0) for m in ("rmse", "max_error")}
        rows.append({**about, "method": "constant", "n_slots": 0, **flat})
        for method in METHODS:
            for n in (4, 16, 64):
                errors = {
                    m: {k: float(rng.uniform(0.5, 1) / n) for k in NAMES}
                    for m in ("rmse", "max_error")
                }
                rows.append({
                    **about, "method": method, "n_slots": n, **errors, "eq6": 1e-16 * (seed + 1),
                    "eq7": 3e-16, "rank": min(n, 6) - (seed == 1), "bound": min(n, 13),
                    "gate": 0.9 + 0.01 * seed,
                })  # fmt: skip
    return Result("universality", "fast", [0, 1, 2], {}, {"fit": rows})


@pytest.fixture(scope="module")
def tables(result):
    return STUDY.tables(result)


def own(result, method, n, metric="rmse", name="harmonic"):
    return [
        r[metric][name] for r in result.rows("fit")
        if (r["method"], r["n_slots"]) == (method, n)
    ]  # fmt: skip


def test_fits_are_means_over_seeds_of_each_function(result, tables):
    rows = tables["fits"]
    assert len(rows) == len(NAMES) * (1 + len(METHODS) * 3)
    (row,) = [
        r for r in rows
        if (r["function"], r["method"], r["slots"]) == ("bumps", "least squares", 16)
    ]  # fmt: skip
    values = own(result, "least squares", 16, name="bumps")
    assert row["rmse"] == pytest.approx(np.mean(values)) and row["low"] < row["rmse"] < row["high"]
    largest = own(result, "least squares", 16, "max_error", "bumps")
    assert row["largest error"] == pytest.approx(np.mean(largest))
    assert (row["sphere"], row["eq. 6"], row["rank"], row["bound"]) == (2, 3e-16, 6, 13)
    assert row["gate"] == pytest.approx(0.91)


def test_the_section_says_what_the_rows_hold(result, tables):
    section = STUDY.section(evidence_of([result]))
    assert len(section.numbers["fits"]) == len(tables["fits"])
    assert section.figure.id == "universality-2"
    first, last = (np.mean(own(result, "quadrature", n)) for n in (4, 64))
    assert section.title.endswith(f"error {first:.3f} with 4, {last:.3f} with 64")
    random = np.mean(own(result, "random values", 64))
    assert f"the error is {random:.3f}" in section.text
    assert "within 3\u00a0×\u00a010⁻¹⁶" in section.text


def panel(figure, title):
    (ax,) = [ax for ax in figure.axes if ax.get_title() == title]
    return ax


def test_lines_are_means_over_seeds_and_bands_their_range(result, tables):
    ax = panel(universality_figure(tables, metric="max_error"), "kink on $S^2$")
    (line,) = [x for x in ax.lines if x.get_label() == "least squares, same keys"]
    values = [own(result, "least squares", n, "max_error", "kink") for n in (4, 16, 64)]
    assert line.get_xdata() == pytest.approx([4, 16, 64])
    assert line.get_ydata() == pytest.approx([np.mean(x) for x in values])
    band = ax.collections[1].get_paths()[0].vertices
    at_16 = band[np.isclose(band[:, 0], 16), 1]
    assert (at_16.min(), at_16.max()) == pytest.approx((min(values[1]), max(values[1])))
    (floor,) = [x for x in ax.lines if x.get_label() == "constant"]
    assert floor.get_ydata() == pytest.approx([1, 1])


def test_what_stays_as_it_is_stands_beside(tables):
    figure = universality_figure(tables)
    named = {x.get_label(): x for x in panel(figure, "largest violation, all methods").lines}
    assert named["eq. 6"].get_ydata() == pytest.approx([3e-16] * 3)
    ax = panel(figure, "rank of the bias, all methods")
    named = {x.get_label(): x for x in ax.lines}
    assert named["rank of the bias"].get_ydata() == pytest.approx([4, 6, 6])
    assert named["min(slots, d_head)"].get_ydata() == pytest.approx([4, 13, 13])
    band = ax.collections[0].get_paths()[0].vertices
    assert band[np.isclose(band[:, 0], 4), 1].min() == pytest.approx(3)


def test_one_figure_for_each_sphere(result):
    other = [row | {"dim": 4} for row in result.rows("fit")]
    both = Result("universality", "fast", [0, 1, 2], {}, {"fit": [*result.rows("fit"), *other]})
    assert list(STUDY.figures(both)) == ["-s2", "-s4"]


def test_what_cannot_be_drawn_is_refused(tables):
    with pytest.raises(PrefixInterpError, match=r"dim=3 was not measured; choose one of \[2\]"):
        universality_figure(tables, dim=3)
    with pytest.raises(PrefixInterpError, match="metric='loss' is unknown"):
        universality_figure(tables, metric="loss")
