import itertools
import math

import pytest
import torch

import prefix_interp as pi
from analyses.claims.claim import FAILS, HOLDS, MEASURED, claim_record
from analyses.claims.measure import plain_difference_spectrum, total_variation
from analyses.claims.section import (
    _STATEMENTS,
    claim_rows,
    measurements,
    provenance,
    section,
)
from analyses.claims.zoo import load_zoo, zoo_runs
from analyses.registry import evidence_of
from analyses.report.sections import Cell
from tests.analyses.made_up import made_up_table1

ABOUT = {
    "subject": "x", "parameterization": "kv", "n_slots": 1, "level": "head 0", "layer": 0,
    "baseline": "masked",
}  # fmt: skip


@pytest.fixture(scope="session")
def evidence():
    """The claims with a Table 1 in which a prefix learns."""
    return evidence_of([made_up_table1(learned=0.2)])


@pytest.fixture(scope="session")
def claims(evidence):
    return evidence.tables("claims")["claims"]


@pytest.fixture(scope="session")
def zoo(evidence):
    return evidence.once(load_zoo)


def test_the_theory_holds_on_every_shipped_prefix(claims):
    theory = [r for r in claims if not r["claim"].startswith("no-prefix")]
    assert {r["verdict"] for r in theory} == {HOLDS, MEASURED}
    for claim in ("eq6", "eq7", "relative-attention", "plain-difference", "injections"):
        assert sum(r["claim"] == claim for r in theory) == 4, claim
    assert {r["level"] for r in theory if r["claim"] == "bias-rank"} == {"head 0", "layer"}


def test_every_record_says_what_it_is_about(claims):
    for record in claims:
        for key in ("statement", "formula", "quantity", "subject", "level", "baseline", "verdict"):
            assert record[key], (record["claim"], key)
        assert math.isfinite(record["value"])
        assert "layer" in record
        assert (record["verdict"] == MEASURED) == (record["tolerance"] is None)


def test_fine_tuning_moves_attention_by_far_more_than_a_prefix(claims):
    value = {r["claim"]: r["value"] for r in claims}
    assert value["fine-tuning-attention"] > 0.1
    assert value["relative-attention"] < 1e-12


@pytest.mark.slow
def test_same_seed_same_records(claims):
    again = evidence_of([made_up_table1(learned=0.2)])
    assert again.tables("claims")["claims"] == claims


def test_a_prefix_that_learns_is_called_a_failure_of_the_claim(claims):
    records = [r for r in claims if "no-prefix" in r["claim"]]
    found = {(r["parameterization"], r["n_slots"], r["verdict"]) for r in records}
    assert found == {("residual", 1, HOLDS), ("kv", 10, FAILS)}
    mean = next(r for r in records if r["claim"] == "no-prefix-learns" and r["n_slots"] == 10)
    assert mean["value"] == pytest.approx(0.2) and "Finding" in mean["note"]


def test_a_verdict_compares_the_value_with_the_tolerance():
    def verdict(value, *line):
        return claim_record(ABOUT, "c", "s", "f", "q", value, *line)["verdict"]

    assert verdict(0.1, "at most", 0.1) == HOLDS and verdict(0.2, "at most", 0.1) == FAILS
    assert verdict(0.2, "above", 0.1) == HOLDS and verdict(0.1, "above", 0.1) == FAILS
    assert verdict(0.1) == MEASURED


def test_prefixes_still_fit_after_conversion_to_float64(zoo):
    assert zoo.tokens.shape == (256, 19)
    for prefix in zoo.prefixes.values():
        prefix.check_fits(zoo.pretrained)
        assert prefix.model_id is not None


def test_plain_difference_against_a_loop(zoo):
    pair = pi.run_pair(zoo.pretrained, zoo.prefixes["sort_descending"], zoo.tokens[:3])
    parts = pi.decompose_attention(pair)
    rows = [
        parts.output[0, b, 0, q] - parts.base[0, b, 0, q]
        for b, q in itertools.product(range(3), range(19))
    ]
    expected = torch.linalg.svdvals(torch.stack(rows))
    assert torch.allclose(plain_difference_spectrum(parts), expected)


def test_runs_are_of_the_zoo_and_made_once(evidence, zoo):
    runs = evidence.once(zoo_runs)
    assert list(runs) == list(zoo.prefixes) and evidence.once(zoo_runs) is runs
    for name, (pair, parts) in runs.items():
        assert pair.prefix is zoo.prefixes[name] and pair.model is zoo.pretrained
        assert parts.max_errors().keys()


def test_total_variation_of_disjoint_rows_is_one():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert total_variation(a, b).item() == 1 and total_variation(a, a).item() == 0


def test_the_table_has_the_worst_case_of_each_claim_by_kind_of_prefix():
    about = ABOUT | {"n_slots": 10}
    rows = [
        claim_record(ABOUT, "gate-max", "How much?", "g", "largest gate", 0.99999),
        claim_record(about, "eq6", "Nothing else.", "A", "largest", 2e-16, "at most", 1e-10),
        claim_record(about, "eq6", "Nothing else.", "A", "largest", 3e-16, "at most", 1e-10),
        claim_record(ABOUT | {"level": "model", "layer": None}, "no-prefix-learns", "None.", "e",
                     "mean", 0.5, "at most", 0.0, low=0.25, high=0.75),
    ]  # fmt: skip
    exact, learned = claim_rows(rows)
    assert exact.cells == {"kv, 10 slots": Cell("3.0\u00a0×\u00a010⁻¹⁶", True)}
    assert (exact.threshold, exact.section) == ("≤ 10⁻¹⁰", "attention")
    (cell,) = learned.cells.values()
    assert cell == Cell("50.0 %", False) and learned.section == "table1"
    table = measurements(rows)
    assert table.rows[0][3] == "1 − 1.0\u00a0×\u00a010⁻⁵" and table.rows[3][2] == "whole model"


def test_the_section_has_every_claim_and_where_it_comes_from(evidence, claims, zoo):
    own = section(evidence)
    judged = [r for r in claims if r["tolerance"] is not None]
    held = sum(r["verdict"] == "holds" for r in judged)
    assert own.title == f"{held} of {len(judged)} measurements of the claims hold"
    assert "kv, 10 slots, 3 seeds" in own.text and held < len(judged)
    assert {claim for claim in (r["claim"] for r in judged)} <= set(_STATEMENTS)
    all_rows, versions, settings, recipes = (part.table for part in own.folded)
    assert len(all_rows.rows) == len(claims) == len(own.numbers["claims"])
    assert dict(versions.rows)["torch"] == torch.__version__
    assert dict(settings.rows)["prefixes"] == ", ".join(zoo.prefixes)
    assert len(recipes.rows) == 2 + len(zoo.prefixes)
    assert provenance(evidence, evidence.result("claims"))["Settings"] == settings
