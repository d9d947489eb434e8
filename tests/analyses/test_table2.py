import json
from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.experiments import table2 as module
from prefix_interp.experiments.table2 import MODEL, NAME, PROTOCOLS, Trial, export_zoo, table2_seed
from prefix_interp.experiments.table2_summary import diagonal_rows, restart_rows, table2_rows
from prefix_interp.results import Result, committed_result
from prefix_interp.storage import read_json
from prefix_interp.tasks import FOUR_SKILLS

TINY = replace(
    PROTOCOLS["smoke"], pretrain_steps=4, prefix_steps=2, n_test=40,
    trials=(Trial("residual", 0.1, 2, (1e-2, 1e-1)), Trial("kv", 0.1, 1, (1e-2,))),
)  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("table2")


@pytest.fixture(scope="module")
def tiny(work):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MODEL", replace(MODEL, d_model=16, n_heads=2))
        patch.setitem(PROTOCOLS, "smoke", TINY)
        yield table2_seed(0, "smoke", str(work))


def _result(records):
    return Result("table2", "smoke", [0], {}, records)


def test_every_row_says_what_it_is(tiny):
    rows = tiny["records"]
    # Without prefix; per skill and trial: chosen runs and two controls on all tasks, others on one.
    assert len(rows) == 4 + 4 * ((4 + 3 + 8) + (4 + 0 + 8))
    assert {r["method"] for r in rows} == {
        "pretrained", "prefix", "random prefix", "norm-matched prefix",
    }  # fmt: skip
    for row in rows:
        assert (row["tuned_on"] is None) == (row["parameterization"] is None)
        assert row["baseline"] == ("masked" if row["tuned_on"] is None else "prefix")
    json.dumps(rows, allow_nan=False)


def test_the_chosen_start_has_the_lowest_training_loss(tiny):
    for task in FOUR_SKILLS:
        own = [
            r for r in tiny["records"]
            if r["method"] == "prefix" and r["tuned_on"] == task and r["task"] == task
            and r["parameterization"] == "residual"
        ]  # fmt: skip
        assert {(r["start"], r["lr"]) for r in own} == {(s, x) for s in (0, 1) for x in (0.01, 0.1)}
        (chosen,) = [r for r in own if r["chosen"]]
        assert chosen["train_loss"] == min(r["train_loss"] for r in own)


def test_starts_differ_and_all_are_kept(tiny, work):
    folder = work / "seed-0" / "starts"
    a, b = (pi.Prefix.load(folder / f"add_one-residual-std-0.1-start-{i}") for i in (0, 1))
    assert (a.vectors - b.vectors).abs().max() > 0.05
    assert (a.metadata["start"], b.metadata["start"]) == (0, 1)


def test_the_zoo_takes_the_model_and_its_prefixes(tiny, work, tmp_path):
    export_zoo(work, tmp_path)
    model, found = pi.load_toy(tmp_path / NAME), pi.load_prefixes(tmp_path / NAME)
    assert set(found) == {*FOUR_SKILLS, *(f"{t}-kv-1" for t in FOUR_SKILLS)}
    for prefix in found.values():
        prefix.check_fits(model)


def test_a_finished_seed_is_taken_and_another_protocol_is_not(tiny, work, monkeypatch):
    file = work / "seed-0" / "records.json"
    monkeypatch.setattr(module, "MODEL", replace(MODEL, d_model=16, n_heads=2))
    monkeypatch.setitem(PROTOCOLS, "smoke", TINY)
    before = file.read_bytes()
    assert table2_seed(0, "smoke", str(work)) == tiny | {"from_work": True}
    assert file.read_bytes() == before
    monkeypatch.setitem(PROTOCOLS, "smoke", replace(TINY, n_test=20))
    again = table2_seed(0, "smoke", str(work))
    assert again["records"][0]["evaluation"]["n"] == 20 and again != tiny
    assert read_json(file)["key"]["protocol"]["n_test"] == 20


def test_rows_summarise_what_was_chosen(tiny):
    records = tiny["records"] + [
        {**r, "seed": 1, "evaluation": {**r["evaluation"], "exact_match": {"value": 1.0}}}
        for r in tiny["records"]
    ]
    rows = table2_rows(_result(records))
    plain = [r for r in rows if r["method"] == "pretrained"]
    assert len(plain) == 1 and plain[0]["paper"]["add_two"] == (22, 7)
    own = next(r for r in rows if r["method"] == "prefix" and r["tuned_on"] == "add_one")
    first = [
        r["evaluation"]["exact_match"]["value"] for r in tiny["records"]
        if r["method"] == "prefix" and r["tuned_on"] == "add_one" and r["chosen"]
        and r["parameterization"] == "residual" and r["task"] == "add_two"
    ]  # fmt: skip
    assert own["add_two"]["exact_match"]["mean"] == pytest.approx((first[0] + 1) / 2)
    assert own["n_seeds"] == 2 and own["paper"]["add_one"] == (95, 6)
    (kv,) = [r for r in diagonal_rows(rows)
             if r["method"] == "prefix" and r["parameterization"] == "kv"]  # fmt: skip
    assert kv["other"] >= 0.5 and set(kv["own"]) == set(FOUR_SKILLS)
    starts = [r for r in restart_rows(_result(records)) if r["parameterization"] == "residual"]
    assert [r["runs"] for r in starts] == [8] * 4
    assert all(r["found"] == 4 and r["seeds_found"] == 1 for r in starts)


def test_restarts_are_other_starts_of_the_same_seed():
    model = pi.build_toy(replace(MODEL, d_model=16, n_heads=2))
    options = {"preset": "smoke", "steps": 1, "init_std": 0.5, "progress": False}
    fits = pi.sweep_prefixes(model, "add_one", 1, [1e-6], restarts=3, **options)
    starts = torch.stack([f.prefix.vectors for f in fits])
    assert [f.start for f in fits] == [0, 1, 2]
    assert starts.std().item() == pytest.approx(0.5, rel=0.3)
    assert (starts[1:] - starts[0]).abs().amax(dim=(1, 2, 3)).min() > 0.1
    alone = pi.tune_prefix(model, "add_one", lr=1e-6, **options)
    assert torch.equal(alone.prefix.vectors, fits[0].prefix.vectors)
    with pytest.raises(PrefixInterpError, match="restarts=0"):
        pi.sweep_prefixes(model, "add_one", 1, [1e-3], restarts=0, **options)
    with pytest.raises(PrefixInterpError, match="init_std=0"):
        pi.sweep_prefixes(model, "add_one", 1, [1e-3], **(options | {"init_std": 0.0}))


def test_the_committed_table_reaches_the_paper():
    result = committed_result("table2", "fast")
    assert len(result.seeds) == 10
    for row in diagonal_rows(table2_rows(result)):
        if row["method"] == "prefix" and row["init_std"] == 0.1:
            for task, asked in zip(FOUR_SKILLS, (0.95, 0.90, 0.95, 0.98), strict=True):
                assert row["own"][task] >= asked, (row["parameterization"], task)
            assert row["other"] <= 0.015
