import numpy as np
import pytest
import torch

import prefix_interp as pi
from analyses.capacity import STUDY
from analyses.capacity.figure import capacity_figure
from analyses.kept import Kept
from analyses.one_token import length_row
from analyses.registry import STUDIES, evidence_of
from analyses.runs import run_study
from analyses.study import Job
from prefix_interp.models.toy import save_toy, toy_config
from prefix_interp.results import Result
from prefix_interp.theory.capacity import hard_continuations

SIZES = STUDY.protocols["smoke"]


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    """Two toys as the ladder keeps them."""
    kept = Kept(tmp_path_factory.mktemp("ladder"))
    for depth in (1, 2):
        model = pi.build_toy(pi.ToyConfig(n_layers=depth, n_heads=2, d_model=16), seed=40 + depth)
        save_toy(model, kept.toy_folder(f"toy-{depth}"), {})
    return kept


@pytest.fixture(scope="module")
def tables(ladder):
    return STUDY.measure(Job(0, "smoke", SIZES, needs={"ladder": ladder}))


def test_every_kind_of_token_on_every_toy_and_its_untrained_shape(tables):
    about = [(depth, trained) for depth in (1, 2) for trained in (True, False)]
    kinds = ("hard", "random", "searched")
    assert [(r["depth"], r["trained"], r["kind"]) for r in tables["distinct"]] == [
        (*toy, kind) for toy in about for kind in kinds
    ]
    assert [(r["depth"], r["trained"], r["length"]) for r in tables["length"]] == [
        (*toy, length) for toy in about for length in SIZES.lengths
    ]


def test_hard_tokens_are_counted_on_the_kept_toy_and_on_its_initial_weights(tables, ladder):
    kept = ladder.toy("toy-2")
    for model, trained in ((kept, True), (pi.build_toy(toy_config(kept), 0), False)):
        emitted = {tuple(row) for row in hard_continuations(model, SIZES.n_out).tolist()}
        (row,) = [
            r for r in tables["distinct"]
            if (r["depth"], r["trained"], r["kind"]) == (2, trained, "hard")
        ]  # fmt: skip
        assert (row["tried"], row["distinct"]) == (model.cfg.d_vocab, len(emitted))
        assert row["n_out"] == SIZES.n_out


def test_a_target_is_reached_if_all_of_it_is_emitted():
    targets = torch.tensor([[1, 2], [3, 4], [5, 6]])
    row = length_row(targets, torch.tensor([[1, 2], [3, 0], [0, 0]]), torch.tensor([0.0, 1.0, 2.0]))
    assert row == {"length": 2, "tried": 3, "reached": 1, "tokens_right": 0.5, "loss": 1.0}


@pytest.fixture(scope="module")
def made_up():
    """Two seeds; of four targets each, so many are reached at lengths 1, 2 and 4."""
    reached = {(True, 0): (4, 4, 1), (True, 1): (4, 1, 0), (False, 0): (2, 0, 0),
               (False, 1): (1, 0, 0)}  # fmt: skip
    lengths, distinct = [], []
    for (trained, seed), counts in reached.items():
        about = {"seed": seed, "depth": 2, "trained": trained}
        for length, count in zip((1, 2, 4), counts, strict=True):
            lengths.append({**about, "length": length, "tried": 4, "reached": count,
                            "tokens_right": 0.5, "loss": 1.0})  # fmt: skip
        for kind, std, tried, found in (("hard", None, 11, 8), ("random", 0.5, 100, 30),
                                        ("searched", None, 4, 3)):  # fmt: skip
            distinct.append({**about, "kind": kind, "std": std, "n_out": 7, "tried": tried,
                             "distinct": found + seed})  # fmt: skip
    settings = {"protocol": {"n_out": 7}}
    tables = {"distinct": distinct, "length": lengths}
    return Result("capacity", "fast", [0, 1], settings, tables)


def test_summaries_are_those_of_a_plain_count(made_up):
    tables = STUDY.tables(made_up)
    keys = ("trained", "half_mean", "half_min", "half_max", "any")
    assert {tuple(r[key] for key in keys) for r in tables["longest"]} == {
        (True, 1.5, 1, 2, 4), (False, 0.5, 0, 1, 1)
    }  # fmt: skip
    shares = {(r["trained"], r["length"]): r["share"]["mean"] for r in tables["length"]}
    assert shares[True, 2] == (1 + 1 / 4) / 2 and shares[False, 1] == (2 / 4 + 1 / 4) / 2
    counts = {(r["trained"], r["kind"]): r["distinct"]["mean"] for r in tables["distinct"]}
    assert counts[True, "hard"] == 8.5 and counts[False, "searched"] == 3.5


def test_the_figure_draws_the_summaries(made_up):
    left, right = capacity_figure(STUDY.tables(made_up)).axes
    bars = {box.get_label(): box.patches[0].get_height() for box in left.containers}
    assert bars == {
        "hard tokens (11 tried)": 8.5, "random soft tokens, std 0.5 (100 tried)": 30.5,
        "searched soft tokens (4 tried)": 3.5,
    }  # fmt: skip
    lines = {line.get_label(): line for line in right.lines}
    assert list(lines) == ["2 layers", "2 layers, never trained"]
    assert lines["2 layers"].get_xdata().tolist() == [1, 2, 4]
    assert lines["2 layers"].get_ydata() == pytest.approx(np.array([100, 62.5, 12.5]))


def test_section_and_findings_say_what_was_counted(made_up):
    evidence = evidence_of([made_up])
    section = STUDY.section(evidence)
    assert section.title.startswith("One soft token can name 2 random tokens, and 4 of 4 searched")
    assert "The 11 hard tokens, which are all that a user can write, call up 8.5." in section.text
    assert {name: len(rows) for name, rows in section.numbers.items()} == {
        "distinct": 6, "lengths": 6, "longest": 2
    }  # fmt: skip
    assert "2 seeds. Left: different continuations of 7 tokens" in section.figure.caption
    *_, untrained, trained = STUDY.findings["one token"](evidence).splitlines()
    assert trained == "| 2 layers | 8.5 of 11 | 3.5 of 4 | 1.5 tokens | 4 tokens |"
    assert untrained.endswith("| 0.5 tokens | 1 token |")


def test_a_seed_that_the_ladder_has_not_finished_is_one_line(tmp_path):
    with pytest.raises(pi.PrefixInterpError, match="no seed 5 of ladder"):
        run_study(STUDY, "smoke", [5], work=tmp_path, progress=False, studies=STUDIES)
