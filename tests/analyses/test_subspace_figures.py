import math

import numpy as np
import pytest

from analyses import long_prefixes, subspaces
from analyses.long_prefixes.figures import slots_figure
from analyses.subspaces.figures import angles_figure, removal_figure
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.views.style import svg

TASKS, KINDS = ("add_one", "sort_descending"), ("kv", "residual")


def estimate(value, **more):
    return {"value": value, "low": max(0.0, value - 0.05), "high": value + 0.05, **more}


@pytest.fixture(scope="module")
def removed():
    """Two seeds; seed 1 is 0.1 better in everything."""
    rng = np.random.default_rng(0)
    removals, angles = [], []
    for seed in (0, 1):
        for kind in KINDS:
            for task in TASKS:
                about = {"seed": seed, "task": task, "parameterization": kind, "n_slots": 1}
                for run, level, space, remove in (
                    ("on", None, "none", None), ("off", None, "none", None),
                    ("on", "head", "own", "output"), ("on", "head", "random", "output"),
                    ("on", "head", "own", "bias"), ("on", "layer", "own", "output"),
                ):  # fmt: skip
                    value = float(rng.uniform(0.1, 0.8)) + 0.1 * seed
                    span = {"min": value - 0.08, "max": value + 0.07} if space == "random" else {}
                    metrics = ("exact_match", "token_accuracy", "late_token_accuracy", "loss")
                    removals.append({
                        **about, "run": run, "level": level, "space": space,
                        "remove": remove, **{m: estimate(value, **span) for m in metrics},
                    })  # fmt: skip
        for level, head in (("head", 0), ("head", 1), ("layer", None)):
            for comparison, kind in (("tasks", "kv"), ("parameterizations", None)):
                angle = float(rng.uniform(0, 1.5))
                angles.append({
                    "seed": seed, "comparison": comparison, "level": level,
                    "parameterization": kind, "head": head, "mean_angle": angle, "overlap": 0.1,
                    "chance_angle": {"value": 1.45, "low": 1.3, "high": 1.56},
                    "chance_overlap": 0.02,
                })  # fmt: skip
    found = {"spectrum": [], "angle": angles, "removal": removals}
    return Result("subspaces", "smoke", [0, 1], {}, found)


@pytest.fixture(scope="module")
def slots():
    records, rng = [], np.random.default_rng(1)
    for seed in (0, 1):
        for kind in KINDS:
            for n in (1, 4):
                for method in ("prefix", "random prefix", "norm-matched prefix"):
                    for level, head in (("head", 0), ("head", 1), ("layer", None)):
                        heads = 2 if head is None else 1
                        records.append({
                            "seed": seed, "task": "add_one", "parameterization": kind,
                            "n_slots": n, "method": method, "level": level,
                            "layer": 0, "head": head, "bound": n * heads, "rank": n * heads,
                            "effective_rank": float(rng.uniform(1, n * heads)), "n_95": 1,
                            "n_99": 1, "slot_range": None if head is None else 0.2, "top_slot":
                            None if head is None else 0.9,
                        })  # fmt: skip
    return Result("long-prefixes", "smoke", [0, 1], {}, {"tuning": [], "bias": records})


def removal(result, *args, **kwargs):
    summary = subspaces.STUDY.tables(result)["removal"]
    return removal_figure(summary, result.rows("removal"), *args, **kwargs)


def heights(ax):
    return {c.get_label(): [bar.get_height() for bar in c] for c in ax.containers
            if hasattr(c, "patches")}  # fmt: skip


def panel(figure, title):
    (ax,) = [ax for ax in figure.axes if ax.get_title() == title]
    return ax


def test_bars_are_the_means_over_seeds_in_the_order_of_the_paper(removed):
    figure = removal(removed, "loss")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [
        f"{t}, {k}" for k in ("residual", "kv") for t in ("sort descending", "add one")
    ]
    ax = panel(figure, "add one, kv")
    rows = [r for r in subspaces.STUDY.tables(removed)["removal"]
            if (r["task"], r["parameterization"]) == ("add_one", "kv")]  # fmt: skip
    at = {(r["run"], r["level"], r["space"], r["remove"]): r["loss"] for r in rows}
    got = heights(ax)
    assert got["subspace of its bias"] == pytest.approx(
        [at["on", "head", "own", "output"]["mean"], at["on", "head", "own", "bias"]["mean"]]
    )
    (random,) = [v for k, v in got.items() if k.startswith("random")]
    assert random == pytest.approx([at["on", "head", "random", "output"]["mean"]])
    dashed = [line.get_ydata()[0] for line in ax.lines if line.get_label().startswith("with")]
    assert dashed == pytest.approx([at[run, None, "none", None]["mean"] for run in ("on", "off")])


def test_the_line_of_random_subspaces_reaches_over_all_draws_and_seeds(removed):
    ax = panel(removal(removed), "add one, kv")
    (bars,) = [c for c in ax.containers if str(c.get_label()).startswith("random")]
    (segment,) = bars.errorbar.lines[2][0].get_segments()
    draws = [r["exact_match"] for r in removed.rows("removal") if r["space"] == "random"
             and (r["task"], r["parameterization"]) == ("add_one", "kv")]  # fmt: skip
    assert segment[0][1] == pytest.approx(min(d["min"] for d in draws))
    assert segment[1][1] == pytest.approx(max(d["max"] for d in draws))


def test_layers_have_a_figure_of_their_own(removed):
    ax = panel(removal(removed, level="layer"), "add one, kv")
    own = [r["exact_match"]["value"] for r in removed.rows("removal") if r["level"] == "layer"
           and (r["task"], r["parameterization"]) == ("add_one", "kv")]  # fmt: skip
    assert heights(ax)["subspace of its bias"] == pytest.approx([np.mean(own)])


def test_dots_are_pairs_and_the_line_is_their_mean(removed):
    heads, layer = angles_figure(removed.rows("angle")).axes
    assert [t.get_text() for t in heads.get_xticklabels()] == ["residual\nand kv", "tasks\nkv"]
    for ax, levels in ((heads, ("head",)), (layer, ("layer",))):
        for dots, kind in zip(ax.collections[1::2], ("parameterizations", "tasks"), strict=True):
            angles = [r["mean_angle"] for r in removed.rows("angle")
                      if r["level"] in levels and r["comparison"] == kind]  # fmt: skip
            assert list(dots.get_offsets()[:, 1]) == pytest.approx(np.degrees(angles))
        means = [line.get_ydata()[0] for line in ax.lines[1::2]]
        assert means[1] == pytest.approx(np.degrees(angles).mean())
        assert ax.lines[0].get_ydata()[0] == pytest.approx(math.degrees(1.45))


def test_slot_lines_are_the_summary_and_the_bound_is_drawn(slots):
    summary = long_prefixes.STUDY.tables(slots)["bias"]
    figure = slots_figure(summary, slots.rows("bias"))
    ax = panel(figure, "kv: effective rank of each head")
    rows = [r for r in summary if r["task"] is None
            and (r["parameterization"], r["level"]) == ("kv", "head")]  # fmt: skip
    named = {line.get_label(): line for line in ax.lines}
    tuned = [r["effective_rank"]["mean"] for r in rows if r["method"] == "prefix"]
    assert named["tuned prefix"].get_xdata() == pytest.approx([1, 4])
    assert named["tuned prefix"].get_ydata() == pytest.approx(tuned)
    assert named["bound"].get_ydata() == pytest.approx([1, 4])
    thin = [line for line in ax.lines if line.get_alpha() == 0.3]
    assert len(thin) == 4  # two heads of two seeds
    single = [r["effective_rank"] for r in slots.rows("bias") if r["seed"] == 1 and r["head"] == 1
              and (r["parameterization"], r["method"]) == ("kv", "prefix")]  # fmt: skip
    assert any(line.get_ydata() == pytest.approx(single) for line in thin)
    lines = panel(figure, "kv: effective rank of the layer").lines
    layer = {line.get_label(): line for line in lines}
    assert layer["bound"].get_ydata() == pytest.approx([2, 8])


def test_the_command_writes_the_same_figures_each_time(removed, slots):
    for study, result, ends in (
        (subspaces.STUDY, removed, ["-removal", "-angles"]), (long_prefixes.STUDY, slots, [""]),
    ):  # fmt: skip
        first, second = study.figures(result), study.figures(result)
        assert list(first) == ends
        assert [svg(figure) for figure in first.values()] == [svg(f) for f in second.values()]
    assert svg(subspaces.STUDY.figures(removed)["-removal"]) == svg(removal(removed))


def test_nothing_to_draw_is_one_line(removed):
    with pytest.raises(PrefixInterpError, match=r"angles=\[\] has nothing to draw"):
        angles_figure([])
    with pytest.raises(PrefixInterpError, match=r"summary=\[\] has nothing to draw"):
        slots_figure([], [])
    with pytest.raises(PrefixInterpError, match=r"summary=\[\] has nothing to draw"):
        removal_figure([], [])
    with pytest.raises(PrefixInterpError, match="metric='exact' is unknown"):
        removal(removed, "exact")
    with pytest.raises(PrefixInterpError, match="level='heads' is unknown"):
        removal(removed, level="heads")
