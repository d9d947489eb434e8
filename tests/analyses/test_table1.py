import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

import prefix_interp as pi
from analyses.registry import evidence_of
from analyses.runs import finished_seed
from analyses.study import committed_result
from analyses.table1 import STUDY
from analyses.table1.measure import FINE_TUNED, NEW, OLD, PRETRAINED, PROTOCOLS
from analyses.table1.section import section, sweep_figure
from analyses.table1.tables import findings_block, main_table, more_table, sweep_rows, table1_rows
from prefix_interp.prefixes.prefix import load_prefixes
from prefix_interp.views.style import svg
from tests.analyses.made_up import made_up_table1

SWEEPS = PROTOCOLS["smoke"].sweeps


@pytest.fixture(scope="module")
def made_up():
    return made_up_table1(learned=0.2)


@pytest.mark.slow
def test_every_row_says_what_it_is(smoke):
    rows = smoke("table1").rows()
    swept = sum(len(s.lrs) for s in SWEEPS)
    assert len(rows) == 2 * (2 + 3 + swept + 3 * len(SWEEPS))  # two late ones and their mean
    for row in rows:
        assert row["task"] in (OLD, NEW)
        assert (row["parameterization"] is None) == row["method"].endswith(
            ("trained", "tuned", "late", "averaged")
        )
        assert row["baseline"] == ("masked" if row["parameterization"] is None else "prefix")


@pytest.mark.slow
def test_the_chosen_rate_has_the_lowest_training_loss(smoke):
    for sweep in SWEEPS:
        own = [
            r for r in smoke("table1").rows()
            if r["method"] == "prefix" and r["task"] == NEW and r["n_slots"] == sweep.n_slots
            and r["parameterization"] == sweep.parameterization
        ]  # fmt: skip
        (chosen,) = [r for r in own if r["chosen"]]
        assert chosen["train_loss"] == min(r["train_loss"] for r in own)


@pytest.mark.slow
def test_late_weights_are_those_of_their_steps_and_their_mean(smoke):
    rows = smoke("table1").rows()
    late = [r for r in rows if r["method"] == "fine-tuned, late" and r["task"] == NEW]
    assert [r["step"] for r in late] == [10, 20]
    (last,) = [r for r in rows if (r["method"], r["task"]) == ("fine-tuned", NEW)]
    assert late[1]["evaluation"] == last["evaluation"] != late[0]["evaluation"]
    kept = finished_seed(STUDY, "smoke", 0, work=smoke.work)
    model, n_test = kept.toy(FINE_TUNED), PROTOCOLS["smoke"].n_test
    parts = [load_file(kept.folder / "parts" / f"late-{step}.safetensors") for step in (10, 20)]
    for name, parameter in model.named_parameters():
        assert torch.equal(parts[1][name], parameter)
        parameter.data.copy_((parts[0][name] + parts[1][name]) / 2)
    (averaged,) = [r for r in rows if (r["method"], r["task"]) == ("fine-tuned, averaged", NEW)]
    score = pi.evaluate(model, NEW, n=n_test)
    assert averaged["evaluation"]["loss"]["value"] == pytest.approx(score.loss.value, rel=1e-6)


@pytest.mark.slow
def test_the_zoo_gets_the_models_and_the_best_prefixes_that_were_scored(smoke, tmp_path):
    rows = smoke("table1").rows()
    kept = finished_seed(STUDY, "smoke", 0, work=smoke.work)
    folders = STUDY.exports(kept, tmp_path)
    assert all((folder / "model.json").exists() for folder in folders[:2])
    n_test = PROTOCOLS["smoke"].n_test
    for name, method, task in ((PRETRAINED, "pretrained", OLD), (FINE_TUNED, "fine-tuned", NEW)):
        score = pi.evaluate(pi.load_toy(tmp_path / name), task, n=n_test)
        (row,) = [r for r in rows if (r["method"], r["task"]) == (method, task)]
        assert score.loss.value == row["evaluation"]["loss"]["value"]
    prefixes = load_prefixes(tmp_path / PRETRAINED)
    assert set(prefixes) == {
        NEW, f"{NEW}-residual-2", f"{NEW}-kv-1", f"{NEW}-kv-2",
    }  # fmt: skip
    model = pi.load_toy(tmp_path / PRETRAINED)
    for prefix in prefixes.values():
        (row,) = [
            r for r in rows
            if r["method"] == "prefix" and r["chosen"] and r["task"] == NEW
            and (r["parameterization"], r["n_slots"]) == (prefix.parameterization, prefix.n_slots)
        ]  # fmt: skip
        score = pi.evaluate(model, NEW, prefix, n=n_test)
        assert score.loss.value == row["evaluation"]["loss"]["value"]


def test_rows_count_chosen_rates_only(made_up):
    rows = table1_rows(made_up)
    kinds = [(r["method"], r["parameterization"], r["n_slots"]) for r in rows]
    assert kinds[:2] == [("pretrained", None, None), ("fine-tuned", None, None)]
    assert kinds[2] == ("prefix", "residual", 1)
    kv = next(r for r in rows if r["method"] == "prefix" and r["n_slots"] == 10)
    assert kv[NEW]["exact_match"]["mean"] == pytest.approx(0.2)
    assert kv["lrs"] == [{"lr": 0.1, "seeds": 3}] and kv["paper"] is None
    assert next(r for r in rows if r["method"] == "pretrained")["paper"][OLD] == (91, 5)


def test_sweep_rows_have_every_rate_once(made_up):
    rows = sweep_rows(made_up)
    assert [(r["n_slots"], r["lr"], r["chosen"]) for r in rows] == [
        (1, 0.01, 0), (1, 0.1, 3), (10, 0.01, 0), (10, 0.1, 3),
    ]  # fmt: skip
    assert rows[3]["exact_match"]["mean"] == pytest.approx(0.2)
    assert sweep_rows(made_up, OLD)[3]["exact_match"]["mean"] == 0


def test_text_tables_put_each_number_in_its_column(made_up):
    rows = table1_rows(made_up)
    table = main_table(rows)
    row = dict(zip(table.header, table.rows[0], strict=True))
    assert row["Model"] == "pretrained" and row["Paper (%)"] == "0 ± 0"  # the later of two
    assert row["Exact match, sort ascending (%)"].startswith("92.0 ± 2.0\n[")
    assert row["Test loss, sort descending (nats)"] == "2.00 (1.99 to 2.01)"  # the test set's error
    more = more_table(rows)
    kv = next(r for r in more.rows if r[:2] == ("prefix", "kv, 10 slots"))
    assert kv[2:5] == ("3", "0.1 (3)", "20.0 to 20.0")


def test_the_findings_have_ours_beside_the_paper_without_controls(made_up):
    block = findings_block(evidence_of([made_up, made_up_table1(learned=0.3, preset="paper")]))
    lines = block.splitlines()
    assert len(lines) == 2 + 4 and "random" not in block
    assert lines[0].count("3 seeds") == 2
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells == ["prefix, kv, 10 slots", "", "", "0.0 ± 0.0", "20.0 ± 0.0", "1.80",
                     "0.0 ± 0.0", "30.0 ± 0.0", "1.70"]  # fmt: skip
    assert "91 ± 5" in lines[2] and "92.0 ± 2.0" in lines[2]
    assert "paper`" not in findings_block(evidence_of([made_up])).splitlines()[0]


def test_sweep_lines_are_the_means_over_seeds(made_up):
    figure = sweep_figure(sweep_rows(made_up))
    exact = figure.axes[0].lines
    assert [line.get_label() for line in exact] == ["residual, 1 slot", "kv, 10 slots"]
    assert exact[1].get_ydata() == pytest.approx([0.0, 0.2])
    assert exact[1].get_xdata() == pytest.approx([0.01, 0.1])
    assert isinstance(figure, Figure) and svg(figure) == svg(sweep_figure(sweep_rows(made_up)))


def test_a_sweep_of_nothing_is_refused():
    with pytest.raises(pi.PrefixInterpError, match="rows has 0 kinds"):
        sweep_figure([])


def test_the_section_shows_what_was_learned_the_table_and_what_is_missing(made_up):
    shown = section(evidence_of([made_up]))
    fast, _, missing, sweep, rates = shown.folded
    rows = table1_rows(made_up)
    assert fast.table == main_table(rows)
    assert (
        "3 seeds" in fast.text and "of the 3,200 sequences" in fast.text and "0.12 %" in fast.text
    )
    assert "table1 --preset paper makes it" in missing.text
    assert list(shown.numbers) == ["fast rows", "fast sweep"]
    assert (sweep.id, shown.figure.id) == ("sweep", "learned")
    assert len(rates.table.rows) == len(sweep_rows(made_up))
    assert shown.title.startswith("0 % of sequences") and "20.0 % with kv, 10 slots" in shown.title
    assert not shown.card.holds and shown.card.verdict.endswith("not for kv, 10 slots")


def test_intervals_cover_the_error_of_the_test_set_too(made_up):
    table = main_table(table1_rows(made_up))
    column = table.header.index("Exact match, sort descending (%)")
    (row,) = [r for r in table.rows if r[:2] == ("prefix", "residual, 1 slot")]
    assert row[column] == "0.0 ± 0.0\n[0.0, 1.0]"  # all seeds agree: the interval of each


def test_no_prefix_that_learns_is_a_claim_that_holds():
    card = section(evidence_of([made_up_table1()])).card
    assert card.holds and card.verdict == "holds: no prefix learns it"


def test_the_zoo_is_seed_0_of_the_committed_table():
    model = pi.load_toy(PRETRAINED)
    rows = committed_result("table1").rows()
    first = [r for r in rows if r["seed"] == 0]
    (row,) = [r for r in first if r["method"] == "pretrained" and r["task"] == OLD]
    score = pi.evaluate(model, OLD, seed=0)
    assert score.exact_match == pytest.approx(row["evaluation"]["exact_match"]["value"], abs=1e-3)
    for key, prefix in pi.load_prefixes(PRETRAINED).items():
        (row,) = [
            r for r in first
            if r["method"] == "prefix" and r["task"] == NEW and r["chosen"]
            and r["parameterization"] == prefix.parameterization
            and r["n_slots"] == prefix.n_slots
        ]  # fmt: skip
        got = pi.evaluate(model, NEW, prefix, seed=0)
        assert got.exact_match == pytest.approx(
            row["evaluation"]["exact_match"]["value"], abs=5e-3
        ), key
        assert got.loss == pytest.approx(row["evaluation"]["loss"]["value"], rel=1e-3)
