"""The claims in the report: rows of the claims table, every measurement, and its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from analyses.claims.claim import FAILS, HOLDS
from analyses.claims.zoo import load_zoo
from analyses.report.evidence import Evidence
from analyses.report.sections import Cell, Claim, Section, Words
from analyses.report.tables import Column, Table, percent, power, rows_table
from analyses.table1.measure import FINE_TUNED, PRETRAINED
from prefix_interp.models.toy import read_toy
from prefix_interp.models.zoo import toy_folder
from prefix_interp.results import Result
from prefix_interp.views.style import variant_label

Record = Mapping[str, Any]

# The claims that have a threshold: the section that shows them, and their words as HTML.
_STATEMENTS: Mapping[str, tuple[str, str]] = {
    "relative-attention": ("attention", "A prefix leaves relative attention to the input as it "
                           "was"),
    "eq6": ("attention", "It scales the attention to the input: A<sup>pt</sup><sub>ij</sub> = "
            "(1 − g<sub>i</sub>) A<sub>ij</sub> (equation 6)"),
    "fine-tuning-attention": ("attention", "Fine-tuning moves relative attention"),
    "bias-rank": ("rank", "The bias has at most as many directions as there are slots (in a layer: "
                  "times its heads)"),
    "plain-difference": ("rank", "The plain difference z<sub>pt</sub> − t has more"),
    "no-prefix-learns": ("table1", "No prefix learns to sort descending (mean over seeds)"),
    "no-prefix-learns-any-lr": ("table1", "Nor does any seed at any learning rate"),
    "eq7": ("heads", "The output is z<sub>pt</sub> = (1 − g) t + Σ<sub>p</sub> A<sub>p</sub> "
            "v<sub>p</sub> (equation 7)"),
    "injections": ("heads", "Slots, an attention mixture and a cache act equally"),
    "suffix-is-prefix": ("ladder-section", "In one layer a suffix acts as a prefix, behind its "
                         "slots"),
}  # fmt: skip
_SHARES = ("no-",)  # claims whose value is a share start with this
_EXACT = (
    "A verdict compares the value with its threshold. Rounding of float64 is near 1e-16 and a "
    "wrong formula is off by more than 1e-3; the thresholds lie between."
)


def section(evidence: Evidence) -> Section:
    """Return every claim of the theory with its measurements, and the source of the numbers.

    Args:
        evidence: measures the claims.
    """
    result, rows = evidence.result("claims"), evidence.tables("claims")["claims"]
    assert result is not None
    settings, seeds = result.settings, ", ".join(map(str, result.seeds))
    judged = [r for r in rows if r["tolerance"] is not None]
    held = sum(r["verdict"] == HOLDS for r in judged)
    failed = list(dict.fromkeys(r["subject"] for r in judged if r["verdict"] == FAILS))
    against = f"; those that do not are about {' and '.join(failed)}" if failed else ""
    if evidence.result("table1") is None:
        against += ". Accuracies are missing: the fast result of Table 1 is not committed"
    return Section(
        "claims", "Where numbers come from",
        f"{held} of {len(judged)} measurements of the claims hold",
        "about",
        f"They were made on {settings['sequences']} test sequences of sort descending in "
        f"{settings['dtype']}, test seed {seeds}{against}. The same seed gives the same page.",
        None,
        [
            Words("Every measurement", _EXACT, measurements(rows)),
            *(Words(title, "", table) for title, table in provenance(evidence, result).items()),
        ],
        {"claims": rows},
        claims=claim_rows(rows),
    )  # fmt: skip


def claim_rows(records: Sequence[Record]) -> list[Claim]:
    """Return the rows of the claims table: the worst case of each claim, by kind of prefix.

    Args:
        records: of `measure`; those without a threshold are left out.
    """
    found = []
    for name, (where, statement) in _STATEMENTS.items():
        own = [r for r in records if r["claim"] == name and r["tolerance"] is not None]
        if not own:
            continue
        by_kind: dict[str, list[Record]] = {}
        for record in own:
            kind = "other"
            if record["n_slots"] is not None:
                kind = variant_label(record["parameterization"], record["n_slots"])
            by_kind.setdefault(kind, []).append(record)
        cells = {kind: _cell(rows) for kind, rows in by_kind.items()}
        found.append(Claim(Markup(statement), cells, _threshold(own[0]), where))
    return found


def _cell(records: Sequence[Record]) -> Cell:
    worst = (min if records[0]["comparison"] == "above" else max)(r["value"] for r in records)
    name = records[0]["claim"]
    text = f"{percent(worst)} %" if name.startswith(_SHARES) else power(worst)
    if name == "fine-tuning-attention":
        text = f"fine-tuned: {worst:.2f}"
    return Cell(text, all(r["verdict"] == HOLDS for r in records))


def _threshold(record: Record) -> str:
    if record["claim"].startswith(_SHARES):
        return "0 %"
    sign = "≤" if record["comparison"] == "at most" else ">"
    return f"{sign} {power(record['tolerance'], 0)}"


def measurements(records: Sequence[Record]) -> Table:
    """Return every measurement of every claim as a table.

    Args:
        records: of `measure`.
    """
    return rows_table(
        [{**r, "kind": variant_label(r["parameterization"], r["n_slots"])
          if r["n_slots"] is not None else r["subject"], "text": _value(r), "where": _where(r)}
         for r in records],
        [Column("Subject", "kind"), Column("What was measured", "quantity"),
         Column("Where", "where"), Column("Value", "text"), Column("Verdict", "verdict")],
    )  # fmt: skip


def _value(record: Record) -> str:
    if record["claim"].startswith(_SHARES):
        return f"{percent(record['value'])} %"
    x = record["value"]
    # A gate close to 1 must not be rounded to 1, which would hide the content's share.
    return f"1 − {power(1 - x)}" if 0.9995 <= x < 1 else power(x)


def _where(record: Record) -> str:
    if record["layer"] is None:
        return "whole model"
    level = "all heads" if record["level"] == "layer" else record["level"]
    return f"{level}, layer {record['layer']}"


def provenance(evidence: Evidence, claims: Result) -> dict[str, Table]:
    """Return the source of every number: versions, settings and recipes.

    Args:
        evidence: contains the models and prefixes.
        claims: the result of this study.
    """
    zoo = evidence.once(load_zoo)
    versions = dict(claims.versions)
    versions |= {name: version(name) for name in ("matplotlib", "jinja2")}
    recipes = []
    for name in (PRETRAINED, FINE_TUNED):
        recipes.append((name, read_toy(toy_folder(name))[1]))
    recipes += [(f"{PRETRAINED}: {name}", p.metadata) for name, p in zoo.prefixes.items()]
    rows = []
    for name, metadata in recipes:
        recipe = metadata.get("recipe", {})
        how = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in recipe.items())
        rows.append((name, metadata.get("task", "").replace("_", " "), metadata.get("preset", ""),
                     str(metadata.get("seed", "")), how))  # fmt: skip
    told = {key.replace("_", " "): str(value) for key, value in claims.settings.items()
            if key != "protocol"}  # fmt: skip
    settings = {
        "test seed": str(claims.seeds[0]),
        **told,
        "prefixes": ", ".join(zoo.prefixes),
        "device": evidence.device,
        "accuracies": "None" if evidence.result("table1") is None else "table1-fast",
    }
    return {
        "Versions": Table(("Package", "Version"), tuple(versions.items())),
        "Settings": Table(("Setting", "Value"), tuple(settings.items())),
        "Recipes": Table(("Trained", "Task", "Preset", "Seed", "Recipe"), tuple(rows)),
    }
