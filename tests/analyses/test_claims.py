import itertools
import math

import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments import claims as claims_module
from prefix_interp.experiments.claim import FAILS, HOLDS, MEASURED
from prefix_interp.experiments.claims import (
    baseline_pattern,
    load_zoo,
    measure_claims,
    plain_difference_spectrum,
    total_variation,
)
from prefix_interp.experiments.summary import shipped_result, sweep_rows, table1_rows
from prefix_interp.experiments.table1 import NEW, OLD
from tests.views.made_up import made_up_table1


@pytest.fixture(scope="module")
def measured():
    return measure_claims(progress=False)


def test_the_theory_holds_on_every_shipped_prefix(measured):
    theory = [r for r in measured.records if not r["claim"].startswith("no-prefix")]
    assert {r["verdict"] for r in theory} == {HOLDS, MEASURED}
    for claim in ("eq6", "eq7", "relative-attention", "plain-difference", "injections"):
        assert sum(r["claim"] == claim for r in theory) == 4, claim
    assert {r["level"] for r in theory if r["claim"] == "bias-rank"} == {"head 0", "layer"}


def test_every_record_says_what_it_is_about(measured):
    for record in measured.records:
        for key in ("statement", "formula", "quantity", "subject", "level", "baseline", "verdict"):
            assert record[key], (record["claim"], key)
        assert math.isfinite(record["value"])
        assert "layer" in record
        assert (record["verdict"] == MEASURED) == (record["tolerance"] is None)


def test_fine_tuning_moves_attention_by_far_more_than_a_prefix(measured):
    value = {r["claim"]: r["value"] for r in measured.records}
    assert value["fine-tuning-attention"] > 0.1
    assert value["relative-attention"] < 1e-12


def test_same_seed_same_records(measured):
    again = measure_claims(progress=False)
    assert list(again.records) == list(measured.records)


def test_a_prefix_that_learns_is_called_a_failure_of_the_claim(monkeypatch):
    monkeypatch.setattr(claims_module, "shipped_result", lambda *_: made_up_table1(learned=0.2))
    records = [r for r in measure_claims(progress=False).records if "no-prefix" in r["claim"]]
    verdicts = {(r["parameterization"], r["n_slots"], r["verdict"]) for r in records}
    assert verdicts == {("residual", 1, HOLDS), ("kv", 10, FAILS)}
    mean = next(r for r in records if r["claim"] == "no-prefix-learns" and r["n_slots"] == 10)
    assert mean["value"] == pytest.approx(0.2) and "Finding" in mean["note"]


def test_without_table1_there_are_no_accuracy_claims(monkeypatch):
    monkeypatch.setattr(claims_module, "shipped_result", lambda *_: None)
    result = measure_claims(progress=False)
    assert result.settings["accuracies"] is None
    assert not [r for r in result.records if "no-prefix" in r["claim"]]


def test_prefixes_still_fit_after_conversion_to_float64():
    zoo = load_zoo(n_sequences=2)
    assert zoo.tokens.shape == (2, 19)
    for prefix in zoo.prefixes.values():
        prefix.check_fits(zoo.pretrained)
        assert prefix.model_id is not None


def test_plain_difference_against_a_loop():
    zoo = load_zoo(n_sequences=3)
    parts = pi.decompose_attention(
        pi.run_pair(zoo.pretrained, zoo.prefixes["sort_descending"], zoo.tokens)
    )
    rows = [
        parts.output[0, b, 0, q] - parts.base[0, b, 0, q]
        for b, q in itertools.product(range(3), range(19))
    ]
    expected = torch.linalg.svdvals(torch.stack(rows))
    assert torch.allclose(plain_difference_spectrum(parts), expected)


def test_baseline_pattern_is_that_of_the_masked_run():
    zoo = load_zoo(n_sequences=2)
    pair = pi.run_pair(zoo.pretrained, zoo.prefixes["sort_descending"], zoo.tokens)
    expected = pair.off[pi.Site.PATTERN.at(0)][..., -19:]
    assert torch.equal(baseline_pattern(zoo.pretrained, zoo.tokens), expected)


def test_total_variation_of_disjoint_rows_is_one():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert total_variation(a, b).item() == 1 and total_variation(a, a).item() == 0


def test_table1_rows_count_chosen_rates_only():
    rows = table1_rows(made_up_table1(learned=0.2))
    kinds = [(r["method"], r["parameterization"], r["n_slots"]) for r in rows]
    assert kinds[:2] == [("pretrained", None, None), ("fine-tuned", None, None)]
    assert kinds[2] == ("prefix", "residual", 1)
    kv = next(r for r in rows if r["method"] == "prefix" and r["n_slots"] == 10)
    assert kv[NEW]["exact_match"]["mean"] == pytest.approx(0.2)
    assert kv["lrs"] == [{"lr": 0.1, "seeds": 3}] and kv["paper"] is None
    assert next(r for r in rows if r["method"] == "pretrained")["paper"][OLD] == (91, 5)


def test_sweep_rows_have_every_rate_once():
    rows = sweep_rows(made_up_table1(learned=0.2))
    assert [(r["n_slots"], r["lr"], r["chosen"]) for r in rows] == [
        (1, 0.01, 0), (1, 0.1, 3), (10, 0.01, 0), (10, 0.1, 3),
    ]  # fmt: skip


def test_a_result_that_is_not_shipped_is_none():
    assert shipped_result("no-such-result", "fast") is None
