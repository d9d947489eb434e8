"""The circuits of the prefixes of the shipped four-skill model, found anew for each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from analyses.report.evidence import Evidence, numbers
from analyses.report.sections import Drawing, Part, Section, Words, picture, records
from analyses.report.tables import frame_table
from analyses.study import Job, Rows, Study
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg


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
    has_seeds = evidence.result("heads") is not None
    sizes = evidence.tables("heads")["circuit"] if has_seeds else []
    parts: list[Part] = []
    if sizes:
        parts.append(
            Words(
                "Over all seeds",
                "The smallest circuits in every seed's model, measured again on sequences that "
                "the search did not use (held out).",
                frame_table(pd.DataFrame(sizes)),
            )
        )
    for task, circuit in evidence.once(find_circuits).items():
        name = SKILL_WORDS[task]
        parts += [
            _drawing(circuit, task, name),
            picture(
                f"curves-{task}",
                circuit_curves_figure(circuit),
                f"Faithfulness and completeness of circuits for {name} against their size, and "
                "a band of random circuits of the same size.",
                f"{name}: the best circuit of each size, and random ones with as many nodes of "
                "each kind. Share of the prefix's effect on the log-probability.",
                circuit.curves(),
            ),
        ]
    return Section(
        "circuits", "Circuits", "From heads to a circuit",
        "The smallest set of heads, MLPs and slots that keeps "
        f"{100 * PROTOCOLS['fast'].threshold:.0f} % of the prefix's effect, over all sets. "
        "A head or MLP outside it has its output from the run without prefix; a slot outside it "
        "gets no attention.",
        parts, numbers({**evidence.tables("circuits"), "sizes": sizes}),
    )  # fmt: skip


def _drawing(circuit: Circuit, task: str, name: str) -> Drawing:
    return Drawing(
        f"circuit-{task}",
        Markup(circuit_svg(circuit)),
        f"Graph of the circuit of the prefix for {name}: slot, heads, MLP and logits.",
        circuit.caption(),
        frame_table(circuit.to_dataframe()),
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
