from dataclasses import replace

import pytest

import prefix_interp as pi
from analyses import registry
from analyses.registry import evidence_of
from analyses.runs import run_study
from tests.analyses.tiny import MEASURED, SOURCE


@pytest.fixture(autouse=True)
def one_study(monkeypatch):
    monkeypatch.setattr(registry, "STUDIES", (SOURCE,))
    MEASURED.clear()


def use(monkeypatch, **changes):
    monkeypatch.setattr(registry, "STUDIES", (replace(SOURCE, **changes),))


def test_results_come_from_a_folder_or_are_handed_in(tmp_path):
    result = run_study(SOURCE, "fast", [0], work=None, n_jobs=1, progress=False)
    result.save(tmp_path / "source-fast.json.gz")
    for evidence in (evidence_of(tmp_path), evidence_of([result])):
        assert evidence.result("source") == result
        assert evidence.result("source") is evidence.result("source")  # read once
        assert evidence.result("source", "smoke") is None
        assert evidence.tables("source")["sizes"] == [{"seed": 0, "size": 4}]
    with pytest.raises(pi.PrefixInterpError, match="analyses source --preset smoke"):
        evidence_of(tmp_path / "nowhere").tables("source", "smoke")


def test_summaries_are_computed_once(monkeypatch):
    calls = []
    result = run_study(SOURCE, "fast", [0], work=None, n_jobs=1, progress=False)
    use(monkeypatch, tables=lambda result: calls.append(result) or {"n": []})
    evidence = evidence_of([result])
    assert evidence.tables("source") is evidence.tables("source") and calls == [result]


def test_a_live_study_is_measured_once_with_the_seed_of_the_evidence(monkeypatch):
    seen = []

    def measure(job):
        seen.append(job)
        return {"rows": [{"seed": job.seed}]}

    use(monkeypatch, live=True, measure=measure)
    evidence = evidence_of([], seed=7)
    assert evidence.result("source").rows() == [{"seed": 7}]
    evidence.result("source")
    assert len(seen) == 1 and seen[0].evidence is evidence and seen[0].keeps is None
    assert evidence.result("source", "paper") is None


def test_what_is_loaded_once_is_known_by_its_function():
    def load(evidence):
        MEASURED.append("load")
        return object()

    def other(evidence):
        return evidence.once(load)

    evidence = evidence_of([])
    assert evidence.once(load) is evidence.once(other) and MEASURED == ["load"]
    assert evidence_of([]).once(load) is not evidence.once(load)
