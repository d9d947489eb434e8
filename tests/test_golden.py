"""The numbers from before the studies moved, which the new code gives to the digit."""

import json
import lzma
from functools import lru_cache
from pathlib import Path

import pytest

from analyses.registry import STUDIES, evidence_of
from prefix_interp.tuning.content_blind import content_blind_hits

FOUND = {study.name: study for study in STUDIES}
# While these have not all moved, what is missing is skipped; afterwards it is an error.
EXPECTED = {
    "table1", "attention", "table2", "heads", "all-heads", "circuits", "subspaces",
    "long-prefixes", "constructions", "capacity", "language-model", "ladder", "universality",
    "claims",
}  # fmt: skip
# Tables of today that were called otherwise, by study and old name.
NAMES = {
    ("heads", "heads"): "head",
    ("ladder", "rows"): "ladder",
    ("ladder", "suffix"): "suffixes",
}
# What was frozen for its words: text tables, which the page's sections hold, and other tasks.
ASIDE = {"table", "more", "sweep_table", "restarts_table", "sweep_old"}


@lru_cache
def golden():
    path = Path(__file__).parent / "golden" / "before.json.xz"
    return json.loads(lzma.decompress(path.read_bytes()))


def renamed(value):
    """Old rows with the names that keys have today."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key != "record"}  # is the table now
        names = {"n_prefix": "n_slots"}
        if "after" in value:
            names |= {"after": "position", "level": "layers"}
        return {names.get(key, key): renamed(inner) for key, inner in value.items()}
    return [renamed(inner) for inner in value] if isinstance(value, list) else value


def by_part(name, rows):
    """Rows of several kinds as one table each, as results have them today."""
    if not rows or "part" not in rows[0]:
        return {name: rows}
    parts = {}
    for row in rows:
        row = dict(row)
        parts.setdefault(row.pop("part"), []).append(row)
    return parts


def plain(rows):
    return json.loads(json.dumps([dict(row) for row in rows]))


def flat(row):
    """A record with nested keys as `Result.to_dataframe` names them."""
    out = {}
    for key, value in row.items():
        inner = flat(value) if isinstance(value, dict) else None
        out |= {key: value} if inner is None else {f"{key}.{k}": v for k, v in inner.items()}
    return out


def assert_same(new, old):
    new, old = plain(new), renamed(old)
    assert len(new) == len(old)
    for own, before in zip(new, old, strict=True):
        assert {k: v for k, v in own.items() if v is not None} == {
            k: v for k, v in before.items() if v is not None
        }


def skip_unless(here, what):
    if not here and EXPECTED - set(FOUND):
        pytest.skip(f"{what} has not moved yet")
    assert here, f"{what} is gone"


@pytest.fixture(scope="module")
def evidence():
    return evidence_of()


SUMMARIES = [
    (stem, name)
    for stem, tables in golden()["summaries"].items()
    for name in tables
    if name not in ASIDE and stem not in ("blind", "table2-fast-repeat")
]


@pytest.mark.parametrize(("stem", "name"), SUMMARIES, ids=map("-".join, SUMMARIES))
def test_summaries_are_those_of_before(stem, name, evidence):
    study, _, preset = stem.rpartition("-")
    skip_unless(study in FOUND, study)
    result = evidence.result(study, preset)
    for part, rows in by_part(name, golden()["summaries"][stem][name]).items():
        table = NAMES.get((study, part), part)
        summaries = evidence.tables(study, preset)
        if name == "records" or table not in summaries:
            frame = result.to_dataframe(table)
            new = frame.astype(object).where(frame.notna(), None).to_dict("records")
            rows = [flat(row) for row in rows]
        else:
            new = summaries[table]
        assert_same(new, rows)


@pytest.mark.parametrize("name", ["rows", "diagonal", "restarts"])
def test_the_repeated_table_2_is_that_of_before(name, evidence):
    before = golden()["summaries"]["table2-fast-repeat"][name]
    assert_same(evidence.tables("table2", "fast-repeat")[name], before)


@pytest.mark.parametrize("section", golden()["report"]["sections"])
def test_the_report_has_the_numbers_of_before(section, report):
    sections = json.loads((report.folder / "report.json").read_text())["sections"]
    skip_unless(section in sections, section)
    for name, rows in golden()["report"]["sections"][section].items():
        for part, own in by_part(name, rows).items():
            assert_same(sections[section][part], own)


def test_the_report_has_the_claims_and_table_1_of_before(report):
    sections = json.loads((report.folder / "report.json").read_text())["sections"]
    before = golden()["report"]
    assert_same(sections["claims"]["claims"], before["claims"]["records"])
    for preset in ("fast", "paper"):
        for name in ("rows", "sweep"):
            assert_same(sections["table1"][f"{preset} {name}"], before["table1"][preset][name])


@pytest.mark.parametrize("block", golden()["readme"])
def test_the_readme_blocks_are_those_of_before(block, evidence):
    blocks = {name: make for study in STUDIES for name, make in study.readme.items()}
    skip_unless(block in blocks, block)
    assert blocks[block](evidence) == golden()["readme"][block]


@pytest.mark.parametrize("task", golden()["summaries"]["blind"])
def test_the_blind_rule_is_that_of_before(task):
    hits = content_blind_hits(task, n=400).double().mean(0).tolist()
    assert hits == golden()["summaries"]["blind"][task]
