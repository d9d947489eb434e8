"""What every study of the registry must be, whatever it measures."""

import json
from copy import copy
from dataclasses import asdict, fields, is_dataclass

import pytest

from analyses.kept import work_key
from analyses.registry import STUDIES, find_study
from analyses.study import RESULTS, committed_result, result_file
from prefix_interp.results import Result
from prefix_interp.tuning.recipes import PRESETS
from tests.analyses.test_study import changed

NAMES = [study.name for study in STUDIES]
every = pytest.mark.parametrize("study", STUDIES, ids=NAMES)
# A live study is run for the report anyway; one that measures your model needs one.
SMOKE = [study.name for study in STUDIES if not study.live and study.model is None]
# Hours each, and not run yet.
NOT_YET = ["cramming", "depth", "lora", "reachability", "swap", "table3",
           "table3-deep"]  # fmt: skip
SHOWN = [name for name in NAMES if name not in NOT_YET]


@every
def test_it_is_told_apart_and_says_what_it_asks(study):
    assert NAMES.count(study.name) == 1 and 20 < len(study.claim) < 120
    assert "fast" in study.protocols and set(study.protocols) <= set(PRESETS)
    assert "smoke" in study.protocols or study.live
    assert set(study.needs_next) <= set(study.needs) <= set(NAMES)
    for need in study.needs:
        assert set(study.protocols) <= set(STUDIES[NAMES.index(need)].protocols)


def others(value):
    """Every protocol that differs from this one in one field, however deep."""
    for field in fields(value):
        own = getattr(value, field.name)
        if isinstance(own, tuple) and own and is_dataclass(own[0]):
            nested = [(other, *own[1:]) for other in others(own[0])] + [own[1:]]
        elif is_dataclass(own):
            nested = list(others(own))
        else:
            nested = [changed(own)]
        for other in nested:
            protocol = copy(value)
            object.__setattr__(protocol, field.name, other)  # whether it is allowed or not
            yield protocol


@every
def test_any_field_of_its_protocols_changes_the_key_of_kept_work(study):
    for preset, protocol in study.protocols.items():
        protocols = [protocol, *others(protocol)]
        keys = [json.dumps(work_key(study.measure, p, preset, 0)) for p in protocols]
        assert len(set(keys)) == len(keys)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_its_smoke_run_gives_tables_that_can_be_kept_and_summarised(name, smoke, tmp_path):
    study, result = STUDIES[NAMES.index(name)], smoke(name)
    assert result.tables and all(result.tables.values())
    assert Result.load(result.save(tmp_path / "result.json.gz")).tables == result.tables
    for rows in study.tables(result).values():
        json.dumps([dict(row) for row in rows], allow_nan=False)


@pytest.mark.parametrize("name", NOT_YET)
def test_a_study_without_a_result_is_named_here(name):
    assert not (RESULTS / result_file(name, "fast")).exists(), "it has one: take it off the list"


@pytest.mark.parametrize("study", [s for s in STUDIES if s.name not in NOT_YET], ids=SHOWN)
def test_its_section_gives_numbers_and_ids_of_its_own(study, report):
    sections = report.sections[study.name]
    assert sections
    everything = [s.id for found in report.sections.values() for s in found]
    for section in sections:
        assert everything.count(section.id) == 1 and section.title and section.nav
        assert all(rows for rows in section.numbers.values()), section.id
    assert any(section.numbers for section in sections)


@every
def test_its_summaries_are_computed_once_for_each_result(study, report):
    made = {preset: n for (name, preset), n in report.summaries.items() if name == study.name}
    assert set(made.values()) <= {1}, made


@pytest.mark.parametrize("name", [s.name for s in STUDIES if not s.live and s.name in SHOWN])
def test_its_committed_result_is_of_its_fast_protocol(name):
    result = committed_result(name, "fast")
    assert (result.name, result.preset) == (name, "fast") and result.tables
    recorded = result.settings["protocol"]
    today = json.loads(json.dumps(asdict(find_study(name).protocols["fast"])))
    # A size that is younger than the result, and asks for nothing.
    empty = {key for key, size in today.items() if size == [] and key not in recorded}
    assert recorded == {key: size for key, size in today.items() if key not in empty}
