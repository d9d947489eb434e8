"""Finished parts of a seed's work are not done again, in any study, and come back as they were."""

import shutil

import joblib
import pytest

from analyses import registry
from analyses.kept import Kept
from analyses.registry import find_study
from analyses.runs import run_study
from analyses.study import Job


def test_tables_of_a_part_come_back_as_they_were(tmp_path):
    job, made = Job(0, "smoke", None, keeps=Kept(tmp_path)), []

    def make():
        made.append(1)
        rows = [{"b": 0.1 + 0.2, "a": {"x": [1, None], "y": True}}, {"b": 5e-324, "a": {}}]
        return {"two": rows, "one": [{"name": "é"}], "empty": []}

    first, again = job.tables("part", make), job.tables("part", make)
    assert made == [1] and first == again == {k: v for k, v in make().items() if v}
    assert [list(row) for row in again["two"]] == [["b", "a"], ["b", "a"]]
    assert Job(0, "smoke", None).tables("part", make) == first and len(made) == 3


STUDIES = (
    "table1", "table2", "ladder", "capacity", "long-prefixes", "heads", "subspaces",
    "constructions", "universality", "depth", "lora", "reachability", "swap", "table3",
    "table3-deep",
)  # fmt: skip


def test_no_study_that_is_kept_is_left_out():
    kept = {study.name for study in registry.STUDIES if not study.live}
    # The first keeps tensors as its parts; the others measure a model that must be installed.
    others = {"language-model", "language-model-heads", "sentiment", "cramming"}
    assert kept == {*STUDIES, *others}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_seed_that_was_killed_at_its_end_is_put_together_again(
    name, smoke, tmp_path, monkeypatch
):
    whole, work = smoke(name), tmp_path / "work"
    shutil.copytree(smoke.work, work)
    (finished,) = (work / f"{name}-smoke" / "seed-0").glob("*/finished.json.gz")
    finished.unlink()
    monkeypatch.setattr(Kept, "save_rows", lambda *_: pytest.fail("a part was done again"))
    with joblib.parallel_config(backend="sequential"):
        again = run_study(
            find_study(name), "smoke", [0], work=work, progress=False, studies=registry.STUDIES
        )
    assert list((finished.parent / "parts").iterdir()), "nothing was kept"
    assert again.tables == whole.tables
    assert [list(rows[0]) for rows in again.tables.values() if rows] == [
        list(rows[0]) for rows in whole.tables.values() if rows
    ]
