"""Write the README's output block and its tables anew: `make readme`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from prefix_interp.experiments.capacity_summary import distinct_rows, longest_rows
from prefix_interp.experiments.ladder_protocol import BLIND, TUNED
from prefix_interp.experiments.ladder_summary import ladder_rows
from prefix_interp.experiments.summary import table1_rows
from prefix_interp.experiments.table1 import NEW, OLD
from prefix_interp.experiments.table2_summary import table2_rows
from prefix_interp.results import committed_result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.ladder import TASK_WORDS, layers

README = Path(__file__).parent.parent / "README.md"
PRESETS = ("fast", "paper")


def printed(code: str) -> str:
    """Return what the example prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    return out.getvalue()


def percent(row: dict[str, Any], task: str) -> str:
    """Return exact match in percent, mean and standard deviation over seeds."""
    score = row[task]["exact_match"]
    return f"{score['mean'] * 100:.1f} ± {score['sd'] * 100:.1f}"


def table1() -> str:
    """Return Table 1 in Markdown: the paper's numbers beside both presets', without controls."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    head = ["", "the paper: ascending", "descending"]
    for preset in PRESETS:
        result = committed_result("table1", preset)
        head += [f"`{preset}`, {len(result.seeds)} seeds: ascending", "descending"]
        head += ["loss, descending"]
        for row in table1_rows(result):
            if not row["method"].endswith(" prefix"):
                key = (row["method"], row["parameterization"], row["n_slots"])
                rows.setdefault(key, {})[preset] = row
    lines = [head, ["---"] * len(head)]
    for (method, parameterization, n_slots), by_preset in rows.items():
        slots = f"{n_slots} slot{'' if n_slots == 1 else 's'}"
        name = f"{method}, {parameterization}, {slots}" if parameterization else method
        paper = next(iter(by_preset.values()))["paper"]
        cells = [f"{paper[t][0]} ± {paper[t][1]}" if paper else "" for t in (OLD, NEW)]
        for preset in PRESETS:
            row = by_preset.get(preset)
            if row is None:
                cells += [""] * 3
            else:
                loss = f"{row[NEW]['loss']['mean']:.2f}"
                cells += [percent(row, OLD), percent(row, NEW), loss]
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table2() -> str:
    """Return Table 2 in Markdown: ours, the paper's number in brackets, without controls."""
    result = committed_result("table2", "fast")
    lines = [["", *(t.replace("_", " ") for t in FOUR_SKILLS)], ["---"] * (1 + len(FOUR_SKILLS))]
    for row in table2_rows(result):
        if row["method"] not in ("pretrained", "prefix") or row["init_std"] == 1.0:
            continue
        name = row["method"]
        if row["tuned_on"]:
            name = f"{row['parameterization']} prefix, {row['tuned_on'].replace('_', ' ')}"
        cells = []
        for task in FOUR_SKILLS:
            paper = row["paper"] and row["paper"][task]
            cells.append(percent(row, task) + (f" ({paper[0]} ± {paper[1]})" if paper else ""))
        lines.append([name, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def constructions() -> str:
    """Return what was counted on the paper's constructions, in Markdown."""
    names = {
        "any_sequence": "Theorem 1, any sequence", "any_map": "Theorem 2, any map",
        "any_map_to_sequences": "longer responses", "any_map_of_pairs": "maps of two tokens",
    }  # fmt: skip
    lines = [["", "V", "outputs", "virtual tokens", "behaviours", "rows of outputs right"]]
    lines.append(["---"] * len(lines[0]))
    groups: dict[tuple[Any, ...], list[Any]] = {}
    for row in committed_result("constructions", "fast").records:
        if row["part"] == "right":
            groups.setdefault((row["construction"], row["n_out"], row["n"]), []).append(row)
    for (name, n_out, n), rows in groups.items():
        sizes = sorted({row["n_tokens"] for row in rows})
        tried = f"{rows[0]['behaviours']:,}" + ("" if n else " (all)")
        right, checked = (sum(row[key] for row in rows) for key in ("right", "checked"))
        lines.append(
            [names[name], f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
             str(n_out or 1), str(rows[0]["n_slots"]),
             tried + (" each" if len(sizes) > 1 else ""), f"{right:,} of {checked:,}"]
        )  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def one_token() -> str:
    """Return what one token calls up on the toys of the ladder, in Markdown."""
    result = committed_result("capacity", "fast")
    counts = {
        (row["depth"], row["trained"], row["kind"]): row
        for row in distinct_rows(result) if row["kind"] != "random"
    }  # fmt: skip
    lines = [["toy", "hard tokens", "searched soft tokens", "half of the targets up to", "longest"]]
    lines.append(["---"] * len(lines[0]))
    for row in longest_rows(result):
        depth, trained = row["depth"], row["trained"]
        name = layers(depth) + ("" if trained else ", never trained")
        cells = [
            f"{own['distinct']['mean']:.1f} of {own['tried']['mean']:.0f}"
            for own in (counts[depth, trained, kind] for kind in ("hard", "searched"))
        ]
        lines.append([name, *cells, tokens(row["half_mean"], 1), tokens(row["any"])])
    lines.append(language_model_line())
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def language_model_line() -> list[str]:
    """Return the same of a language model."""
    result = committed_result("language-model", "fast")
    counts = {r["kind"]: r for r in result.records if r["part"] == "distinct"}
    lengths = [r for r in result.records if r["part"] == "length"]
    half = max((r["length"] for r in lengths if 2 * r["reached"] >= r["tried"]), default=0)
    longest = max((r["length"] for r in lengths if r["reached"]), default=0)
    cells = [f"{counts[k]['distinct']:,} of {counts[k]['tried']:,}" for k in ("hard", "searched")]
    name = result.settings["model"].split(" (")[0]
    return [name, *cells, tokens(half), tokens(longest)]


def tokens(n: float, digits: int = 0) -> str:
    """Return a number of tokens in words."""
    return f"{n:.{digits}f} token{'' if n == 1 else 's'}"


def suffixes() -> str:
    """Return tuned contexts and the blind rule on new tasks, with intervals, in Markdown."""
    rows = [r for r in ladder_rows(committed_result("ladder", "fast"))
            if r["method"] == "context" and r["asks_for"] == "new"]  # fmt: skip
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    head = ["layers, steps", "context"]
    for task in tasks:
        head += [TASK_WORDS[task], "first output", "loss"]
    lines = [head, ["---"] * len(head)]
    for depth in sorted({r["depth"] for r in rows}):
        longest = max(r["steps"] or 0 for r in rows if r["depth"] == depth)
        for context in (BLIND, *TUNED):
            own = {
                r["task"]: r for r in rows
                if (r["depth"], r["context"]) == (depth, context)
                and r["steps"] in (None, longest)
            }  # fmt: skip
            cells = [f"{depth}, {longest:,}", context]
            for task in tasks:
                cells += [with_interval(own[task], key) for key in ("exact_match", "first_output")]
                cells += [f"{own[task]['loss']['mean']:.2f}"]
            lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_interval(row: dict[str, Any], metric: str) -> str:
    """Return a mean over seeds in percent with its 95% t interval; of the blind rule the mean."""
    spread = {key: 100 * row[metric][key] for key in ("mean", "low", "high")}
    words = f"{spread['mean']:.1f}"
    if row["context"] == BLIND:
        return words
    return f"{words} ({spread['low']:.0f} to {spread['high']:.0f})"


BLOCKS = {
    "table 1": table1, "table 2": table2, "constructions": constructions, "one token": one_token,
    "suffixes": suffixes,
}  # fmt: skip


def main() -> None:
    """Replace all blocks in place."""
    text = README.read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code, "the README lost its example"
    output = "```text\n" + printed(code[1]).rstrip() + "\n```"
    text = re.sub(r"```text\n.*?```", lambda _: output, text, flags=re.S)
    for name, table in BLOCKS.items():
        block = f"<!-- {name} -->\n{table()}\n<!-- end {name} -->"
        pattern = f"<!-- {name} -->.*?<!-- end {name} -->"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.S)
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
