import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import pytest

import prefix_interp as pi
from analyses import command, registry
from analyses.__main__ import main
from analyses.study import ModelOption
from prefix_interp.models.toy import save_toy
from prefix_interp.results import Result
from tests.analyses.tiny import CONFIG, MEASURED, SOURCE, USER
from tests.structure import ROOT


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "STUDIES", (USER, SOURCE))
    MEASURED.clear()
    with joblib.parallel_config(backend="sequential"):
        yield tmp_path


def run(*arguments):
    return main([*("--jobs", "1"), *map(str, arguments), "--quiet"])


def test_one_study_is_run_saved_and_exported(here, capsys):
    assert run("source", "--preset", "smoke", "--seed", 4, "--seeds", 1, "--zoo", "zoo") == 0
    assert capsys.readouterr().out.splitlines() == ["results/source-smoke.json.gz", "zoo/toy"]
    result = Result.load("results/source-smoke.json.gz")
    assert result.seeds == [4] and (here / "zoo" / "toy" / "model.json").exists()
    assert MEASURED == [("source", 4)] and (here / "work" / "source-smoke" / "seed-4").is_dir()


def test_all_runs_what_others_need_first_and_exports_where_there_is_a_zoo(here):
    assert run("all", "--preset", "smoke", "--zoo", "zoo", "--out", "out") == 0
    assert MEASURED == [("source", 0), ("source", 1), ("user", 0), ("user", 1)]
    assert sorted(p.name for p in (here / "out").iterdir()) == [
        "source-smoke.json.gz", "user-smoke.json.gz",
    ]  # fmt: skip
    assert (here / "zoo" / "toy").is_dir()
    assert run("all", "--preset", "smoke", "--out", "out") == 0 and len(MEASURED) == 4


def test_figures_are_written_beside_the_result(here, monkeypatch):
    class Figure:
        def savefig(self, file, dpi, format):
            file.write(b"drawn")

    drawn = replace(SOURCE, figures=lambda result: {"": Figure(), "-more": Figure()})
    monkeypatch.setattr(registry, "STUDIES", (drawn,))
    assert run("source", "--preset", "smoke") == 0
    assert sorted(p.name for p in (here / "results").iterdir()) == [
        "source-smoke-more.png", "source-smoke.json.gz", "source-smoke.png",
    ]  # fmt: skip


def test_a_result_never_stands_beside_figures_of_another(here, monkeypatch):
    class Figure:
        def __init__(self, seeds):
            self.seeds = seeds

        def savefig(self, file, dpi, format):
            file.write(str(self.seeds).encode())

    drawn = replace(SOURCE, figures=lambda result: {"": Figure(result.seeds)})
    monkeypatch.setattr(registry, "STUDIES", (drawn,))
    for seed in (1, 2):
        assert run("source", "--preset", "smoke", "--seed", seed, "--seeds", 1, "--overwrite") == 0
    before = {p.name: p.read_bytes() for p in (here / "results").iterdir()}
    real, moved = Path.replace, []

    def killed_after_the_first(path, target):
        if Path(target).parent.name == "results" and moved.append(target) is None and moved[1:]:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", killed_after_the_first)
    assert run("source", "--preset", "smoke", "--seed", 3, "--seeds", 1, "--overwrite") == 130
    assert Result.load(here / "results" / "source-smoke.json.gz").seeds == [3]
    assert [p.name for p in (here / "results").iterdir()] == ["source-smoke.json.gz"]
    assert before["source-smoke.png"] == b"[2]"


def test_the_report_goes_where_it_is_told(here, monkeypatch, capsys):
    seen = {}

    def write_report(out, **options):
        seen.update(options, out=out)
        return out / "report.html"

    monkeypatch.setattr("analyses.report.page.write_report", write_report)
    assert run("report", "--seed", 3) == 0
    assert str(seen.pop("out")) == "report" and capsys.readouterr().out == "report/report.html\n"
    assert seen == {"seed": 3, "device": "cpu", "progress": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sourse"], "did you mean 'source'"),
        (["source", "--preset", "paper"], "preset='paper'"),
        (["source", "--seeds", "0"], "seeds=0"),
        (["source", "--seeds", "-1"], "seeds=-1 must be a whole number of at least 1"),
        (["source", "--jobs", "0"], "jobs=0"),
        (["source", "--device", "abacus"], "device='abacus'"),
        (["user", "--zoo", "zoo"], "--zoo with name='user'"),
        (["user", "--preset", "smoke"], "analyses source --preset smoke"),
        (["source", "--out", "file/x"], "cannot be written"),
        (["source", "--out", "/proc/x"], "'/proc' is not writable"),
        (["source", "--work", "/proc/x"], "'/proc' is not writable"),
        (["all", "--preset", "smoke", "--zoo", "/proc/x"], "'/proc' is not writable"),
        (["report", "--out", "/proc/x"], "'/proc' is not writable"),
        (["all", "--preset", "smoke", "--out", "taken"], "is a folder; name a file in it"),
    ],
)
def test_bad_input_is_one_line_and_code_2_before_any_work(here, capsys, arguments, words):
    (here / "file").write_text("in the way")
    (here / "taken" / "user-smoke.json.gz").mkdir(parents=True)
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("analyses: ") and words in said and said.count("\n") == 1
    assert MEASURED == [] and not (here / "results").exists()


def test_an_unknown_option_is_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as left:
        main(["source", "--sedes", "1"])
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_an_interruption_is_one_line_and_code_130(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_study", stop)
    assert run("source") == 130 and "resumes" in capsys.readouterr().err


def test_an_interruption_says_what_is_true_of_the_command(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("analyses.report.page.write_report", stop)
    assert run("report") == 130
    assert capsys.readouterr().err == "analyses: interrupted; nothing was written\n"


def test_an_interruption_while_torch_is_imported_is_one_line(tmp_path):
    """As a user meets it: most of the first seconds are imports."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    paths = f"{tmp_path}{os.pathsep}{ROOT}"
    for argv in (
        ["analyses", "source"],
        ["prefix_interp.cli", "tune", "--model", "x", "--task", "y", "--out", str(tmp_path / "o")],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *argv], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 130 and done.stderr.count("\n") == 1, done.stderr
        assert "interrupted" in done.stderr


def test_another_runs_files_stay_unless_they_may_be_replaced(here, capsys):
    argv = ["source", "--preset", "smoke", "--zoo", "zoo"]
    assert run(*argv) == 0 and run(*argv, "--overwrite") == 0
    capsys.readouterr()
    file = here / "results" / "source-smoke.json.gz"
    before = file.read_bytes()
    for other, named in {
        ("--seeds", 1): "seeds: [0, 1] there, [0] here",
        ("--seed", 5): "seeds: [0, 1] there, [5, 6] here",
    }.items():
        MEASURED.clear()
        assert run("source", "--preset", "smoke", *other) == 2
        said = capsys.readouterr().err
        assert named in said and "--overwrite" in said and said.count("\n") == 1
        assert MEASURED == [] and file.read_bytes() == before
    assert run("all", "--preset", "smoke", "--seeds", 1, "--seed", 9) == 2 and MEASURED == []
    assert run("source", "--preset", "smoke", "--seeds", 1, "--overwrite") == 0
    assert Result.load(file).seeds == [0]


def test_a_result_of_other_settings_or_versions_is_another_runs(here, capsys):
    assert run("source", "--preset", "smoke") == 0
    file = here / "results" / "source-smoke.json.gz"
    own = Result.load(file)
    for named, change in {
        "settings.about": {"settings": {**own.settings, "about": "older"}},
        "versions.torch": {"versions": {**own.versions, "torch": "1.0"}},
    }.items():
        replace(own, **change).save(file)
        assert run("source", "--preset", "smoke") == 2 and named in capsys.readouterr().err
    file.write_bytes(b"mine")
    assert run("source", "--preset", "smoke") == 2
    assert "no result of this command" in capsys.readouterr().err and file.read_bytes() == b"mine"


def test_a_zoo_of_another_preset_or_seed_stays(here, capsys):
    save_toy(pi.build_toy(CONFIG), here / "zoo" / "toy", {"preset": "paper", "seed": 0})
    before = (here / "zoo" / "toy" / "model.safetensors").read_bytes()
    argv = ["source", "--preset", "smoke", "--zoo", "zoo"]
    assert run(*argv) == 2 and MEASURED == []
    said = capsys.readouterr().err
    assert "zoo='zoo/toy' holds another run (preset: " in said and "--zoo" in said
    assert (here / "zoo" / "toy" / "model.safetensors").read_bytes() == before
    save_toy(pi.build_toy(CONFIG), here / "zoo" / "toy", {"preset": "smoke", "seed": 0})
    assert run(*argv) == 0


def test_a_report_of_another_seed_and_a_page_that_is_none_stay(here, monkeypatch, capsys):
    monkeypatch.setattr("analyses.report.page.write_report", lambda out, **_: out / "report.html")
    (here / "report").mkdir()
    (here / "report" / "report.json").write_text('{"seed": 3, "device": "cpu"}')
    assert run("report") == 2 and "seed: 3 there, 0 here" in capsys.readouterr().err
    assert run("report", "--seed", 3) == 0 and run("report", "--overwrite") == 0
    (here / "report" / "report.json").write_text("[]")
    assert run("report") == 2 and "no result of this command" in capsys.readouterr().err


def test_a_model_that_cannot_be_read_is_found_before_any_work(here, monkeypatch, capsys):
    def load(path):
        raise pi.PrefixInterpError(f"path={path!r} is no model")

    option = ModelOption(help="a folder", load=load, settings=lambda model, name: {})
    monkeypatch.setattr(
        registry, "STUDIES", (USER, SOURCE, replace(SOURCE, name="measures", model=option))
    )
    assert run("all", "--preset", "smoke", "--model", "nowhere") == 2 and MEASURED == []
    assert "path='nowhere' is no model" in capsys.readouterr().err


def test_a_study_may_have_a_model_that_it_usually_measures(here, monkeypatch, capsys):
    """It is taken where none is named, but not by `all`, and not asked for where one is named."""
    asked, loaded = [], []

    def usual():
        asked.append(1)
        return here / "usual-model"

    def load(path):
        loaded.append(Path(path).name)
        raise pi.PrefixInterpError(f"path={path!r} is no model")

    option = ModelOption("a folder", load, lambda model, name: {}, usual)
    study = replace(SOURCE, name="measures", model=option)
    monkeypatch.setattr(registry, "STUDIES", (USER, SOURCE, study))
    assert run("measures", "--preset", "smoke") == 2 and loaded == ["usual-model"]
    assert "usual-model' is no model" in capsys.readouterr().err
    assert run("measures", "--preset", "smoke", "--model", "mine") == 2
    assert loaded == ["usual-model", "mine"] and asked == [1]
    assert run("all", "--preset", "smoke") == 0 and len(loaded) == 2
    assert "measures: left out" in capsys.readouterr().out
