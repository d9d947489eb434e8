"""All heads of the shipped four-skill model under each prefix, measured anew for each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analyses.claims.zoo import load_zoo
from analyses.report.evidence import Evidence
from analyses.report.explorer import FULL_COLOUR, Choice, explorer
from analyses.report.sections import Picture, Section, Words, picture, records
from analyses.report.tables import Column, decimals, rows_table
from analyses.study import Job, Rows, Study
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.models.host import Model
from prefix_interp.prefixes.baselines import RunPair, run_pair
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.attention import AttentionView, attention_view, plain_attention_view
from prefix_interp.views.heads import LayerOutputs, heads_figure, layer_outputs, outputs_figure
from prefix_interp.views.style import variant_label
from prefix_interp.words import counted

N_INPUTS = 3  # test inputs of the explorer
_SORTING = "sorting, one head"
_OF_VIEW = "attention, "  # name of a view's table starts with this


@dataclass(frozen=True)
class Protocol:
    """What to show of the shipped model.

    Attributes:
        sequence: whose attention is drawn.
        input_end: the last input position, which predicts output 0.
    """

    sequence: int = 0
    input_end: int = 9


PROTOCOLS = {"fast": Protocol(), "smoke": Protocol()}


class Seen(NamedTuple):
    """Attention without a prefix and with each prefix, and what the attention of layer 0 writes."""

    views: Sequence[AttentionView]
    outputs: LayerOutputs


def look(evidence: Evidence) -> Seen:
    """Return the attention of all heads, and the outputs of layer 0.

    Args:
        evidence: contains the shipped model and its test sequences.
    """
    skills, sizes = evidence.once(load_skills), PROTOCOLS["fast"]
    pairs = {
        SKILL_WORDS[t]: run_pair(skills.model, skills.prefixes[t], skills.batches[t].tokens)
        for t in FOUR_SKILLS
    }
    tokens = pairs[SKILL_WORDS[FOUR_SKILLS[0]]].tokens
    views = [
        plain_attention_view(skills.model, tokens, sizes.sequence, "no prefix"),
        *(attention_view(pair, sizes.sequence, name) for name, pair in pairs.items()),
    ]
    return Seen(views, layer_outputs(pairs, sizes.input_end))


def measure(job: Job) -> dict[str, Rows]:
    """Return ``gates`` (one row per head and model), ``outputs``, and one table per view.

    Args:
        job: with the evidence of a report.
    """
    assert job.evidence is not None
    views, outputs = job.evidence.once(look)
    return {
        "gates": records(gates_frame(views, job.protocol.input_end)),
        "outputs": records(outputs.to_dataframe()),
        # Each prefix has its own answers fed in, so its keys have their own names.
        **{_OF_VIEW + v.name: records(view_frame(v).assign(model=v.name)) for v in views},
    }


def tables(result: Result) -> dict[str, Sequence[Any]]:
    """Return ``gates``, ``outputs``, and ``attention`` of all views in one table.

    Args:
        result: of this study.
    """
    views = [rows for name, rows in result.tables.items() if name.startswith(_OF_VIEW)]
    attention = [row for rows in views for row in rows]
    return {name: result.rows(name) for name in ("gates", "outputs")} | {"attention": attention}


def section(evidence: Evidence) -> Section:
    """Return the explorer of all heads, and how the layer's output moves.

    Args:
        evidence: contains the shipped models and their test sequences.
    """
    views, outputs = evidence.once(look)
    summary, sizes = evidence.tables("all-heads"), PROTOCOLS["fast"]
    choices = [*skill_choices(evidence), *sorting_choices(evidence)]
    _, first = choices[0].runs[0]
    head = int(first.gate[0, :, sizes.input_end].argmax())
    gates = [Column("Model", "model"), Column("Head", "head"),
             Column("Inputs (mean)", "inputs (mean)", decimals(2)),
             *(Column(f"Output {i}", f"output {i}", decimals(2)) for i in range(10))]  # fmt: skip
    top = {
        view.name: [row["output 0"] for row in summary["gates"] if row["model"] == view.name]
        for view in views[1:]
    }
    busy = {name: sum(gate > 0.5 for gate in found) for name, found in top.items()}
    return Section(
        "all-heads-section", "Explore the attention",
        "Each prefix draws attention at some heads and leaves others alone",
        "does",
        f"Of the {len(next(iter(top.values())))} heads, so many give the prefix more than half of "
        "their attention at the first output: "
        f"{', '.join(f'{n} ({name})' for name, n in busy.items())}. Whatever you choose, the "
        "blue pattern is the same on both sides; only fine-tuned weights change it.",
        explorer(
            choices, sizes.input_end + 1,
            "Rows are queries and columns keys, both numbered by content position from 0; the "
            "right answers are fed in after the input. Orange: attention to the prefix's slots. "
            f"Blue: attention to the content, renormalised, full colour at {FULL_COLOUR:g}. "
            "Baseline: masked, on the same tokens. Layer 0.",
            head,
        ),
        [
            picture(
                "all-heads",
                heads_figure(views, max_value=FULL_COLOUR),
                "Attention of four heads, one row per model: no prefix and four prefixes. The blue "
                "patterns of the first ten queries are equal in all, the orange gates differ.",
                "All heads of the four-skill model on one test input, each prefix with its own "
                "task's answers fed in. At the inputs the content is the same in every row; at the "
                "outputs the fed-back answers differ, and so does the pattern.",
                dense=True,
            ),
            Words("The gates", "Share of the attention that goes to the prefix.",
                  rows_table(summary["gates"], gates)),
            _plane(outputs),
        ],
        summary,
    )  # fmt: skip


def skill_choices(evidence: Evidence) -> list[Choice]:
    """Return the four-skill model under each of its prefixes.

    Args:
        evidence: contains the model and its test sequences.
    """
    skills = evidence.once(load_skills)
    found = []
    for task in FOUR_SKILLS:
        tokens = skills.batches[task].tokens[:N_INPUTS]
        pair = run_pair(skills.model, skills.prefixes[task], tokens)
        name = f"tuned for {SKILL_WORDS[task]}"
        found.append(Choice("four skills, four heads", name, _runs(skills.model, pair, name)))
    return found


def sorting_choices(evidence: Evidence) -> list[Choice]:
    """Return the sorting model of Table 1 under each prefix, and fine-tuned.

    Args:
        evidence: contains the models and their test sequences.
    """
    zoo = evidence.once(load_zoo)
    tokens, found = zoo.tokens[:N_INPUTS], []
    for prefix in zoo.prefixes.values():
        name = variant_label(prefix.parameterization, prefix.n_slots)
        pair = run_pair(zoo.pretrained, prefix, tokens)
        found.append(Choice(_SORTING, name, _runs(zoo.pretrained, pair, name)))
    plain, tuned = (
        [plain_attention_view(model, tokens, i) for i in range(N_INPUTS)]
        for model in (zoo.pretrained, zoo.fine_tuned)
    )
    name = "no prefix, fine-tuned weights"
    return [*found, Choice(_SORTING, name, list(zip(plain, tuned, strict=True)))]


def _runs(model: Model, pair: RunPair, name: str) -> list[tuple[AttentionView, AttentionView]]:
    return [
        (plain_attention_view(model, pair.tokens, i), attention_view(pair, i, name))
        for i in range(N_INPUTS)
    ]


def _plane(outputs: LayerOutputs) -> Picture:
    return picture(
        "outputs",
        outputs_figure(outputs),
        "Two scatter plots with lines from the outputs without prefix to those with each prefix: "
        "each prefix moves them to a different place.",
        "What the attention of layer 0 writes at the last input position (which predicts output "
        "0), without a prefix (crosses, masked baseline) and with each; lines connect the same "
        "input. Left: principal components over all points of "
        f"{counted(len(outputs.off), 'input')}. Right: "
        "two random coordinates of the residual stream, as in the paper. 20 inputs are drawn.",
        dense=True,
    )


def view_frame(view: AttentionView) -> pd.DataFrame:
    """Return the attention of all heads of a view: one row per head and query.

    Args:
        view: of one sequence.
    """
    n_layers, n_heads = view.slots.shape[:2]
    frames = [
        view.to_dataframe(layer, head).assign(layer=layer, head=head)
        for layer in range(n_layers)
        for head in range(n_heads)
    ]
    whole = pd.concat(frames, ignore_index=True)
    return whole.reindex(columns=["layer", "head", *whole.columns[:-2]])


def gates_frame(views: Sequence[AttentionView], first_output: int) -> pd.DataFrame:
    """Return the gates of every head: the mean over input positions, and each output.

    Args:
        views: as for `heads_figure`.
        first_output: the content position that predicts output 0.
    """
    rows = []
    for view in views:
        for layer, heads in enumerate(view.gate):
            for head, gate in enumerate(heads.tolist()):
                row = {"model": view.name, "layer": layer, "head": head}
                row["inputs (mean)"] = sum(gate[:first_output]) / first_output
                row |= {f"output {i}": g for i, g in enumerate(gate[first_output:])}
                rows.append(row)
    return pd.DataFrame(rows)


STUDY = Study(
    name="all-heads",
    claim="What does each prefix of Table 2 do at every head? It shows on one input (section 6).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    live=True,
)
