"""Each script in analyses/ runs from its command line with the smallest preset."""

import runpy
from pathlib import Path

import joblib
import pytest

import prefix_interp as pi
from prefix_interp.experiments import heads, ladder, table2
from prefix_interp.experiments.heads import Protocol
from prefix_interp.results import Result
from prefix_interp.tasks import list_tasks
from tests.experiments.made_up_table2 import zoo_table2
from tests.experiments.test_ladder import SMALL
from tests.experiments.test_table2 import TINY
from tests.models.test_llama import llama

FOLDER = Path(__file__).parent.parent / "analyses"


def _run(name, *arguments):
    script = runpy.run_path(str(FOLDER / f"{name}.py"), run_name="analysis")
    # In this process, where the sizes are set smaller.
    with joblib.parallel_config(backend="sequential"):
        return script["main"]([str(x) for x in arguments])


def test_table1(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--seeds", "1", "--out", tmp_path]
    result = _run("table1_new_attention", *arguments, "--work", tmp_path / "work")
    assert isinstance(result, Result) and result.preset == "smoke"
    assert (tmp_path / "table1-smoke.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "pretrained" in printed and "norm-matched prefix" in printed


def test_table2(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(table2.PROTOCOLS, "smoke", TINY)
    monkeypatch.setattr(table2, "MODEL", pi.ToyConfig(n_heads=2, d_model=16, skip_ln1=True))
    arguments = ["--preset", "smoke", "--seeds", "1", "--out", tmp_path]
    result = _run("table2_elicit_skills", *arguments, "--work", tmp_path / "work")
    assert result.name == "table2" and (tmp_path / "table2-smoke.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "norm-matched prefix" in printed and "of 4 runs found it" in printed


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return zoo_table2(tmp_path_factory.mktemp("models"), seeds=(0,))


@pytest.mark.parametrize(
    ("script", "name", "pictures"),
    [
        ("elicited_heads", "heads", ["", "-copying"]),
        ("bias_subspaces", "subspaces", ["-removal", "-angles"]),
        ("long_prefixes", "long-prefixes", [""]),
    ],
)
def test_what_is_measured_on_table2(script, name, pictures, models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(heads.PROTOCOLS, "smoke", Protocol(n=4, n_random=2, n_random_circuits=2))
    arguments = ["--preset", "smoke", "--seeds", "1", "--out", tmp_path, "--table2-work", models]
    result = _run(script, *arguments, "--work", tmp_path / "work")
    assert result.name == name and list(result.seeds) == [0]
    for end in pictures:
        assert (tmp_path / f"{name}-smoke{end}.png").stat().st_size > 10_000
    assert "residual" in capsys.readouterr().out


def test_ladder_and_capacity(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ladder.PROTOCOLS, "smoke", SMALL)
    arguments = ["--preset", "smoke", "--seeds", "1", "--out", tmp_path]
    result = _run("ladder_of_contexts", *arguments, "--work", tmp_path / "ladder")
    assert result.name == "ladder" and "soft suffix" in capsys.readouterr().out
    more = ["--work", tmp_path / "capacity", "--ladder-work", tmp_path / "ladder"]
    result = _run("capacity", *arguments, *more)
    assert result.name == "capacity" and "searched" in capsys.readouterr().out
    for picture in ("ladder-smoke", "ladder-smoke-suffixes", "capacity-smoke"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000


def test_circuits(tmp_path, capsys):
    found = _run("circuits", "--n", 4, "--threshold", 0.8, "--out", tmp_path)
    assert list(found) == list(list_tasks())[:4]
    for task, circuit in found.items():
        again = pi.Circuit.load(tmp_path / f"{task}.json")
        assert again.nodes == circuit.nodes
        assert (tmp_path / f"{task}.dot").read_text().startswith("digraph")
        assert (tmp_path / f"{task}.svg").read_text().startswith("<svg")
    assert "held out" in capsys.readouterr().out


def test_scripts_stay_short_and_say_how_to_run_them():
    for file in FOLDER.glob("*.py"):
        text = file.read_text()
        assert 30 <= len(text.splitlines()) <= 120 and f"python analyses/{file.name}" in text


def test_capacity_of_a_language_model(tmp_path, capsys):
    llama().float().save_pretrained(tmp_path / "model")
    arguments = ["--model", tmp_path / "model", "--name", "tiny", "--preset", "smoke"]
    arguments += ["--out", tmp_path, "--work", tmp_path / "work", "--quiet"]
    with pytest.raises(pi.PrefixInterpError, match="n_ctx=256"):
        _run("capacity_of_a_language_model", *arguments)
    llama(max_position_embeddings=256).float().save_pretrained(tmp_path / "model")
    result = _run("capacity_of_a_language_model", *arguments)
    assert result.settings["model"] == "tiny" and result.settings["d_vocab"] == 31
    assert Result.load(tmp_path / "language-model-smoke.json").records == result.records
    assert "searched" in capsys.readouterr().out
