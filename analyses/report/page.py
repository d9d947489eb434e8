"""The report: one HTML file that opens anywhere without a network, and its numbers as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from tqdm.auto import tqdm

from analyses import registry
from analyses.report.evidence import Evidence
from analyses.report.sections import PARTS, Claim, Live, Section, missing
from analyses.study import RESULTS
from prefix_interp.files import check_writable, write_together
from prefix_interp.records import to_json
from prefix_interp.results import Result, package_versions
from prefix_interp.tuning.parallel import one_thread
from prefix_interp.views.page import page_style, page_template

_FOLDER = Path(__file__).parent
_TEMPLATE, _STYLE = "page.html.j2", "page.css"
# Columns of the claims table: kinds of prefix, and everything else.
KINDS = ("residual, 1 slot", "residual, 10 slots", "kv, 1 slot", "kv, 10 slots", "other")


def write_report(
    out: str | Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    results: str | Path | Sequence[Result] = RESULTS,
) -> Path:
    """Write ``<out>/report.html`` and ``<out>/report.json``; return the path of the HTML.

    Everything comes from the trained toys of the library and from committed results; nothing is
    trained. Two reports of one seed differ only in ``timing`` in the JSON.

    Args:
        out: a folder, made if missing.
        seed: chooses the test sequences.
        device: where the toys run.
        progress: show a bar.
        results: a folder of result files, or the results themselves.

    Raises:
        PrefixInterpError: the folder cannot be written, or a file is corrupted.
    """
    out = Path(out)
    check_writable(out)
    began = time.perf_counter()
    # One thread for the same bits on any number of cores, and no taste of the caller's in figures.
    with one_thread(), matplotlib.rc_context():
        matplotlib.rcdefaults()
        sections = all_sections(registry.evidence_of(results, seed=seed, device=device), progress)
    page = render_report(sections)
    record = report_record(sections, seed, device)
    record["timing"] = {"wall_s": round(time.perf_counter() - began, 2)}
    return write_together({out / "report.html": page, out / "report.json": to_json(record)})[0]


def all_sections(evidence: Evidence, progress: bool = True) -> list[Section]:
    """Return the sections of all studies; a missing result is replaced by a sentence.

    A study of a model that must be installed first has no section before it has a result.

    Args:
        evidence: the studies' measurements.
        progress: show a bar.
    """
    made: list[Section] = []
    for study in tqdm(registry.STUDIES, desc="report", disable=not progress):
        if evidence.result(study.name) is None:
            if study.model is not None and study.model.usual is not None:
                continue
            title = f"Not measured: {study.name}"
            made.append(
                Section(f"missing-{study.name}", study.name, title, "about", missing(study.name))
            )
            continue
        found = study.section(evidence)
        made += [found] if isinstance(found, Section) else found
    return made


def report_record(
    sections: Sequence[Section], seed: int = 0, device: str = "cpu"
) -> dict[str, Any]:
    """Return the report's numbers as plain JSON values.

    Args:
        sections: from `all_sections`.
        seed: the seed of the test sequences.
        device: where models ran.
    """
    return {
        "format": 2,
        "seed": seed,
        "device": device,
        "versions": package_versions(),
        "sections": {section.id: dict(section.numbers) for section in sections},
    }


def _claims(sections: Sequence[Section]) -> list[tuple[str, Claim]]:
    """Return every claim with the id that it links to, in the order of these sections."""
    order = [section.id for section in sections]
    found = [
        (claim.section if claim.section in order else section.id, claim)
        for section in sections
        for claim in section.claims
    ]
    return sorted(found, key=lambda pair: order.index(pair[0]))


def render_report(sections: Sequence[Section]) -> str:
    """Return the report as one HTML page.

    Args:
        sections: from `all_sections`.
    """
    parts = [
        (key, title, own)
        for key, title in PARTS.items()
        if (own := [section for section in sections if section.part == key])
    ]
    live = [section.figure for section in sections if isinstance(section.figure, Live)]
    return page_template(_TEMPLATE, _FOLDER).render(
        style=page_style(_FOLDER / _STYLE),
        cards=[(section, section.card) for section in sections if section.card],
        tops=[(section, section.top) for section in sections if section.top],
        parts=parts,
        claims=_claims([section for _, _, own in parts for section in own]),
        kinds=KINDS,
        scripts=list(dict.fromkeys(figure.script for figure in live)),
    )
