from dataclasses import replace
from pathlib import Path

import joblib
import pytest

from analyses import __main__ as command
from analyses import registry
from analyses.__main__ import main
from prefix_interp.results import Result
from tests.analyses.tiny import MEASURED, SOURCE, USER


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "STUDIES", (USER, SOURCE))
    MEASURED.clear()
    with joblib.parallel_config(backend="sequential"):
        yield tmp_path


def run(*arguments):
    return main([*map(str, arguments), "--quiet", "--jobs", "1"])


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
        assert run("source", "--preset", "smoke", "--seed", seed, "--seeds", 1) == 0
    before = {p.name: p.read_bytes() for p in (here / "results").iterdir()}
    real, moved = Path.replace, []

    def killed_after_the_first(path, target):
        if Path(target).parent.name == "results" and moved.append(target) is None and moved[1:]:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "replace", killed_after_the_first)
    assert run("source", "--preset", "smoke", "--seed", 3, "--seeds", 1) == 130
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
        (["source", "--device", "abacus"], "device='abacus'"),
        (["user", "--zoo", "zoo"], "--zoo with name='user'"),
        (["user", "--preset", "smoke"], "analyses source --preset smoke"),
        (["source", "--out", "file/x"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_code_2_before_any_work(here, capsys, arguments, words):
    (here / "file").write_text("in the way")
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
