from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from analyses.constructions import STUDY
from analyses.constructions.measure import Check, check_row, checks_of
from analyses.registry import evidence_of
from analyses.runs import run_study
from prefix_interp.theory.constructions import any_map_of_pairs, any_sequence
from prefix_interp.theory.constructions.behaviours import random_behaviours

SIZES = STUDY.protocols["smoke"]


@pytest.fixture(scope="module")
def result(smoke):
    return smoke("constructions")


@pytest.fixture(scope="module")
def evidence(result):
    return evidence_of([replace(result, preset="fast")])


def test_everything_is_right(result):
    rows = result.rows("right")
    assert [(r["construction"], r["n_tokens"]) for r in rows] == [
        (check.construction, check.n_tokens) for check in SIZES.right
    ]
    assert all(r["exact"] == 1 and r["right"] == r["checked"] > 0 for r in rows)
    every = [r for r in rows if r["construction"] == "any_sequence" and r["n"] is None]
    assert [r["behaviours"] for r in every] == [27]


def test_the_temperature_cuts(result):
    rows = result.rows("sharp")
    assert {r["offset"] for r in rows if r["n"]} == set(SIZES.offsets)
    assert all(r["hardest"] == (r["offset"] >= 0) for r in rows)
    assert all(r["exact"] == 1 for r in rows if r["offset"] >= 0)


def test_precision_holds_as_far_as_it_is_said_to(result):
    rows = result.rows("precision")
    assert {r["dtype"] for r in rows} == {"float64", "float32", "bfloat16", "float16"}
    for row in rows:
        assert (row["exact"] == 1) == (row["n_tokens"] <= row["largest"]), row


def test_a_wrong_output_is_counted():
    right, wrong = (
        check_row("sharp", Check("any_sequence", 4, 3, n=50, offset=offset, seed=1))
        for offset in (0.5, -2.0)
    )
    built = any_sequence(4, 3, temperature=wrong["smallest_temperature"] - 2.0)
    wanted = random_behaviours(built, 50, seed=1)
    hits = [bool((built.run(one[None]) == built.wanted(one[None])).all()) for one in wanted]
    assert 0 < sum(hits) < 50
    assert (wrong["right"], wrong["exact"]) == (sum(hits), sum(hits) / 50)
    assert (right["right"], right["checked"], right["behaviours"]) == (50, 50, 50)


def test_seeds_draw_behaviours_of_their_own_and_nothing_else():
    first, second = (checks_of(SIZES, seed) for seed in (0, 1))
    assert first["precision"] == second["precision"]
    for part in ("right", "sharp"):
        for a, b in zip(first[part], second[part], strict=True):
            assert replace(a, seed=None) == replace(b, seed=None)
            assert (a == b) == (a.n is None)
    built = any_map_of_pairs(4)
    drawn = [random_behaviours(built, 8, seed) for seed in (0, 1)]
    assert not torch.equal(*drawn) and (drawn[0][:, ::2, -1] == 0).all()


def test_what_is_the_same_for_all_seeds_is_shown_once(result):
    def again(row):
        return row if row["seed"] is None else row | {"seed": 1}

    both = {part: [*rows, *map(again, rows)] for part, rows in result.tables.items()}
    shown = STUDY.tables(replace(result, seeds=[0, 1], tables=both))
    for part, rows in STUDY.tables(result).items():
        drawn = [r["seed"] is not None for r in result.rows(part)]
        assert len(shown[part]) == len(rows) + sum(drawn)
    assert not any(r["seed"] for r in result.rows("precision"))


def test_the_section_sums_what_was_counted(result, evidence):
    section = STUDY.section(evidence)
    assert section.numbers["right"][0] == {
        "construction": "Theorem 1: any sequence", "V": 3, "outputs": 3, "virtual tokens": 1,
        "layers": 1, "behaviours": 27, "inputs": 1, "right": 27, "checked": 27,
    }  # fmt: skip
    assert {name: len(rows) for name, rows in section.numbers.items()} == {
        name: len(rows) for name, rows in result.tables.items()
    }
    right, checked = (sum(r[k] for r in section.numbers["right"]) for k in ("right", "checked"))
    assert f"{right:,} of {checked:,} wanted outputs" in section.title
    assert section.claims[0].cells["other"].holds is (right == checked)
    assert section.figure.id == "theorem-1"


def test_the_findings_join_sizes_that_differ_in_nothing_but_the_vocabulary(result):
    pairs = [r for r in result.rows("right") if r["construction"] == "any_map_of_pairs"]
    wider = pairs[0] | {"n_tokens": 7, "right": 1000, "checked": 1001}
    rows = {"right": [*result.rows("right"), wider]}
    given = replace(result, preset="fast", tables={**result.tables, **rows})
    *_, last = STUDY.findings["constructions"](evidence_of([given])).splitlines()
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells[:5] == ["maps of two tokens", "4 to 7", "1", "1", "10 each"]
    assert cells[5] == f"{pairs[0]['right'] + 1000:,} of {pairs[0]['checked'] + 1001:,}"


def test_a_preset_that_it_does_not_have_is_one_line():
    with pytest.raises(pi.PrefixInterpError, match="preset='paper' is unknown"):
        run_study(STUDY, "paper", [0], work=None)
