"""The report's sections on elicited skills: Table 2, all heads, what is elicited, circuits."""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup

from prefix_interp.attribution.circuit import Circuit
from prefix_interp.attribution.circuit_search import find_circuit
from prefix_interp.attribution.patching import patch_heads
from prefix_interp.experiments.heads_summary import (
    agreement_rows,
    calibration_rows,
    circuit_rows,
    copying_rows,
    elicited_rows,
    gating_rows,
    heads_frame,
)
from prefix_interp.experiments.skills import Skills
from prefix_interp.experiments.table2_summary import diagonal_rows, restart_rows, table2_rows
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.attention import AttentionView, attention_view, plain_attention_view
from prefix_interp.views.circuit_graph import circuit_curves_figure, circuit_svg
from prefix_interp.views.display import attention_div
from prefix_interp.views.elicitation import copying_figure, elicitation_figure, patch_figure
from prefix_interp.views.heads import gates_frame, heads_figure, layer_outputs, outputs_figure
from prefix_interp.views.sections import Drawing, Interactive, Section, Words, picture, records
from prefix_interp.views.skills import (
    SKILL_WORDS,
    kind_label,
    matrix_figure,
    restarts_table,
    table2_table,
)
from prefix_interp.views.tables import frame_table, percent

N_PATCHED = 32
FULL_COLOUR = 0.5
_INPUT_END = 9  # the last input position, which predicts output 0


def table2_section(result: Result) -> Section:
    """Return Table 2: which prefix does which task.

    Args:
        result: from `table2`.
    """
    rows = table2_rows(result)
    frame = pd.DataFrame(
        [
            {
                "model": r["method"], "prefix": kind_label(r["parameterization"], r["init_std"]),
                "tuned on": r["tuned_on"], "tested on": task,
                **{k: r[task]["exact_match"][k] for k in ("mean", "sd", "low", "high")},
                "loss": r[task]["loss"]["mean"],
            }
            for r in rows for task in FOUR_SKILLS
        ]
    )  # fmt: skip
    matrix = picture(
        "matrix",
        matrix_figure(result),
        "Heat maps of exact match, prefixes down and tasks across: high on the diagonal, near 0 "
        "elsewhere, about a quarter without a prefix.",
        f"Exact match in percent, mean over {len(result.seeds)} seeds, the paper's mean in "
        "brackets. Whole model (one layer, four heads), one slot, 3,200 unseen inputs a number. "
        "No prefix: masked baseline.",
        frame,
    )
    parts = [
        matrix,
        Words(
            "The matrix with intervals and controls",
            "Mean ± standard deviation over seeds with the 95% t interval. A prefix counts at the "
            "start and learning rate with the lowest training loss. Random prefix: the untrained "
            "start; norm-matched: random directions with the tuned norms.",
            table2_table(result), folded=True,
        ),
        Words(
            "Starts decide",
            "Without the norm before attention a slot's length counts. How many starts found their "
            "skill (half of the test sequences right), by the standard deviation of the start:",
            restarts_table(result),
        ),
    ]  # fmt: skip
    numbers = {"table2": rows, "restarts": restart_rows(result)}
    return Section(
        "skills", "Table 2", "Table 2: a prefix picks one of the model's skills",
        "One model is pretrained on four tasks without being told which is asked for. One vector "
        "in front of the input makes it do one of them.",
        parts, numbers, _table2_findings(result),
    )  # fmt: skip


def _table2_findings(result: Result) -> list[str]:
    found = []
    for row in diagonal_rows(table2_rows(result)):
        if row["method"] != "prefix":
            continue
        own = " / ".join(percent(row["own"][t]) for t in FOUR_SKILLS)
        found.append(
            f"Table 2, {kind_label(row['parameterization'], row['init_std'])}, "
            f"{len(result.seeds)} seeds: {own} % on the prefix's own task (the paper, residual: "
            f"95 / 90 / 95 / 98), at most {percent(row['other'])} % on another."
        )
    return found


def heads_section(skills: Skills) -> Section:
    """Return the attention of all heads under each prefix, and where the layer's output goes.

    Args:
        skills: the shipped model with its prefixes.
    """
    pairs = {
        SKILL_WORDS[t]: run_pair(skills.model, skills.prefixes[t], skills.batches[t].tokens)
        for t in FOUR_SKILLS
    }
    views = [
        plain_attention_view(skills.model, pairs["ascending"].tokens, 0, "no prefix"),
        *(attention_view(pair, 0, name) for name, pair in pairs.items()),
    ]
    gates = gates_frame(views, _INPUT_END)
    grid = picture(
        "all-heads",
        heads_figure(views, max_value=FULL_COLOUR),
        "Attention of four heads, a row each for no prefix and the four prefixes: the blue "
        "content patterns of the first ten rows are equal in all, the orange gates differ.",
        "All heads of layer 0 on one test input, each prefix with its own task's answers fed in; "
        "masked baseline in the first row. Orange: the gate g, all mass on the prefix, as it is. "
        f"Blue: the content, renormalised, colours full at {FULL_COLOUR:g}. Over the inputs the "
        "content is the same in every row (equation 6); over the outputs the fed-back answers "
        "differ, and so does the pattern. The table has the gates.",
        gates,
    )
    outputs = layer_outputs(pairs, _INPUT_END)
    plane = picture(
        "outputs",
        outputs_figure(outputs),
        "Two scatter plots with lines from the outputs without prefix to those with each prefix: "
        "each prefix moves them to a place of its own.",
        "What the attention of layer 0 writes at the last input position (which predicts output "
        "0), without a prefix (crosses, masked baseline) and with each; a line joins the same "
        f"input. Left: principal components over all points of {len(outputs.off)} inputs. Right: "
        "two coordinates of the residual stream drawn at random, as in the paper. 20 inputs drawn.",
        outputs.to_dataframe(),
    )
    shown = [_interactive(view, i) for i, view in enumerate(views)]
    return Section(
        "all-heads-section", "All heads", "All heads under each prefix",
        "The prefix of each task draws attention at some heads and leaves others alone.",
        [grid, plane, *shown],
        {
            "gates": records(gates),
            "outputs": records(outputs.to_dataframe()),
            "attention": [
                row for view in views for row in records(_all_heads(view).assign(model=view.name))
            ],
        },
    )  # fmt: skip


def _interactive(view: AttentionView, index: int) -> Interactive:
    return Interactive(
        attention_div(view, f"skills-{index}", max_value=FULL_COLOUR),
        f"{view.name}: all heads, to explore",
        "Layer 0, first test input; rows are queries, columns keys. "
        + (
            "P1 holds the attention on the prefix as it is; behind an empty column the content "
            "follows, renormalised. Padded to a square: the first two rows are no queries."
            if view.slots.shape[-1] else "No prefix (masked baseline): rows sum to 1 as they are."
        ),
        frame_table(_all_heads(view), 2),
    )  # fmt: skip


def _all_heads(view: AttentionView) -> pd.DataFrame:
    n_layers, n_heads = view.slots.shape[:2]
    frames = [
        view.to_dataframe(layer, head).assign(layer=layer, head=head)
        for layer in range(n_layers) for head in range(n_heads)
    ]  # fmt: skip
    whole = pd.concat(frames, ignore_index=True)
    return whole.reindex(columns=["layer", "head", *whole.columns[:-2]])


def elicitation_section(skills: Skills, result: Result) -> Section:
    """Return which heads each prefix elicits, how, and where.

    Args:
        skills: the shipped model with its prefixes.
        result: from `heads`; its first seed is the shipped model.
    """
    first = result.seeds[0]
    frame = heads_frame(result)
    parts: list = []
    for direction, words in (
        ("denoise", "the head's prefixed output alone in the run without prefix: is it enough?"),
        ("noise", "the head's plain output alone in the prefixed run: is it needed?"),
    ):
        own = frame[(frame["seed"] == first) & (frame["direction"] == direction)]
        own = own[own["parameterization"] == "residual"]
        frames = {SKILL_WORDS[t]: own[own["tuned_on"] == t] for t in FOUR_SKILLS}
        parts.append(
            picture(
                f"elicitation-{direction}",
                elicitation_figure(frames, gate_column="gate_effect"),
                "Bars for each head and prefix, split into gate and bias, beside the range of "
                "random prefixes.",
                f"{direction.capitalize()}: {words} Effect on the log-probability of the right "
                "answer (nats an output, mean over "
                f"{result.settings['n']} test sequences), heads of layer 0, residual prefixes, "
                "masked baseline. Gate and bias are Shapley values, which add up to the total "
                "(diamond, 95% bootstrap interval over sequences). Grey: the range over "
                f"{result.settings['n_random']} norm-matched random prefixes, which "
                "runs out of the picture where they do more harm. A head above it whose interval "
                "is above 0 (or both below) is elicited at the 95% level of one head.",
                own.drop(columns=["record", "parameterization", "direction"]),
            )
        )
    noise = frame[(frame["direction"] == "noise") & (frame["parameterization"] == "residual")]
    copying = copying_rows(result)
    parts.append(
        picture(
            "copying",
            copying_figure(noise),
            "One panel a prefix, a point a head and seed: the gate at the first output against "
            "how much the head copies.",
            f"All heads of all {len(result.seeds)} seeds: the gate at output 0 against the "
            "attention that the same head, without a prefix, pays from output i to input i. "
            "Filled: elicited (noise). Residual prefixes, layer 0.",
            pd.DataFrame(copying),
        )
    )
    grids = {
        SKILL_WORDS[t]: patch_heads(
            skills.model, skills.prefixes[t], t, by_position=True, n=N_PATCHED, progress=False
        )
        for t in FOUR_SKILLS
    }
    patched = pd.concat([g.to_dataframe().assign(prefix=name) for name, g in grids.items()])
    parts.append(
        picture(
            "patching",
            patch_figure(grids),
            "Heat maps of heads by position: nearly all effect is at the position that predicts "
            "the first outputs.",
            "Denoise by position: one head's prefixed output at one content position put into the "
            "run without prefix, as a share of the whole prefix's effect on the log-probability "
            f"({N_PATCHED} test sequences, layer 0, masked baseline). Position 9 is the last "
            "input, which predicts output 0.",
            patched,
        )
    )
    tables = {
        "elicited": pd.DataFrame(elicited_rows(result)),
        "gating": pd.DataFrame(gating_rows(result)),
        "controls": pd.DataFrame(calibration_rows(result)),
        "agreement": pd.DataFrame(agreement_rows(result)),
    }
    parts += [
        Words("How many heads", "Over all seeds: heads whose effect lies outside of all random "
              "prefixes, and how their effect splits.", frame_table(tables["elicited"])),
        Words("The prefix at one head", "Exact match with the prefix kept at its best head alone, "
              "and with the prefix dropped at the one head where that costs most, by gating its "
              "attention mass; mean over seeds.", frame_table(tables["gating"])),
        Words("Controls", "The total effect of one head, mean over heads and seeds, under the "
              "prefix itself and under others.", frame_table(tables["controls"])),
        Words("Estimates by gradients", "Rank correlation with exact patches, median and range "
              "over seeds and tasks.", frame_table(tables["agreement"])),
    ]  # fmt: skip
    numbers = {name: records(t) for name, t in tables.items()}
    numbers |= {"heads": records(frame), "patching": records(patched), "copying": copying}
    return Section(
        "elicitation", "Elicited heads", "Which heads a prefix elicits",
        "Each head's share of what the prefix does, split into the scaling of its own output "
        "(gate) and what the prefix adds (bias).",
        parts, numbers, _elicitation_findings(result),
    )  # fmt: skip


def _elicitation_findings(result: Result) -> list[str]:
    found = []
    for row in copying_rows(result):
        found.append(
            f"Prefix for {SKILL_WORDS[row['tuned_on']]}: at output 0 it takes "
            f"{percent(row['median'])} % of the attention (median; more than half in "
            f"{row['seeds_above_half']} of {row['seeds']} seeds) of the head that copies inputs to "
            "outputs in the pretrained model, and on average "
            f"{percent(row['other_gate'])} % of that of the other heads."
        )
    return found


def circuits_section(skills: Skills, result: Result | None) -> Section:
    """Return the smallest circuit of each prefix of the shipped model, and their sizes over seeds.

    Args:
        skills: the shipped model with its prefixes.
        result: from `heads`; None if it is not shipped.
    """
    parts: list = []
    sizes = [] if result is None else circuit_rows(result)
    if sizes:
        parts.append(
            Words("Over all seeds", "The smallest circuits of every seed's model, measured again "
                  "on sequences that the search did not see (held out).",
                  frame_table(pd.DataFrame(sizes)))
        )  # fmt: skip
    rows, curves, edges = [], [], []
    for task in FOUR_SKILLS:
        name = SKILL_WORDS[task]
        circuit = find_circuit(skills.model, skills.prefixes[task], task, progress=False)
        parts.append(_drawing(circuit, task, name))
        parts.append(
            picture(
                f"curves-{task}",
                circuit_curves_figure(circuit),
                f"Faithfulness and completeness of circuits for {name} against their size, with "
                "random circuits of the same size as a band.",
                f"{name}: the best circuit of every size, and random ones with as many nodes of "
                "each kind. Share of the prefix's effect on the log-probability.",
                circuit.curves(),
            )
        )
        rows += records(circuit.to_dataframe().assign(prefix=name))
        curves += records(circuit.curves().assign(prefix=name))
        edges += records(circuit.edge_dataframe().assign(prefix=name))
    return Section(
        "circuits", "Circuits", "From heads to a circuit",
        "The smallest set of heads, MLPs and slots that keeps 95 % of what the prefix does, by "
        "trying every set. A head or MLP that is out keeps its output of the run without prefix; "
        "a slot that is out loses its mass.",
        parts, {"nodes": rows, "curves": curves, "edges": edges, "sizes": sizes},
    )  # fmt: skip


def _drawing(circuit: Circuit, task: str, name: str) -> Drawing:
    return Drawing(
        f"circuit-{task}",
        Markup(circuit_svg(circuit)),
        f"Graph of the circuit of the prefix for {name}: slot, heads, MLP and logits.",
        circuit.caption(),
        frame_table(circuit.to_dataframe()),
    )
