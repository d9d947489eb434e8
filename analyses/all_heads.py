"""All heads of the shipped four-skill model under each prefix, measured anew for each report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from analyses.report.evidence import Evidence
from analyses.report.sections import Interactive, Picture, Section, picture, records
from analyses.report.tables import frame_table
from analyses.study import Job, Rows, Study
from analyses.table2.skills import SKILL_WORDS, load_skills
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.attention import AttentionView, attention_view, plain_attention_view
from prefix_interp.views.display import attention_div
from prefix_interp.views.heads import LayerOutputs, heads_figure, layer_outputs, outputs_figure

FULL_COLOUR = 0.5
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
    tokens = pairs["ascending"].tokens
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
    """Return the attention of all heads under each prefix, and how the layer's output moves.

    Args:
        evidence: contains the shipped model and its test sequences.
    """
    views, outputs = evidence.once(look)
    summary = evidence.tables("all-heads")
    grid = picture(
        "all-heads",
        heads_figure(views, max_value=FULL_COLOUR),
        "Attention of four heads, one row per model: no prefix and four prefixes. The blue "
        "content patterns of the first ten queries are equal in all, the orange gates differ.",
        "All heads of layer 0 on one test input, each prefix with its own task's answers fed in; "
        "masked baseline in the first row. Orange: the gate g, the attention on the prefix. "
        f"Blue: the content, renormalised, full colour at {FULL_COLOUR:g}. At the inputs the "
        "content is the same in every row (equation 6). At the outputs the fed-back answers "
        "differ, and so does the pattern. The table shows the gates.",
        pd.DataFrame(summary["gates"]),
    )
    shown = [_interactive(view, i) for i, view in enumerate(views)]
    return Section(
        "all-heads-section", "All heads", "All heads under each prefix",
        "The prefix of each task draws attention at some heads and leaves others alone.",
        [grid, _plane(outputs), *shown], summary,
    )  # fmt: skip


def _plane(outputs: LayerOutputs) -> Picture:
    return picture(
        "outputs",
        outputs_figure(outputs),
        "Two scatter plots with lines from the outputs without prefix to those with each prefix: "
        "each prefix moves them to a different place.",
        "What the attention of layer 0 writes at the last input position (which predicts output "
        "0), without a prefix (crosses, masked baseline) and with each; lines connect the same "
        f"input. Left: principal components over all points of {len(outputs.off)} inputs. Right: "
        "two random coordinates of the residual stream, as in the paper. 20 inputs are drawn.",
        outputs.to_dataframe(),
    )


def _interactive(view: AttentionView, index: int) -> Interactive:
    return Interactive(
        attention_div(view, f"skills-{index}", max_value=FULL_COLOUR),
        f"{view.name}: all heads, to explore",
        "Layer 0, first test input; rows are queries, columns keys. "
        + (
            "P1 is the attention on the prefix as it is; after an empty column the content "
            "follows, renormalised. Padded to a square: the first two rows are not queries."
            if view.slots.shape[-1]
            else "No prefix (masked baseline): rows sum to 1 without renormalisation."
        ),
        frame_table(view_frame(view), 2),
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
