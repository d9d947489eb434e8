"""The section on the capacity of one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.capacity.figure import capacity_figure
from analyses.capacity.tables import toy_words
from analyses.one_token import counted
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Words, picture, records, spread_frame
from analyses.report.tables import Column, Table, decimals, mean_of, mean_share, rows_table, whole

Rows = Sequence[Mapping[str, Any]]

_KINDS = {"hard": "hard tokens", "random": "random soft tokens", "searched": "searched soft tokens"}


def section(evidence: Evidence) -> Section:
    """Return how many continuations one token calls up, and how long a sequence it can name.

    Args:
        evidence: with the result of this study.
    """
    result, tables = evidence.result("capacity"), evidence.tables("capacity")
    assert result is not None
    n_out, n = result.settings["protocol"]["n_out"], len(result.seeds)
    counts = {(r["depth"], r["kind"]): r for r in tables["distinct"] if r["trained"]}
    depths = sorted({depth for depth, _ in counts})
    soft = [counts[d, "searched"]["distinct"]["mean"] for d in depths]
    hard = [counts[d, "hard"]["distinct"]["mean"] for d in depths]
    half = [r["half_mean"] for r in tables["longest"] if r["trained"]]
    tried = counts[depths[0], "searched"]["tried"]["mean"]
    return Section(
        "capacity-section", "One token of a toy",
        f"One soft token can name {_span(half)} random tokens, and {_span(soft)} of "
        f"{tried:.0f} searched ones call up different continuations",
        "reaches",
        f"The {counts[depths[0], 'hard']['tried']['mean']:.0f} hard tokens, which are all that a "
        f"user can write, call up {_span(hard, 1)}. Half of the random targets of the length in "
        "the title are emitted, mean over seeds; longer ones ever more rarely.",
        picture(
            "capacity",
            capacity_figure(tables),
            "Left: bars of different continuations for hard, random and searched soft tokens. "
            "Right: share of random targets emitted against their length.",
            "One token in an otherwise empty context, greedy decoding, toys of the ladder, "
            f"{counted(n, 'seed')}. Left: different continuations of {counted(n_out, 'token')}. "
            "Right: one "
            "soft token is optimised per random target; bands are 95% t intervals over seeds, "
            "dashed lines the same shapes with their initial weights.",
        ),
        [
            Words("Different continuations", "Means with 95% t intervals over seeds.",
                  _toys(tables["distinct"],
                        [Column("Tokens", "kind", _KINDS.__getitem__),
                         Column("Standard deviation", "std", "{:g}".format),
                         Column("Tried", "tried", lambda s: whole(s["mean"])),
                         Column("Different", "distinct", mean_of(1))])),
            Words("Longest sequence", "The longest random target that at least half of the soft "
                  "tokens, or any, made the toy emit.",
                  _toys(tables["longest"],
                        [Column("Half, mean", "half_mean", decimals(1)),
                         Column("Half, smallest seed", "half_min"),
                         Column("Half, largest seed", "half_max"), Column("Any", "any")])),
            Words("By length", "Shares of random targets.",
                  _toys([r for r in tables["length"] if r["trained"]],
                        [Column("Length", "length"), Column("Emitted (%)", "share", mean_share),
                         Column("Tokens right (%)", "tokens_right", mean_share),
                         Column("Loss (nats)", "loss", mean_of(2))])),
        ],
        {"distinct": records(spread_frame(tables["distinct"], ("tried", "distinct"))),
         "lengths": records(spread_frame(tables["length"], ("share", "tokens_right", "loss"))),
         "longest": tables["longest"]},
    )  # fmt: skip


def _toys(rows: Rows, columns: Sequence[Column]) -> Table:
    named = [{**row, "toy": toy_words(row["depth"], row["trained"])} for row in rows]
    return rows_table(named, [Column("Toy", "toy"), *columns])


def _span(values: Sequence[float], digits: int = 0) -> str:
    """Return the range of values over the toys, e.g. ``59 to 63``."""
    low, high = (decimals(digits)(f(values)) for f in (min, max))
    return low if low == high else f"{low} to {high}"
