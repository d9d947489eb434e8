import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch

import prefix_interp as pi
from analyses.kept import Kept
from analyses.registry import evidence_of
from analyses.study import Job, committed_result
from analyses.table2 import STUDY
from analyses.table2.measure import PROTOCOLS, Trial, export_zoo, measure
from analyses.table2.models import MODEL, NAME, PREFIXES, STARTS
from analyses.table2.section import matrix_figure, restarts_table, section, table2_table
from analyses.table2.tables import tables
from prefix_interp.errors import PrefixInterpError
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS

TINY = replace(
    PROTOCOLS["smoke"], pretrain_steps=4, prefix_steps=2, n_test=40,
    trials=(Trial("residual", 0.1, 2, (1e-2, 1e-1)), Trial("kv", 0.1, 1, (1e-2,))),
)  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return Kept(tmp_path_factory.mktemp("table2"))


@pytest.fixture(scope="module")
def tiny(kept):
    with pytest.MonkeyPatch.context() as patch:
        module = import_module("analyses.table2.measure")
        patch.setattr(module, "MODEL", replace(MODEL, d_model=16, n_heads=2))
        return measure(Job(0, "smoke", TINY, keeps=kept))["rows"]


def _result(rows, n_seeds=1):
    settings = {"protocol": {"n_test": 40}}
    return Result("table2", "fast", list(range(n_seeds)), settings, {"rows": rows})


def test_every_row_says_what_it_is(tiny):
    # Without prefix; per skill and trial: chosen runs and two controls on all tasks, others on one.
    assert len(tiny) == 4 + 4 * ((4 + 3 + 8) + (4 + 0 + 8))
    assert {r["method"] for r in tiny} == {
        "pretrained", "prefix", "random prefix", "norm-matched prefix",
    }  # fmt: skip
    for row in tiny:
        assert (row["tuned_on"] is None) == (row["parameterization"] is None)
        assert row["baseline"] == ("masked" if row["tuned_on"] is None else "prefix")
    json.dumps(tiny, allow_nan=False)


def test_the_chosen_start_has_the_lowest_training_loss(tiny):
    for task in FOUR_SKILLS:
        own = [
            r for r in tiny
            if r["method"] == "prefix" and r["tuned_on"] == task and r["task"] == task
            and r["parameterization"] == "residual"
        ]  # fmt: skip
        assert {(r["start"], r["lr"]) for r in own} == {(s, x) for s in (0, 1) for x in (0.01, 0.1)}
        (chosen,) = [r for r in own if r["chosen"]]
        assert chosen["train_loss"] == min(r["train_loss"] for r in own)


def test_the_model_the_best_prefixes_and_all_starts_are_kept(tiny, kept):
    model, best, starts = kept.toy(NAME), kept.contexts(PREFIXES), kept.contexts(STARTS)
    assert len(best) == 8 and len(starts) == 4 * (2 + 1)
    a, b = (starts[f"add_one-residual-std-0.1-start-{i}"] for i in (0, 1))
    assert (a.vectors - b.vectors).abs().max() > 0.05
    assert (a.metadata["start"], b.metadata["start"]) == (0, 1)
    # What is kept is what was measured.
    (row,) = [
        r for r in tiny
        if r["method"] == "prefix" and r["parameterization"] == "kv" and r["chosen"]
        and r["tuned_on"] == "add_two" and r["task"] == "add_one"
    ]  # fmt: skip
    again = pi.evaluate(model, "add_one", best["add_two-kv-std-0.1"], n=40)
    assert again.loss.value == pytest.approx(row["evaluation"]["loss"]["value"], rel=1e-6)
    assert (row["start"], row["lr"]) == (0, 0.01)


def test_the_zoo_takes_the_model_and_its_prefixes(tiny, kept, tmp_path):
    copies = export_zoo(kept, tmp_path)
    model, found = pi.load_toy(tmp_path / NAME), pi.load_prefixes(tmp_path / NAME)
    assert len(copies) == 9
    assert set(found) == {*FOUR_SKILLS, *(f"{t}-kv-1" for t in FOUR_SKILLS)}
    for prefix in found.values():
        prefix.check_fits(model)
    best = kept.context(PREFIXES, "add_one-residual-std-0.1")
    assert torch.equal(found["add_one"].vectors, best.vectors)


def test_rows_summarise_what_was_chosen(tiny):
    second = [
        {**r, "seed": 1, "evaluation": {**r["evaluation"], "exact_match": {"value": 1.0}}}
        for r in tiny
    ]
    summary = tables(_result(tiny + second, 2))
    rows = summary["rows"]
    plain = [r for r in rows if r["method"] == "pretrained"]
    assert len(plain) == 1 and plain[0]["paper"]["add_two"] == (22, 7)
    own = next(r for r in rows if r["method"] == "prefix" and r["tuned_on"] == "add_one")
    first = [
        r["evaluation"]["exact_match"]["value"] for r in tiny
        if r["method"] == "prefix" and r["tuned_on"] == "add_one" and r["chosen"]
        and r["parameterization"] == "residual" and r["task"] == "add_two"
    ]  # fmt: skip
    assert own["add_two"]["exact_match"]["mean"] == pytest.approx((first[0] + 1) / 2)
    assert own["n_seeds"] == 2 and own["paper"]["add_one"] == (95, 6)
    (kv,) = [r for r in summary["diagonal"]
             if r["method"] == "prefix" and r["parameterization"] == "kv"]  # fmt: skip
    assert kv["other"] >= 0.5 and set(kv["own"]) == set(FOUR_SKILLS)
    starts = [r for r in summary["restarts"] if r["parameterization"] == "residual"]
    assert [r["runs"] for r in starts] == [8] * 4
    assert all(r["found"] == 4 and r["seeds_found"] == 1 for r in starts)


def test_the_zoo_gives_the_committed_numbers_of_seed_0():
    rows = [r for r in committed_result("table2").rows() if r["seed"] == 0 and r["chosen"]]
    model, found = pi.load_toy(NAME), pi.load_prefixes(NAME)
    for tuned_on, task, kind in (
        ("add_one", "add_one", "residual"), ("add_one", "add_two", "residual"),
        ("sort_descending", "sort_descending", "kv"), (None, "sort_ascending", None),
    ):  # fmt: skip
        (row,) = [
            r for r in rows
            if (r["tuned_on"], r["task"], r["parameterization"]) == (tuned_on, task, kind)
            and r["method"] in ("prefix", "pretrained") and r["init_std"] in (0.1, None)
        ]  # fmt: skip
        prefix = tuned_on and found[tuned_on if kind == "residual" else f"{tuned_on}-kv-1"]
        score = pi.evaluate(model, task, prefix)
        for metric, tolerance in (("exact_match", 1e-3), ("token_accuracy", 1e-3), ("loss", 1e-2)):
            expected = row["evaluation"][metric]["value"]
            assert getattr(score, metric).value == pytest.approx(expected, abs=tolerance), row


# A made-up Table 2 in which prefixes reach `own` on their task and 1 % on the others.


def made_up(own=0.9, n_seeds=2):
    rows = []
    for seed in range(n_seeds):
        for task in FOUR_SKILLS:
            rows.append(_row(seed, "pretrained", None, None, task, 0.25))
            for tuned_on in FOUR_SKILLS:
                exact = own if task == tuned_on else 0.01
                rows.append(_row(seed, "prefix", "residual", tuned_on, task, exact))
            rows.append(_row(seed, "prefix", "residual", task, task, 0.2, chosen=False))
    return _result(rows, n_seeds)


def _row(seed, method, kind, tuned_on, task, exact, chosen=True):
    score = {"value": exact, "low": exact, "high": exact}
    return {
        "seed": seed, "method": method, "parameterization": kind, "n_slots": kind and 1,
        "init_std": kind and 0.1, "tuned_on": tuned_on, "start": 0, "lr": 0.1, "chosen": chosen,
        "task": task, "baseline": "prefix" if kind else "masked", "train_loss": 0.1 + (not chosen),
        "evaluation": {"exact_match": score, "token_accuracy": score, "loss": score},
    }  # fmt: skip


def test_the_matrix_shows_means_and_the_papers():
    rows = tables(made_up())["rows"]
    texts = [t.get_text() for t in matrix_figure(rows).axes[0].texts]
    assert texts[0] == "25.0\n(25)" and "90.0\n(95)" in texts and "1.0\n(0)" in texts
    assert len(texts) == 5 * 4
    with pytest.raises(PrefixInterpError, match="no prefixes"):
        matrix_figure([r for r in rows if r["method"] == "pretrained"])


def test_tables_have_one_row_per_prefix():
    summary = tables(made_up())
    table = table2_table(summary["rows"])
    assert len(table.rows) == 5 and table.rows[1][2] == "sort ascending"
    assert "paper 95 ± 2" in table.rows[1][3] and "90.0" in table.rows[1][3]
    starts = restarts_table(summary["restarts"])
    assert [row[3] for row in starts.rows] == ["2 of 4"] * 4
    assert [row[4] for row in starts.rows] == ["2 of 2"] * 4


def test_the_section_says_what_was_found_and_has_its_numbers():
    shown = section(evidence_of([made_up(own=0.5)]))
    assert "at least 50.0 % right on its own task, at most 1.0 % on another" in shown.title
    assert not shown.card.holds and shown.claims[0].cells["residual, 1 slot"].holds is False
    assert len(shown.numbers["table2"]) == 5 and len(shown.numbers["restarts"]) == 4


def test_the_findings_have_every_prefix_but_no_controls():
    evidence = evidence_of([made_up()])
    lines = STUDY.findings["table 2"](evidence).splitlines()
    assert len(lines) == 2 + 1 + 4
    assert lines[3].startswith("| residual prefix, sort ascending | 90.0 ± 0.0 (95 ± 2) | 1.0 ±")
