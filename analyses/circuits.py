"""The circuits of the prefixes of the shipped four-skill model, found anew for each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analyses.report.charts import dots
from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import (
    Card,
    Cell,
    Claim,
    Grid,
    Picture,
    Section,
    Words,
    picture,
    records,
)
from analyses.report.tables import Column, decimals, percent, rows_table
from analyses.study import Job, Rows, Study
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.tasks.words import task_words
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg
from prefix_interp.views.pictures import svg_uri


@dataclass(frozen=True)
class Protocol:
    """Sizes of the search.

    Attributes:
        n: number of test sequences.
        n_random: random circuits per size.
        threshold: share of the prefix's effect that a circuit must keep.
    """

    n: int = 64
    n_random: int = 20
    threshold: float = 0.95


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol(n=8, n_random=2)}


def find_circuits(evidence: Evidence, preset: str = "fast") -> dict[str, Circuit]:
    """Return the smallest circuit of each prefix of the shipped model, by its task.

    Args:
        evidence: contains the shipped model.
        preset: defines the size of the search.
    """
    skills, sizes = evidence.once(load_skills), PROTOCOLS[preset]
    return {
        task: find_circuit(
            skills.model, skills.prefixes[task], task, threshold=sizes.threshold, n=sizes.n,
            n_random=sizes.n_random, progress=False,
        )
        for task in FOUR_SKILLS
    }  # fmt: skip


def measure(job: Job) -> dict[str, Rows]:
    """Return one row per node, per size of circuit (``curves``) and per edge of each circuit.

    Args:
        job: with the evidence of a report.
    """
    evidence = job.evidence
    assert evidence is not None
    # The section draws the circuits of the fast preset, so they are found once for both.
    fast = job.preset == "fast"
    circuits = evidence.once(find_circuits) if fast else find_circuits(evidence, job.preset)
    found: dict[str, Rows] = {"nodes": [], "curves": [], "edges": []}
    for task, circuit in circuits.items():
        name = SKILL_WORDS[task]
        found["nodes"] += records(circuit.to_dataframe().assign(prefix=name))
        found["curves"] += records(circuit.curves().assign(prefix=name))
        found["edges"] += records(circuit.edge_dataframe().assign(prefix=name))
    return found


def tables(result: Result) -> dict[str, Sequence[Any]]:
    """Return the tables as they were measured.

    Args:
        result: of this study.
    """
    return dict(result.tables)


def section(evidence: Evidence) -> Section:
    """Return the smallest circuit of each prefix of the shipped model, and sizes over seeds.

    Args:
        evidence: contains the shipped model, and the result of `heads` if there is one.
    """
    circuits = evidence.once(find_circuits)
    has_seeds = evidence.result("heads") is not None
    sizes = evidence.tables("heads")["circuit"] if has_seeds else []
    shown = [(SKILL_WORDS[t], len(c.nodes), len(c.nodes), len(c.all_nodes))
             for t, c in circuits.items()]  # fmt: skip
    if sizes:
        shown = [(SKILL_WORDS[r["tuned_on"]], r["smallest"], r["largest"], r["of"]) for r in sizes]
    least, most, of = min(r[1] for r in shown), max(r[2] for r in shown), max(r[3] for r in shown)
    threshold = f"{100 * PROTOCOLS['fast'].threshold:.0f} %"
    by_chance = [c.curves()["random_faithfulness_mean"].iloc[len(c.nodes)]
                 for c in circuits.values()]  # fmt: skip
    return Section(
        "circuits", "Circuits",
        f"{least} to {most} of {of} nodes keep {threshold} of what a prefix does",
        "lives",
        "The nodes are the heads, the MLP and the prefix's slot, and the sets are the smallest of "
        f"all sets that keep {threshold} of the effect{_held_out(sizes)}. Random sets of the "
        f"same size and kinds keep {percent(min(by_chance))} to {percent(max(by_chance))} % on "
        "average (first seed).",
        Grid(
            "circuit-grid",
            [_drawing(circuit, task) for task, circuit in circuits.items()],
            "First seed, residual prefixes of one slot; heads stand in the same place in all four. "
            "A line is an edge, as wide as the effect lost by cutting it, dashed and orange if "
            "cutting it helps; pale nodes are outside the circuit. The number in a node is what "
            "the circuit loses without it.",
        ),
        [
            Words(
                "Method",
                "A head or MLP outside a circuit has its output from the run without prefix, a "
                "slot outside it gets no attention. Effects are shares of the prefix's effect on "
                f"the log-probability, over {PROTOCOLS['fast'].n} test sequences.",
            ),
            *_sizes(sizes),
            *(_curves(circuit, task) for task, circuit in circuits.items()),
        ],
        numbers({**evidence.tables("circuits"), "sizes": sizes}),
        card=Card(
            f"{least} to {most} of {of}",
            "parts of the model are the whole circuit of a prefix",
            dots(shown, f"Nodes of the smallest circuits, of {of}."),
            f"holds: a small part keeps {threshold}" if most < of else "the whole model is needed",
            most < of,
        ),
        claims=[
            Claim(
                f"A small part of the model keeps {threshold} of the prefix's effect",
                {"residual, 1 slot": Cell(f"{least} to {most} of {of} nodes", most < of)},
                f"< {of} nodes",
            )
        ],
    )  # fmt: skip


def _held_out(sizes: Rows) -> str:
    """Return what the circuits keep on other sequences, if it was measured over seeds."""
    if not sizes:
        return ""
    kept = [row["held_out"] for row in sizes]
    span = f"{percent(min(kept))} to {percent(max(kept))} %"
    return f"; on sequences that the search did not use they keep {span}"


def _sizes(sizes: Rows) -> list[Words]:
    if not sizes:
        return []
    columns = [
        Column("Tuned on", "tuned_on", task_words), Column("Seeds", "seeds"),
        Column("Size, mean", "size", decimals(1)), Column("Smallest", "smallest"),
        Column("Largest", "largest"), Column("Of", "of"),
        Column("Faithfulness (%)", "faithfulness", percent),
        Column("On held-out sequences (%)", "held_out", percent),
        Column("Completeness (%)", "completeness", percent),
    ]  # fmt: skip
    return [Words("Over all seeds", "Means over seeds.", rows_table(sizes, columns))]


def _drawing(circuit: Circuit, task: str) -> Picture:
    name = SKILL_WORDS[task]
    drawn = circuit_svg(circuit, title=name, min_effect=0.0)
    return Picture(
        f"circuit-{task}", svg_uri(drawn),
        f"Circuit of the prefix for {name}: {', '.join(node.name for node in circuit.nodes)}, "
        f"{len(circuit.edges)} edges.",
        "",
    )  # fmt: skip


def _curves(circuit: Circuit, task: str) -> Picture:
    name = SKILL_WORDS[task]
    return picture(
        f"curves-{task}",
        circuit_curves_figure(circuit),
        f"Faithfulness and completeness of circuits for {name} against their size, and a band of "
        "random circuits of the same size.",
        f"{name}: the best circuit of each size, and random ones with as many nodes of each kind.",
    )


STUDY = Study(
    name="circuits",
    claim="Does a prefix act through a small part of the model? Most of it does (section 6).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    live=True,
)
