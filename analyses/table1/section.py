"""Table 1 in the report: what prefixes learn, for both presets and at every learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.report.charts import Bar, bars
from analyses.report.evidence import Evidence
from analyses.report.sections import Card, Folded, Section, Words, missing, picture
from analyses.report.tables import percent
from analyses.table1.measure import NEW
from analyses.table1.tables import main_table, more_table, sweep_rows, sweep_table
from prefix_interp.errors import PrefixInterpError
from prefix_interp.figure_files import Size, Width
from prefix_interp.results import Result
from prefix_interp.tasks.words import task_words
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below, variant_label
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]

_TITLES = {"fast": "Table 1, fast protocol", "paper": "Table 1, the paper's protocol"}
_CHANCE = "random prefix", "norm-matched prefix"


def section(evidence: Evidence) -> Section:
    """Return which models and prefixes sort descending, with the whole Table 1 folded.

    Args:
        evidence: results of this study.
    """
    folded: list[Folded] = []
    numbers = {}
    for preset, title in _TITLES.items():
        result = evidence.result("table1", preset)
        if result is None:
            folded.append(Words(title, missing("table1", preset)))
            continue
        summary = evidence.tables("table1", preset)
        folded += _tables(title, result, summary["rows"])
        numbers |= {f"{preset} {name}": rows for name, rows in summary.items()}
    result, summary = evidence.result("table1"), evidence.tables("table1")
    assert result is not None
    rows, sweep = summary["rows"], summary["sweep"]
    folded += [
        picture(
            "sweep",
            sweep_figure(sweep),
            "Exact match, token accuracy and loss on sort descending against the learning rate, "
            "one line per parameterization and number of slots.",
            "Every variant was tuned at every rate, so that none fails for a bad one. "
            f"{counted(len(result.seeds), 'seed')}: lines are means, bands go from the smallest "
            "to the "
            "largest seed.",
        ),
        Words("Learning rates", "", sweep_table(sweep)),
    ]
    prefixes = [r for r in rows if r["method"] == "prefix"]
    found = {variant_label(r["parameterization"], r["n_slots"]): r[NEW] for r in prefixes}
    best = max(found, key=lambda name: found[name]["exact_match"]["mean"])
    top = found[best]
    some = top["exact_match"]["mean"] > 0
    residual = [r[NEW]["exact_match"]["mean"] for r in prefixes
                if r["parameterization"] == "residual"]  # fmt: skip
    (tuned,) = [r[NEW]["exact_match"]["mean"] for r in rows if r["method"] == "fine-tuned"]
    own = percent(max(residual)) if max(residual) else "0"
    return Section(
        "table1", "A new task",
        f"{own} % of sequences are sorted descending with a residual prefix, "
        f"{percent(top['exact_match']['mean'])} % with {best}",
        "cannot",
        f"The model sorts ascending, and fine-tuning its weights teaches it to sort descending "
        f"({percent(tuned)} % of sequences). Tuned prefixes mostly do not"
        + (
            f"; that {best} gets some right, although attention stays as it was, shows that a "
            "fixed pattern does not mean a fixed output."
            if some else "."
        ),
        picture(
            "learned",
            learned_figure(rows),
            "One dot with its interval per model: fine-tuned is high, residual prefixes and those "
            "with one slot are at 0, and so are all controls.",
            f"Sequences of {task_words(NEW)} with all ten outputs right, mean over "
            f"{counted(len(result.seeds), 'seed')} with 95% intervals; the paper's numbers as "
            "crosses. "
            "Whole model (one layer, one head); each prefix counts at the learning rate with the "
            "lowest training loss.",
        ),
        folded, numbers,
        card=Card(
            f"{own} %",
            f"is sorted descending with a residual prefix; {percent(top['exact_match']['mean'])} % "
            f"with {best}{' (free keys and values)' if best.startswith('kv') else ''}",
            bars(
                [Bar("fine-tuning", tuned, f"{percent(tuned)} %", "orange"),
                 *(Bar(name, spread["exact_match"]["mean"],
                       f"{percent(spread['exact_match']['mean'])} %")
                   for name, spread in found.items())],
                "Share of sequences sorted descending, by kind of prefix.",
            ),
            _verdict(max(residual), best, some),
            max(residual) == 0 and not some,
        ),
    )  # fmt: skip


def _verdict(residual: float, best: str, some: bool) -> str:
    """Return how the claim that no prefix learns a new pattern fared."""
    if not some:
        return "holds: no prefix learns it"
    return f"{'holds for residual prefixes, ' if residual == 0 else ''}not for {best}"


def learned_figure(
    rows: Rows, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the exact match of every model and prefix of Table 1 on the new task.

    Args:
        rows: from `table1_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    shown = [r for r in rows if r["method"] != "other-task prefix"]
    with sheet(figsize, width) as room:
        figure = room.figure(8.4, 0.9 + 0.27 * len(shown))
        ax = figure.subplots()
        for i, row in enumerate(shown):
            _dot(ax, i, row)
        ax.set_yticks(range(len(shown)), [_name(r) for r in shown])
        ax.invert_yaxis()
        ax.set(xlim=(-2, 102), xlabel=f"{task_words(NEW)}: sequences with all outputs right (%)")
        ax.grid(visible=False, axis="y")
    return figure


def _dot(ax: Axes, at: int, row: Mapping[str, Any]) -> None:
    spread = row[NEW]["exact_match"]
    mean, low, high = (100 * spread[key] for key in ("mean", "low", "high"))
    control = row["method"] in _CHANCE
    ax.errorbar(
        mean, at, xerr=[[max(mean - low, 0)], [max(high - mean, 0)]], fmt=MARKERS[0], markersize=6,
        color="#8a8a92" if control else COLOURS[0 if row["method"] == "prefix" else 1],
        clip_on=False,
    )  # fmt: skip
    ax.annotate(
        percent(spread["mean"]), (max(high, mean), at), xytext=(9, -3.5),
        textcoords="offset points", fontsize="small",
    )  # fmt: skip
    if row["paper"] is not None:
        ax.plot(row["paper"][NEW][0], at, "x", color="black", markersize=8, clip_on=False)


def _name(row: Mapping[str, Any]) -> str:
    if row["parameterization"] is None:
        return row["method"]
    return f"{row['method']}, {variant_label(row['parameterization'], row['n_slots'])}"


def _tables(title: str, result: Result, rows: Rows) -> list[Folded]:
    n_test = result.settings["protocol"]["n_test"]
    how = (
        f"Mean ± standard deviation over {counted(len(result.seeds), 'seed')}, with an interval "
        "in brackets: "
        "95%, for new seeds and new test sequences: it combines the spread over seeds with the "
        f"error of the {n_test:,} sequences. No hit among them still allows a rate of "
        f"{384 / n_test:.2f} %. Controls: an untrained random prefix, random directions with "
        "the tuned norms, and a prefix tuned in the same way for the old task. “–”: the paper "
        "prints no number."
    )
    return [
        Words(title, how, main_table(rows)),
        Words(f"{title}: learning rates, extremes, and the old task", "",
              more_table(rows)),
    ]  # fmt: skip


def sweep_figure(rows: Rows, *, figsize: Size | None = None, width: Width | None = None) -> Figure:
    """Plot exact match, token accuracy and loss against the learning rate of prefix tuning.

    Lines are means over seeds, bands go from the smallest to the largest seed.

    Args:
        rows: from `sweep_rows`.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.

    Raises:
        PrefixInterpError: no rows, or more variants than can be told apart.
    """
    variants = list(dict.fromkeys((r["parameterization"], r["n_slots"]) for r in rows))
    if not 1 <= len(variants) <= len(COLOURS):
        raise PrefixInterpError(
            f"rows has {len(variants)} kinds of prefix; give 1 to {len(COLOURS)} to tell them apart"
        )
    metrics = {
        "exact_match": "exact match (share of sequences)",
        "token_accuracy": "token accuracy (share of outputs)",
        "loss": "test loss (nats per output)",
    }
    with sheet(figsize, width) as room:
        found = panels(room, 3, size=(3.2, 2.8), beside=(0.0, 0.7), each=1.9, sharey=False)
        figure, axes, _, _ = found
        for i, (kind, n) in enumerate(variants):
            own = [r for r in rows if (r["parameterization"], r["n_slots"]) == (kind, n)]
            lrs = [r["lr"] for r in own]
            for ax, metric in zip(axes, metrics, strict=True):
                low, high = ([r[metric][end] for r in own] for end in ("min", "max"))
                ax.fill_between(lrs, low, high, color=COLOURS[i], alpha=0.18, linewidth=0)
                ax.plot(
                    lrs, [r[metric]["mean"] for r in own], color=COLOURS[i], marker=MARKERS[i],
                    markersize=5 if i else 7, label=variant_label(kind, n),
                )  # fmt: skip
        for ax, (metric, words) in zip(axes, metrics.items(), strict=True):
            ax.set(xscale="log", xlabel="learning rate", title=words)
            ax.set_ylim(bottom=0)
            if metric != "loss":
                ax.set_ylim(-0.02, 1.02)
        legend_below(figure, axes[0])
    return figure


def figures(result: Result) -> dict[str, Figure]:
    """Return the figures that the command writes beside the result."""
    return {"": sweep_figure(sweep_rows(result))}
