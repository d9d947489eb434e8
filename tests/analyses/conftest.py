from functools import lru_cache

import joblib
import pytest

from analyses.report.evidence import Evidence
from analyses.study import find_study, run_study


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """A function that runs a study's smoke preset for one seed, once, and what it needs before."""
    work = tmp_path_factory.mktemp("smoke")
    evidence = Evidence([])

    @lru_cache
    def run(name):
        study = find_study(name)
        for need in study.needs:
            run(need)
        with joblib.parallel_config(backend="sequential"):
            return run_study(study, "smoke", [0], work=work, progress=False, evidence=evidence)

    run.work = work
    return run
