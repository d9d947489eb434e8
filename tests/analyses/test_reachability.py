from dataclasses import asdict
from importlib import import_module

import numpy as np
import pytest
import torch

import prefix_interp as pi
from analyses.kept import Kept
from analyses.reachability import STUDY
from analyses.reachability.figure import reachability_figure
from analyses.reachability.measure import Protocol
from analyses.reachability.mechanism import frozen_outputs, read_out_rows
from analyses.registry import STUDIES, evidence_of
from analyses.runs import run_study
from analyses.study import Job
from analyses.table1.measure import FINE_TUNED, PRETRAINED
from prefix_interp.models.toy import save_toy
from prefix_interp.results import Result
from prefix_interp.theory.reach_tables import head_rows, table_of_prefix

SIZES = Protocol(
    n_slots=(1, 2), lrs=(0.03,), restricted=("zero",), starts=1, steps=3, restricted_steps=2,
    polish=1, batch_size=16, n_select=300, n_test=64, n_count=500, ranks=(1,), n_rows=3,
)  # fmt: skip
TRAINED = {"MLP alone": ".mlp.", "attention alone": ".attn."}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """One seed with the shipped toys in place of those that Table 1 keeps."""
    table1 = Kept(tmp_path_factory.mktemp("table1"))
    for name in (PRETRAINED, FINE_TUNED):
        save_toy(pi.load_toy(name), table1.toy_folder(name))
    own = Kept(tmp_path_factory.mktemp("own"))
    return Job(0, "smoke", SIZES, needs={"table1": table1}, keeps=own)


@pytest.fixture(scope="module")
def tables(job):
    return STUDY.measure(job)


def test_every_method_is_scored_on_the_same_sequences(tables):
    names = [(row["method"], row["n_slots"]) for row in tables["scores"]]
    frozen = [f"{name}, {what} frozen" for name in ("any length", "longest")
              for what in ("nothing", "gate", "content")]  # fmt: skip
    assert names == [
        ("content-blind rule", None), ("pretrained", None), ("fine-tuning", None),
        ("MLP alone", None), ("attention alone", None), ("kv prefix", 1), ("kv prefix", 2),
        ("any length", None), ("built from the table", None), ("table, zero value", None),
        *((name, None) for name in frozen),
    ]  # fmt: skip
    assert {row["test_seed"] for row in tables["scores"]} == {0}
    for row in tables["scores"]:
        assert len(row["by_output"]) == 10 and row["evaluation"]["n"] == 64
    tuned = pi.evaluate(pi.load_toy(FINE_TUNED), "sort_descending", n=64, seed=0)
    (own,) = [row for row in tables["scores"] if row["method"] == "fine-tuning"]
    assert own["evaluation"]["exact_match"] == tuned.exact_match.to_dict()
    loss = {row["method"]: row["evaluation"]["loss"]["value"] for row in tables["scores"]}
    assert loss["any length, nothing frozen"] == pytest.approx(loss["any length"])


def test_only_the_named_weights_are_trained(job):
    from analyses.reachability.measure import _Seed

    before = dict(pi.load_toy(PRETRAINED).named_parameters())
    for name, part in TRAINED.items():
        after = dict(_Seed(job)._trained(name).named_parameters())
        moved = {weight for weight in before if not torch.equal(before[weight], after[weight])}
        assert moved and all(part in weight for weight in moved)


def test_the_finished_parts_of_a_killed_run_are_not_done_again(job, tables, monkeypatch):
    measure = import_module(STUDY.measure.__module__)

    def fail(*args, **kwargs):
        raise AssertionError("done again")

    for name in ("score_rows", "reach_distance", "unreachable", "read_out_rows"):
        monkeypatch.setattr(measure, name, fail)
    assert STUDY.measure(job) == tables


def test_other_tables_say_what_was_searched_built_and_left(tables):
    runs = {row["run"] for row in tables["search"]}
    assert runs == {"noise 0", "prefix 0", "prefix 1"}
    losses = {row["start"]: row["loss"] for row in tables["starts"]}
    assert [*losses][-1] == "polished" and losses["polished"] == min(losses.values())
    (built,) = tables["construction"]
    assert built["built"] and built["alone"] == 1 and built["mass_error"] < 1e-3
    assert [row["output"] for row in tables["read_out"]] == list(range(1, 11))
    assert {row["method"] for row in tables["distance"]} == {"fine-tuning", "attention alone"}
    assert all(0 < row["share"] < 1 for row in tables["floor"])


def test_counts_are_read_off_as_by_numpy():
    model, task = pi.load_toy(PRETRAINED), pi.get_task("sort_descending")
    rows = read_out_rows(model, task, 400, 0)
    found = []
    for split in ("train", "test"):
        batch = task.sample(400, split, 0)
        x = head_rows(model, batch).base[:, 4, 0].detach().double().numpy()
        x = np.concatenate([x, np.ones((400, 1))], axis=1)
        y = np.stack([(batch.tokens[:, :10].numpy() == d).sum(1) for d in range(8)], axis=1)
        found.append((x, y))
    (x, y), (x_test, y_test) = found
    errors = y_test - x_test @ np.linalg.lstsq(x, y, rcond=None)[0]
    r2 = 1 - (errors**2).sum(0) / ((y_test - y_test.mean(0)) ** 2).sum(0)
    assert rows[4]["r2"] == pytest.approx(r2.mean(), abs=1e-6)
    assert rows[4]["r2_min"] == pytest.approx(r2.min(), abs=1e-6)


def test_what_is_frozen_is_the_same_for_all_rows_of_a_cell():
    model, task = pi.load_toy(PRETRAINED), pi.get_task("sort_descending")
    table = table_of_prefix(model, pi.Prefix.random(model, 3, 0, "kv"))
    rows = head_rows(model, task.sample(200, "train", 1))
    gate, (_, value) = table.gate(rows)[..., None], table.read(rows.cell)
    held = frozen_outputs(model, task, table, "content", 200, 1)(rows)
    base = (held - gate * value) / (1 - gate)  # of the content: its mean in the cell
    free = frozen_outputs(model, task, table, "gate", 200, 1)(rows)
    own = rows.cell[:, 3] == rows.cell[:, 3].mode().values
    mean = rows.base[own, 3].mean(0)
    assert torch.allclose(base[own, 3], mean.expand(int(own.sum()), -1, -1), atol=1e-3)
    share = gate[own, 3].mean(0)
    expected = (1 - share) * rows.base[own, 3] + share * value[own, 3]
    assert torch.allclose(free[own, 3], expected, atol=1e-4)


@pytest.fixture(scope="module")
def made_up(tables):
    """The smoke run as if of two seeds, with scores that are easy to check."""
    own = {name: [{**row, "seed": seed} for seed in (0, 1) for row in rows]
           for name, rows in tables.items()}  # fmt: skip
    share = {"any length": 0.3, "MLP alone": 0.8, "attention alone": 0.4, "fine-tuning": 0.9}
    for row in own["scores"]:
        value = share.get(row["method"], 0.1) + 0.02 * row["seed"]
        row["evaluation"] = row["evaluation"] | {"exact_match": {"value": value}}
    settings = {"protocol": asdict(SIZES)}
    return Result("reachability", "fast", [0, 1], settings, own)


def test_summaries_are_means_over_seeds(made_up):
    found = STUDY.tables(made_up)
    mean = {(r["method"], r["n_slots"]): r["exact_match"]["mean"] for r in found["scores"]}
    assert mean["any length", None] == pytest.approx(0.31)
    assert mean["kv prefix", 2] == pytest.approx(0.11)
    assert {row["step"] for row in found["search"]} == {3}
    (built,) = found["construction"]
    assert (built["seeds"], built["built"]) == (2, 2)


def test_section_figure_and_findings_say_what_was_found(made_up):
    evidence = evidence_of([made_up])
    section = STUDY.section(evidence)
    assert section.title == (
        "No prefix of any length was found to sort more than 31.0 % of sequences descending in one "
        "layer; the MLP alone, retrained, sorts 81.0 %"
    )
    assert "no proof" in section.text and "could be made for 2 of 2 seeds" in section.text
    assert all(section.numbers.values())
    left, right = reachability_figure(STUDY.tables(made_up)).axes
    assert left.lines[0].get_xdata().tolist() == [1, 2]
    assert left.lines[0].get_ydata() == pytest.approx([11.0, 11.0])
    assert left.lines[1].get_ydata()[0] == pytest.approx(31.0)
    assert len(right.lines) == 6
    lines = STUDY.findings["reachability"](evidence).splitlines()
    assert any(line.startswith("| any length | 31.0 ± 1.4 |") for line in lines)


def test_a_seed_that_table_1_has_not_finished_is_one_line(tmp_path):
    with pytest.raises(pi.PrefixInterpError, match="no seed 5 of table1"):
        run_study(STUDY, "smoke", [5], work=tmp_path, progress=False, studies=STUDIES)
