"""The README's example prints what the README says."""

import contextlib
import io
import math
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_example_prints_what_the_readme_shows():
    text = (ROOT / "README.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text, re.S).groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    got, expected = printed.getvalue().split(), shown.split()
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        numbers = [re.sub(r"[\[\],()]", "", x) for x in (a, b)]
        try:
            # Another processor may round the last digits, and flip one sequence, differently.
            assert math.isclose(*map(float, numbers), rel_tol=0.02, abs_tol=0.02), (a, b)
        except ValueError:
            assert a == b


def test_the_table_is_the_committed_result():
    from prefix_interp.experiments.summary import table1_rows
    from prefix_interp.experiments.table1 import NEW, OLD
    from prefix_interp.results import committed_result

    text = (ROOT / "README.md").read_text()
    for preset in ("fast", "paper"):
        for row in table1_rows(committed_result("table1", preset)):
            if row["method"].endswith(" prefix"):
                continue  # controls are in the report
            for task in (OLD, NEW):
                score = row[task]["exact_match"]
                assert f"{score['mean'] * 100:.1f} ± {score['sd'] * 100:.1f}" in text, row
