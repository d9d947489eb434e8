from functools import lru_cache

import joblib
import pytest

from analyses import registry
from analyses.registry import evidence_of, find_study
from analyses.runs import run_study


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A function that runs a study's smoke preset for one seed, once, and what it needs before."""
    work = tmp_path_factory.mktemp("smoke")
    evidence = evidence_of([])

    @lru_cache
    def run(name):
        study = find_study(name)
        for need in study.needs:
            run(need)
        with joblib.parallel_config(backend="sequential"):
            return run_study(
                study, "smoke", [0], work=work, progress=False, evidence=evidence,
                studies=registry.STUDIES,
            )  # fmt: skip

    run.work = work
    return run
