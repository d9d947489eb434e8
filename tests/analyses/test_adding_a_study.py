"""A study that comes with its module, one line in the registry and its result file, no more."""

import importlib
import json

import pytest

from analyses import registry
from analyses.__main__ import main
from analyses.registry import evidence_of
from analyses.report.page import write_report
from docs.update_readme import with_blocks

MODULE = '''
"""Does a random prefix of one slot take more attention than one of none?"""

from dataclasses import dataclass

import prefix_interp as pi
from analyses.report.sections import Section
from analyses.study import Study
from analyses.summaries import over_seeds


@dataclass(frozen=True)
class Protocol:
    n: int = 4


def measure(job):
    model = pi.build_toy(pi.ToyConfig(n_layers=1, n_heads=1, d_model=8), seed=job.seed)
    prefix = pi.Prefix.random(model, 1, seed=job.seed)
    tokens = pi.get_task("add_one").sample(job.protocol.n, seed=job.seed).tokens
    gate = pi.decompose_attention(pi.run_pair(model, prefix, tokens)).gate
    return {"gates": [{"seed": job.seed, "gate": float(gate.mean())}]}


def tables(result):
    return {"gates": [{"gate": over_seeds(result.rows("gates"), "gate", 1.0)}]}


def section(evidence):
    rows = evidence.tables("gates")["gates"]
    mean = rows[0]["gate"]["mean"]
    return Section("gates", "Gates", f"A random prefix takes {mean:.3f} of the attention", "does",
                   "That is not none.", numbers={"gates": rows})


STUDY = Study(
    name="gates", claim="Does a random prefix take attention at all?",
    protocols={"fast": Protocol(), "smoke": Protocol(2)}, measure=measure, tables=tables,
    section=section, seeds=2,
    findings={"gates": lambda e: f"{e.tables('gates')['gates'][0]['gate']['mean']:.3f}"},
)
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    (tmp_path / "gates_study.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "STUDIES", (importlib.import_module("gates_study").STUDY,))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_the_report_and_the_findings_know_it(added, capsys):
    assert main(["gates", "--seeds", "2", "--jobs", "1", "--quiet"]) == 0
    assert capsys.readouterr().out == "results/gates-fast.json.gz\n"
    assert main(["all", "--preset", "smoke", "--jobs", "1", "--out", "other", "--quiet"]) == 0
    assert (added / "other" / "gates-smoke.json.gz").exists()
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "gates           Does a random prefix" in capsys.readouterr().out

    evidence = evidence_of(added / "results")
    mean = evidence.tables("gates")["gates"][0]["gate"]["mean"]
    page = write_report(added / "page", progress=False, results=added / "results").read_text()
    assert f"A random prefix takes {mean:.3f} of the attention" in page
    assert 'href="#gates"' in page and '<section id="gates"' in page
    record = json.loads((added / "page" / "report.json").read_text())
    assert record["sections"]["gates"]["gates"][0]["gate"]["mean"] == mean

    text = "Before\n<!-- gates -->\nold\n<!-- end gates -->\nafter"
    assert with_blocks(text, evidence) == (
        f"Before\n<!-- gates -->\n{mean:.3f}\n<!-- end gates -->\nafter"
    )


def test_without_its_result_the_report_says_how_to_make_it(added):
    page = write_report(added / "page", progress=False, results=[]).read_text()
    assert "python -m analyses gates --preset fast makes it" in page
    assert '<section id="gates"' not in page
