"""The report: one HTML file that opens anywhere without a network, and its numbers as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from prefix_interp.experiments.claims import Zoo, load_zoo, measure_claims
from prefix_interp.experiments.summary import shipped_result
from prefix_interp.experiments.table1 import FINE_TUNED, PRETRAINED
from prefix_interp.views.headlines import headlines
from prefix_interp.views.sections import Section
from prefix_interp.views.tables import Table
from tqdm.auto import tqdm

from prefix_interp.experiments.skills import load_skills
from prefix_interp.models.toy import read_toy
from prefix_interp.models.zoo import toy_folder
from prefix_interp.results import Result
from prefix_interp.storage import check_writable, to_json, write_file
from prefix_interp.views import pictures, tables
from prefix_interp.views.capacity_sections import capacity_section, language_model_section
from prefix_interp.views.display import page_scripts, watch_script
from prefix_interp.views.ladder_sections import ladder_section
from prefix_interp.views.skill_sections import (
    circuits_section,
    elicitation_section,
    heads_section,
    table2_section,
)
from prefix_interp.views.subspace_sections import long_prefixes_section, subspaces_section
from prefix_interp.views.theory_sections import constructions_section, universality_section

PRESETS = ("fast", "paper")
SKILL_RESULTS = ("table2", "heads", "subspaces", "long-prefixes")
# Sections that need nothing but a shipped result, in the order of the page.
RESULT_SECTIONS = {
    "constructions": constructions_section,
    "capacity": capacity_section,
    "language-model": language_model_section,
    "ladder": ladder_section,
    "universality": universality_section,
}
_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    out: str | Path, *, seed: int = 0, device: str = "cpu", progress: bool = True
) -> Path:
    """Write ``<out>/report.html`` and ``<out>/report.json``; return the path of the HTML.

    Everything comes from the trained toys and the results that ship with the package; nothing
    is trained. Two reports of one seed differ in nothing but ``timing`` in the JSON.

    Args:
        out: a folder, made if missing.
        seed: chooses the test sequences.
        device: where the toys run.
        progress: show bars.

    Raises:
        PrefixInterpError: the folder cannot be written, or a shipped file is corrupted.
    """
    out = Path(out)
    check_writable(out)
    claims = measure_claims(seed, device, progress)
    table1 = {preset: shipped_result("table1", preset) for preset in PRESETS}
    sections = all_sections(seed, device, progress)
    page = render_report(claims, table1, load_zoo(seed, device), sections, progress)
    record = report_record(claims, table1, sections)
    write_file(out / "report.json", to_json(record))
    return write_file(out / "report.html", page)


def all_sections(seed: int = 0, device: str = "cpu", progress: bool = True) -> list[Section]:
    """Return the sections behind Table 1, from the four-skill toy and the shipped results.

    Args:
        seed: chooses the test sequences.
        device: where the toy runs.
        progress: show a bar.
    """
    skills = load_skills(seed, device)
    results = {name: shipped_result(name, "fast") for name in (*SKILL_RESULTS, *RESULT_SECTIONS)}
    made: list[Section] = []
    with tqdm(total=2 + len(results), desc="sections", disable=not progress) as bar:

        def add(name: str | None, make: Callable[..., Section]) -> None:
            result = None if name is None else results[name]
            if name is not None and result is None:
                made.append(_missing(name))
            else:
                made.append(make() if result is None else make(result))
            bar.update()

        add("table2", table2_section)
        add(None, lambda: heads_section(skills))
        add("heads", lambda result: elicitation_section(skills, result))
        add(None, lambda: circuits_section(skills, results["heads"]))
        add("subspaces", subspaces_section)
        add("long-prefixes", long_prefixes_section)
        for name, make in RESULT_SECTIONS.items():
            add(name, make)
    return made


def _missing(name: str) -> Section:
    text = (
        f"The result {name!r} is not shipped with this version; prefix-interp reproduce {name} "
        "--preset fast, or its script in analyses/, makes it."
    )
    return Section(f"missing-{name}", name, name, text, [])


def report_record(
    claims: Result, table1: Mapping[str, Result | None], sections: Sequence[Section] = ()
) -> dict[str, Any]:
    """Return the report's numbers as plain JSON values.

    Args:
        claims: from `measure_claims`.
        table1: by preset, None where it is not shipped.
        sections: from `all_sections`.
    """
    return {
        "format": 1,
        "claims": {
            "seeds": list(claims.seeds),
            "settings": dict(claims.settings),
            "records": [dict(r) for r in claims.records],
            "versions": dict(claims.versions),
        },
        "table1": {preset: tables.json_rows(result) for preset, result in table1.items()},
        "sections": {section.id: dict(section.numbers) for section in sections},
        "timing": dict(claims.timing),
    }


def render_report(
    claims: Result,
    table1: Mapping[str, Result | None],
    zoo: Zoo,
    sections: Sequence[Section] = (),
    progress: bool = True,
) -> str:
    """Return the report as one HTML page.

    Args:
        claims: from `measure_claims`.
        table1: by preset, None where it is not shipped.
        zoo: from `load_zoo`, with the sequences the claims were measured on.
        sections: from `all_sections`.
        progress: show a bar.
    """
    with tqdm(total=4, desc="figures", disable=not progress) as bar:
        pairs, parts = pictures.measure(zoo)
        bar.update()
        inside = [pictures.parts_picture(parts, zoo.n_out), pictures.spectrum_picture(zoo, parts)]
        bar.update()
        groups = pictures.attention_views(zoo, pairs)
        query = pictures.query_picture(groups, zoo.tokens.shape[1] - zoo.n_out)
        whole = [pictures.interactive(view, i) for i, view in enumerate(groups[0])]
        bar.update()
        sweep = table1.get("fast")
        context = {
            "headlines": [
                *headlines(claims, table1),
                *(finding for section in sections for finding in section.findings),
            ],
            "sections": sections,
            "table1": [_table1_section(preset, table1.get(preset)) for preset in PRESETS],
            "sweep": None if sweep is None else pictures.sweep_picture(sweep),
            "query": query,
            "whole": whole,
            "inside": inside,
            "groups": tables.claim_groups(claims),
            "settings": claims.settings,
            "seeds": ", ".join(map(str, claims.seeds)),
            "provenance": provenance(claims, zoo),
            "scripts": page_scripts(),
            "watch": watch_script(),
        }
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        page = environment.get_template("report.html.j2").render(context)
        bar.update()
    return page


def _table1_section(preset: str, result: Result | None) -> dict[str, Any]:
    title = {"fast": "Fast protocol", "paper": "The paper's protocol"}[preset]
    section: dict[str, Any] = {"title": title, "preset": preset, "shipped": result is not None}
    if result is not None:
        section |= {
            "table": tables.table1_table(result),
            "more": tables.table1_more(result),
            "n_seeds": len(result.seeds),
            "n_test": result.settings.get("test_sequences", "?"),
        }
    return section


def provenance(claims: Result, zoo: Zoo) -> list[Table]:
    """Return where every number comes from: versions, settings and recipes.

    Args:
        claims: from `measure_claims`.
        zoo: the models and prefixes.
    """
    versions = dict(claims.versions)
    versions |= {name: version(name) for name in ("matplotlib", "circuitsvis", "jinja2")}
    recipes = []
    for name in (PRETRAINED, FINE_TUNED):
        recipes.append((name, read_toy(toy_folder(name))[1]))
    recipes += [(f"{PRETRAINED}: {name}", p.metadata) for name, p in zoo.prefixes.items()]
    rows = []
    for name, metadata in recipes:
        recipe = metadata.get("recipe", {})
        how = ", ".join(f"{key} {value}" for key, value in recipe.items())
        rows.append((name, metadata.get("task", ""), metadata.get("preset", ""),
                     str(metadata.get("seed", "")), how))  # fmt: skip
    settings = tuple(
        (key, ", ".join(value) if isinstance(value, list) else str(value))
        for key, value in claims.settings.items()
    )
    return [
        Table(("Package", "Version"), tuple(versions.items())),
        Table(("Setting", "Value"), (("test seed", str(claims.seeds[0])), *settings)),
        Table(("Trained", "Task", "Preset", "Seed", "Recipe"), tuple(rows)),
    ]
