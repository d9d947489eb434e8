import torch

import prefix_interp as pi
from analyses.scores import score_rows, shares


def test_rows_say_what_the_context_is_and_what_evaluate_finds():
    model = pi.build_toy(pi.ToyConfig(n_layers=1, n_heads=1, d_model=8), seed=0)
    prefix = pi.Prefix.random(model, 2, seed=0, parameterization="kv")
    rows = score_rows(
        {"seed": 3}, model, ("add_one", "sort_ascending"), prefix, baseline="masked", n=50,
        train_loss=0.5, by_output=True,
    )  # fmt: skip
    assert [row["task"] for row in rows] == ["add_one", "sort_ascending"]
    for row in rows:
        assert (row["seed"], row["parameterization"], row["n_slots"]) == (3, "kv", 2)
        assert row["baseline"] == "prefix" and row["train_loss"] == 0.5
        score = pi.evaluate(model, row["task"], prefix, n=50, seed=3)  # inputs of the row's seed
        assert row["test_seed"] == 3
        assert row["evaluation"] == score.to_dict() and len(row["by_output"]) == 10
    (alone,) = score_rows({}, model, ["add_one"], baseline="unshifted", n=50)
    assert alone["baseline"] == "unshifted" and alone["n_slots"] is None
    assert (
        alone["evaluation"] == pi.evaluate(model, "add_one", n=50, baseline="unshifted").to_dict()
    )
    assert "by_output" not in alone


def test_what_a_study_says_of_its_rows_comes_first():
    model = pi.build_toy(pi.ToyConfig(n_layers=1, n_heads=1, d_model=8), seed=0)
    (row,) = score_rows({"n_slots": 0}, model, ["add_one"], baseline="masked", n=5)
    assert row["n_slots"] == 0 and next(iter(row)) == "n_slots"
    soft = pi.SoftPrompt.random(model, 3, seed=0)
    (row,) = score_rows({"seed": 1}, model, ["add_one"], soft, baseline="masked", n=5)
    assert (row["n_slots"], row["position"], row["layers"]) == (3, 0, "embedding")


def test_shares_are_over_sequences():
    right = torch.tensor([[True, False], [True, True], [True, False]])
    assert shares(right) == [1.0, 0.333333]
