"""The report: one HTML file that opens anywhere without a network, and its numbers as JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from tqdm.auto import tqdm

from analyses import registry
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, missing
from analyses.study import RESULTS
from prefix_interp.files import check_writable, write_together
from prefix_interp.records import to_json
from prefix_interp.results import Result, package_versions
from prefix_interp.tuning.parallel import one_thread
from prefix_interp.views.display import page_scripts, watch_script

_TEMPLATE = "page.html.j2"


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
    with one_thread():  # for the same bits on any number of cores
        sections = all_sections(registry.evidence_of(results, seed=seed, device=device), progress)
    page = render_report(sections)
    record = report_record(sections, seed, device)
    record["timing"] = {"wall_s": round(time.perf_counter() - began, 2)}
    return write_together({out / "report.html": page, out / "report.json": to_json(record)})[0]


def all_sections(evidence: Evidence, progress: bool = True) -> list[Section]:
    """Return the sections of all studies; a missing result is replaced by a sentence.

    Args:
        evidence: the studies' measurements.
        progress: show a bar.
    """
    made: list[Section] = []
    for study in tqdm(registry.STUDIES, desc="report", disable=not progress):
        if evidence.result(study.name) is None:
            made.append(Section(f"missing-{study.name}", study.name, study.name,
                                missing(study.name), []))  # fmt: skip
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


def render_report(sections: Sequence[Section]) -> str:
    """Return the report as one HTML page.

    Args:
        sections: from `all_sections`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        headlines=[finding for section in sections for finding in section.findings],
        sections=sections,
        scripts=page_scripts(),
        watch=watch_script(),
    )
