import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prefix_interp as pi
from analyses.registry import evidence_of
from analyses.study import Job
from analyses.swap.measure import (
    PROTOCOLS,
    RANDOM,
    measure,
    predicted_shares,
    side_by_side,
    with_values_of,
)
from analyses.swap.section import section, swapped_figure, whole_rows
from analyses.swap.tables import tables
from analyses.table2.models import NAME, PREFIXES, variant
from prefix_interp.results import Result
from prefix_interp.tasks import FOUR_SKILLS
from tests.analyses.made_up_table2 import zoo_table2
from tests.helpers import tokens_for, toy

SIZE = replace(PROTOCOLS["smoke"], n_test=40, n_shares=4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return zoo_table2(tmp_path_factory.mktemp("swap"), (0,))[0]


@pytest.fixture(scope="module")
def result(kept):
    found = measure(Job(0, "smoke", SIZE, needs={"table2": kept}))
    return Result("swap", "fast", [0], {}, {name: list(rows) for name, rows in found.items()})


def test_every_pair_is_scored(result):
    json.dumps(result.tables, allow_nan=False)
    swapped = result.rows("swapped")
    assert len(swapped) == 4 * (5 * 5 - 1)
    assert len({(r["keys_of"], r["values_of"]) for r in swapped}) == 24
    mixed = result.rows("mixed")
    assert len(mixed) == 2 * (6 * 2 + 4)
    assert len(result.rows("shares")) == 2 * 6


def test_on_the_diagonal_the_prefix_is_whole(result, kept):
    model = kept.toy(NAME)
    for task in FOUR_SKILLS:
        prefix = kept.context(PREFIXES, variant(task, "kv"))
        own = [
            r for r in result.rows("swapped")
            if (r["keys_of"], r["values_of"], r["task"]) == (task, task, task)
        ]  # fmt: skip
        score = pi.evaluate(model, task, prefix, n=40, seed=0).exact_match
        assert own[0]["evaluation"]["exact_match"]["value"] == score.value > 0.5


def test_shares_follow_from_the_gates_alone(result):
    for row in result.rows("shares"):
        assert row["error"] < 1e-12
        assert row["share_0"] > 0.01 and row["share_1"] > 0.01


@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3))
def test_predicted_shares_are_those_of_one_softmax(scores):
    weights = torch.tensor(scores, dtype=torch.float64).exp()
    first, second, content = weights
    found = predicted_shares(first / content, second / content)
    assert torch.allclose(torch.stack(found), weights[:2] / weights.sum(), rtol=1e-12)


@pytest.mark.parametrize("kind", ["kv", "residual"])
def test_side_by_side_is_one_prefix_with_both_slots(kind):
    model = toy(n_layers=2, n_content=12)
    a, b = (pi.Prefix.random(model, n, seed=n, parameterization=kind) for n in (2, 2))
    b = replace(b, **{name: 2 * x for name, x in b.tensors.items()})
    both = side_by_side(a, b)
    assert both.n_slots == 4
    tokens = tokens_for(model)
    with pi.attach(model, both):
        logits = model(tokens)
    with pi.attach(model, side_by_side(b, a)):  # slots have no order
        assert torch.allclose(model(tokens), logits, atol=1e-10)
    with pi.attach(model, a):
        assert not torch.allclose(model(tokens), logits, atol=1e-4)


def test_values_go_with_other_keys():
    model = toy(n_content=12)
    a, b = (pi.Prefix.random(model, 2, seed=i, parameterization="kv") for i in (0, 1))
    found = with_values_of(a, b)
    assert torch.equal(found.keys, a.keys) and torch.equal(found.values, b.values)


def test_what_does_not_fit_is_refused():
    model = toy(n_content=12)
    kv, residual = (pi.Prefix.random(model, 2, parameterization=k) for k in ("kv", "residual"))
    longer = pi.Prefix.random(model, 3, parameterization="kv")
    for call, says in (
        (lambda: with_values_of(kv, residual), "between kv prefixes alone"),
        (lambda: with_values_of(kv, longer), "of one shape"),
        (lambda: side_by_side(kv, residual), "give two of one kind"),
        (lambda: side_by_side(kv, longer), "of one shape"),
    ):
        with pytest.raises(pi.PrefixInterpError, match=says):
            call()


def test_the_section_and_the_figure(result):
    found = section(evidence_of([result]))
    assert found.id == "swap" and all(found.numbers.values())
    rows = whole_rows(tables(result)["swapped"])
    assert all(RANDOM not in (r["keys_of"], r["values_of"]) for r in rows) and len(rows) == 64
    left, right = swapped_figure(rows).axes
    assert left.get_title() == "task of the values" and right.get_title() == "task of the keys"
    shown = [text.get_text() for text in left.texts]
    mean = next(
        r["exact_match"]["mean"] for r in rows
        if r["keys_of"] == "add_one" and r["values_of"] == r["task"] == "add_two"
    )  # fmt: skip
    i, j = FOUR_SKILLS.index("add_one"), FOUR_SKILLS.index("add_two")
    assert shown[4 * i + j] == f"{100 * mean:.0f}"
