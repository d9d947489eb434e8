"""The experiment and its script."""

import runpy
from pathlib import Path

import joblib
import pytest

import prefix_interp as pi
from prefix_interp.experiments.constructions import PROTOCOLS, constructions

SCRIPT = Path(__file__).parents[2] / "analyses" / "constructions.py"


@pytest.fixture(scope="module")
def table():
    with joblib.parallel_config(backend="sequential"):
        return constructions("smoke", seeds=range(2), progress=False).to_dataframe()


def test_everything_is_right(table):
    right = table[table["part"] == "right"]
    assert (right["exact"] == 1).all() and (right["right"] == right["checked"]).all()
    drawn = sum(2 if check.n else 1 for check in PROTOCOLS["smoke"].right)  # once a seed
    assert len(right) == drawn
    every = right[(right["construction"] == "any_sequence") & right["n"].isna()]
    assert every["behaviours"].tolist() == [27]


def test_the_temperature_cuts(table):
    sharp = table[table["part"] == "sharp"]
    assert (sharp["hardest"] == (sharp["offset"] >= 0)).all()
    assert (sharp.loc[sharp["offset"] >= 0, "exact"] == 1).all()


def test_precision_holds_as_far_as_it_is_said_to(table):
    rows = table[table["part"] == "precision"]
    assert (rows.loc[rows["n_tokens"] <= rows["largest"], "exact"] == 1).all()
    assert (rows.loc[rows["n_tokens"] > rows["largest"], "exact"] < 1).all()


def test_refusals():
    for arguments, words in ((("fats",), "fast"), (("smoke", ()), "number of seeds")):
        with pytest.raises(pi.PrefixInterpError, match=words):
            constructions(*arguments)


def test_the_script_and_the_same_numbers_again(table, tmp_path, capsys):
    script = runpy.run_path(str(SCRIPT), run_name="analysis")
    with joblib.parallel_config(backend="sequential"):
        arguments = ["--preset", "smoke", "--seeds", "1", "--out", str(tmp_path)]
        result = script["main"]([*arguments, "--work", str(tmp_path / "work")])
    again, before = result.to_dataframe(), table[table["seed"] != 1].reset_index(drop=True)
    assert result.name == "constructions" and again.equals(before)
    assert "precision" in capsys.readouterr().out
    assert (tmp_path / "constructions-smoke.png").stat().st_size > 10_000
