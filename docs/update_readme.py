"""Write the README's output block and its tables anew: `make readme`."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from prefix_interp.experiments.summary import table1_rows
from prefix_interp.experiments.table1 import NEW, OLD
from prefix_interp.experiments.table2_summary import table2_rows
from prefix_interp.results import committed_result
from prefix_interp.tasks import FOUR_SKILLS

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
                key = (row["method"], row["parameterization"], row["n_prefix"])
                rows.setdefault(key, {})[preset] = row
    lines = [head, ["---"] * len(head)]
    for (method, parameterization, n_prefix), by_preset in rows.items():
        slots = f"{n_prefix} slot{'' if n_prefix == 1 else 's'}"
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


BLOCKS = {"table 1": table1, "table 2": table2, "constructions": constructions}


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
