"""The report's section on sentiment by prefixes in a real language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analyses.panels import panels
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture
from analyses.report.tables import Column, decimals, mean_of, mean_share, rows_table
from analyses.sentiment.tables import METHODS, nearest_in_size
from analyses.study import Tables
from prefix_interp.figure_files import Size, Width
from prefix_interp.views.sheet import sheet
from prefix_interp.views.style import COLOURS, MARKERS, legend_below
from prefix_interp.words import counted

Rows = Sequence[Mapping[str, Any]]


def section(evidence: Evidence) -> Section:
    """Return how well prefixes and LoRA of the same size tell positive from negative sentences.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("sentiment"), evidence.tables("sentiment")
    assert result is not None
    protocol = result.settings["protocol"]
    best = {row["method"]: row for row in tables["longer"]}
    right = {method: mean_share(row["choice"]) for method, row in best.items()}
    shots, n_longer = protocol["n_shots"], result.rows("longer")[0]["evaluation"]["n"]
    return Section(
        "sentiment", "Sentiment",
        f"A prefix tells {right['prefix']} % of test sentences right, LoRA of its size "
        f"{right['lora']} %, the prompt alone {right['zero-shot']} %",
        "reaches",
        f"{result.settings['model']} on sentences of movie reviews, "
        f"{counted(protocol['longer'], 'step')} of {protocol['batch_size']} sentences, "
        f"{counted(len(result.seeds), 'seed')}; each seed takes the prefix with the lowest loss on "
        f"sentences of neither split. Below, all of them after "
        f"{counted(protocol['steps'], 'step')}.",
        picture(
            "sentiment-slots",
            sentiment_figure(tables),
            "By number of slots: the share of test sentences that prefixes from each start tell "
            "right, LoRA of the same size, and the model alone.",
            f"{protocol['n_test']} test sentences. Bands: 95% intervals over seeds and sentences.",
        ),
        [
            Words("The best, trained longer", f"On {n_longer} test sentences, mean "
                  "with 95% interval over seeds and sentences.",
                  rows_table(tables["longer"], [
                      Column("Context", "method", METHODS.__getitem__),
                      Column("Chosen, by seed", "chosen", _chosen),
                      Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2))])),
            Words("Every method", f"Share of {protocol['n_test']} test sentences whose right "
                  f"answer beats the other, mean with 95% interval over seeds and sentences. "
                  f"Examples: {shots} of them.",
                  rows_table([{**row, "how": _how(row)} for row in tables["scores"]], [
                      Column("Context", "how"), Column("Parameters", "n_parameters", decimals(0)),
                      Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2))])),
            Words("Every rate", "On validation sentences.",
                  rows_table([{**row, "how": _how(row)} for row in tables["fits"]], [
                      Column("Context", "how"), Column("Rate", "lr", decimals(3)),
                      Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2)),
                      Column("Training loss (nats)", "train_loss", mean_of(2))])),
            Words("Before tuning", "Every start on the same sentences: what a prefix costs that "
                  "was not tuned.",
                  rows_table([{**row, "how": _how(row)} for row in tables["untuned"]], [
                      Column("Context", "how"), Column("Right (%)", "choice", mean_share),
                      Column("Loss (nats)", "loss", mean_of(2))])),
            Words("Heads", "Effect of each head's prefixed output in the plain run on the logit "
                  "difference of the two answers; the largest of random prefixes with the same "
                  "norms beside it.",
                  rows_table(tables["heads"], [
                      Column("Seed", "seed"), Column("Layer", "layer"), Column("Head", "head"),
                      Column("Effect", "effect", decimals(3)),
                      Column("Of controls at this head", "control", decimals(3)),
                      Column("Of controls at any head", "largest_control", decimals(3))])),
        ],
        numbers=tables,
    )  # fmt: skip


def sentiment_figure(
    tables: Tables, *, figsize: Size | None = None, width: Width | None = None
) -> Figure:
    """Plot the share of sentences told right against the number of slots, a line per start.

    A panel per parameterization, each with LoRA of the same number of parameters and the model
    alone.

    Args:
        tables: of this study.
        figsize: width and height in inches; None for a size of its own.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`.
    """
    rows = tables["scores"]
    tuned = [row for row in rows if row["method"] == "prefix"]
    lora = [row for row in rows if row["method"] == "lora"]
    bare = next(row for row in rows if row["method"] == "zero-shot")["choice"]
    kinds = dict.fromkeys(row["parameterization"] for row in tuned)
    with sheet(figsize, width) as room:
        found = panels(room, len(kinds), size=(3.6, 2.8), beside=(0.2, 0.6), each=2.4)
        for ax, kind in zip(found.axes, kinds, strict=True):
            of_kind = [row for row in tuned if row["parameterization"] == kind]
            for i, start in enumerate(dict.fromkeys(row["start"] for row in of_kind)):
                own = [row for row in of_kind if row["start"] == start]
                _line(ax, own, own, f"prefix, {start} start", i)
            slots = list({row["n_slots"]: row for row in of_kind}.values())
            _line(
                ax,
                slots,
                [nearest_in_size(lora, row) for row in slots],
                "LoRA of its size",
                3,
                "--",
            )
            ax.axhline(100 * bare["mean"], color="black", linestyle=":", label="model alone")
            ax.axhspan(100 * bare["low"], 100 * bare["high"], color="black", alpha=0.07, lw=0)
            ax.set(title=kind, xlabel="slots", xscale="log")
            ticks = [row["n_slots"] for row in slots]
            ax.set_xticks(ticks, [str(n) for n in ticks])
            ax.minorticks_off()
        for ax in found.left:
            ax.set_ylabel("sentences right (%)")
        legend_below(found.figure, found.axes[0])
    return found.figure


def _line(ax: Axes, at: Rows, rows: Rows, label: str, colour: int, style: str = "-") -> None:
    x = [row["n_slots"] for row in at]
    mean, low, high = (
        [100 * row["choice"][key] for row in rows] for key in ("mean", "low", "high")
    )
    ax.plot(x, mean, style, color=COLOURS[colour], marker=MARKERS[colour], label=label)
    ax.fill_between(x, low, high, color=COLOURS[colour], alpha=0.12, linewidth=0)


def _chosen(chosen: Rows) -> str:
    names = [_how(row) for row in chosen if row["method"] in ("prefix", "lora")]
    return "; ".join(dict.fromkeys(names))


def _how(row: Mapping[str, Any]) -> str:
    """Return what stood in front of a sentence, or was added to the weights, in words."""
    if row["method"] == "lora":
        layers = counted(row["layers"], "layer")
        return f"LoRA of rank {row['rank']} in {layers}"
    if row["method"] == "prefix":
        slots = counted(row["n_slots"], "slot")
        return f"prefix, {row['parameterization']}, {slots}, {row['start']} start"
    return METHODS[row["method"]]
