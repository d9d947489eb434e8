import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments.table2 import MODEL
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from prefix_interp.views.skill_sections import table2_section
from prefix_interp.views.skills import matrix_figure, restarts_table, table2_table


def made_up(own=0.9, n_seeds=2):
    """A Table 2 in which prefixes reach `own` on their task and 1 % on the others."""
    rows = []
    for seed in range(n_seeds):
        for task in FOUR_SKILLS:
            rows.append(_row(seed, "pretrained", None, None, task, 0.25))
            for tuned_on in FOUR_SKILLS:
                exact = own if task == tuned_on else 0.01
                rows.append(_row(seed, "prefix", "residual", tuned_on, task, exact))
            rows.append(_row(seed, "prefix", "residual", task, task, 0.2, chosen=False))
    return Result("table2", "fast", list(range(n_seeds)), {"model": str(MODEL)}, rows)


def _row(seed, method, kind, tuned_on, task, exact, chosen=True):
    score = {"value": exact, "low": exact, "high": exact}
    return {
        "seed": seed, "method": method, "parameterization": kind, "n_slots": kind and 1,
        "init_std": kind and 0.1, "tuned_on": tuned_on, "start": 0, "lr": 0.1, "chosen": chosen,
        "task": task, "baseline": "prefix" if kind else "masked", "train_loss": 0.1 + (not chosen),
        "evaluation": {"exact_match": score, "token_accuracy": score, "loss": score},
    }  # fmt: skip


def test_the_matrix_shows_means_and_the_papers():
    figure = matrix_figure(made_up())
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert texts[0] == "25.0\n(25)" and "90.0\n(95)" in texts and "1.0\n(0)" in texts
    assert len(texts) == 5 * 4
    plain = made_up()
    nothing = [r for r in plain.records if r["method"] == "pretrained"]
    with pytest.raises(PrefixInterpError, match="no prefixes"):
        matrix_figure(Result("table2", "fast", [0, 1], {}, nothing))


def test_tables_have_a_row_a_prefix():
    table = table2_table(made_up())
    assert len(table.rows) == 5 and table.rows[1][2] == "ascending"
    assert "paper 95 ± 2" in table.rows[1][3] and "90.0" in table.rows[1][3]
    starts = restarts_table(made_up())
    assert [row[3] for row in starts.rows] == ["2 of 4"] * 4
    assert [row[4] for row in starts.rows] == ["2 of 2"] * 4


def test_the_section_says_what_was_found_and_has_its_numbers():
    section = table2_section(made_up(own=0.5))
    (finding,) = section.findings
    assert "50.0 / 50.0 / 50.0 / 50.0 %" in finding and "at most 1.0 %" in finding
    assert len(section.numbers["table2"]) == 5 and len(section.numbers["restarts"]) == 4
