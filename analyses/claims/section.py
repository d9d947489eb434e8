"""The claims in the report: every verdict, and the source of every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from analyses.claims.zoo import load_zoo
from analyses.report.evidence import Evidence
from analyses.report.sections import Section, Verdict, Verdicts, Words
from analyses.report.tables import Table, percent
from analyses.table1.measure import FINE_TUNED, PRETRAINED
from prefix_interp.models.toy import read_toy
from prefix_interp.models.zoo import toy_folder
from prefix_interp.results import Result
from prefix_interp.views.style import variant_label

# The formulas of the claims as HTML; in the JSON they are plain text.
_FORMULAS = {
    "eq6": "A<sup>pt</sup><sub>ij</sub> = (1 − g<sub>i</sub>) A<sub>ij</sub>",
    "relative-attention": "A<sup>pt</sup><sub>ij</sub> / (1 − g<sub>i</sub>) = A<sub>ij</sub>",
    "eq7": "z<sub>pt</sub> = (1 − g) t + Σ<sub>p</sub> A<sub>p</sub> v<sub>p</sub>",
    "bias-rank": "rank(z<sub>pt</sub> − (1 − g) t) ≤ n<sub>s</sub>",
    "plain-difference": "rank(z<sub>pt</sub> − t) &gt; n<sub>s</sub>",
    "gate-mean": "g = Σ<sub>p</sub> A<sub>p</sub>",
    "gate-max": "g = Σ<sub>p</sub> A<sub>p</sub>",
    "injections": "slots = mixture (= cache)",
    "suffix-is-prefix": "suffix = prefix, behind the slots",
    "fine-tuning-attention": "A<sup>ft</sup> ≠ A",
    "no-content": "output = f(index, token before)",
    "no-prefix-learns": "exact match = 0",
    "no-prefix-learns-any-lr": "exact match = 0",
}
_LAYER_RANK = "rank(z<sub>pt</sub> − (1 − g) t) ≤ n<sub>s</sub> · heads"
_CLASSES = {"holds": "holds", "does not hold": "fails"}


def sections(evidence: Evidence) -> list[Section]:
    """Return the verdict of every claim, and the provenance of the measurements.

    Args:
        evidence: measures the claims.
    """
    result, rows = evidence.result("claims"), evidence.tables("claims")["claims"]
    assert result is not None
    settings, seeds = result.settings, ", ".join(map(str, result.seeds))
    claims = Section(
        "claims", "Claims", "Claims and verdicts",
        f"Measured on {settings['sequences']} test sequences of {settings['task']} in "
        f"{settings['dtype']}, test seed {seeds}. A verdict compares the value with its tolerance; "
        "accuracies come from the fast Table 1.",
        verdicts(rows), {"claims": rows},
    )  # fmt: skip
    whence = Section(
        "provenance", "Provenance", "Provenance",
        "The same seed gives the same page. The toys are the first seed of the fast Table 1.",
        [Words("", "", table) for table in provenance(evidence, result)],
    )  # fmt: skip
    return [claims, whence]


def verdicts(claims: Sequence[Mapping[str, Any]]) -> list[Verdicts]:
    """Return the claims in the order of measurement, one group per statement.

    Args:
        claims: records of `measure`.
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for record in claims:
        grouped.setdefault(record["statement"], []).append(record)
    groups = []
    for statement, records in grouped.items():
        claim = records[0]["claim"]
        text = _LAYER_RANK if "layer" in records[0]["level"] else _FORMULAS[claim]
        groups.append(Verdicts(statement, Markup(text), [_verdict(r) for r in records]))
    return groups


def _verdict(record: Mapping[str, Any]) -> Verdict:
    is_share = record["claim"].startswith("no-")
    value = f"{percent(record['value'])} %" if is_share else _number(record["value"])
    if record["low"] is not None:
        value += f" [{percent(record['low'])}, {percent(record['high'])}]"
    sign = {"at most": "≤", "above": ">", None: ""}[record["comparison"]]
    line = "–" if record["tolerance"] is None else f"{sign} {record['tolerance']:g}"
    subject = record["subject"]
    if record["n_slots"] is not None and not is_share:
        subject = variant_label(record["parameterization"], record["n_slots"])
    where = "whole model"
    if record["layer"] is not None:
        level = "all heads" if record["level"] == "layer" else record["level"]
        where = f"{level}, layer {record['layer']}"
    return Verdict(
        subject, where, record["baseline"], record["quantity"], value, line, record["verdict"],
        _CLASSES.get(record["verdict"], "measured"), record["note"],
    )  # fmt: skip


def _number(x: float) -> str:
    # A gate close to 1 must not be rounded to 1, which would hide the content's share.
    return f"1 − {1 - x:.1e}" if 0.9995 <= x < 1 else f"{x:.3g}"


def provenance(evidence: Evidence, claims: Result) -> list[Table]:
    """Return the source of every number: versions, settings and recipes.

    Args:
        evidence: contains the models and prefixes.
        claims: the result of this study.
    """
    zoo = evidence.once(load_zoo)
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
    told = {key: str(value) for key, value in claims.settings.items() if key != "protocol"}
    settings = {
        "test seed": str(claims.seeds[0]),
        **told,
        "prefixes": ", ".join(zoo.prefixes),
        "device": evidence.device,
        "accuracies": "None" if evidence.result("table1") is None else "table1-fast",
    }
    return [
        Table(("Package", "Version"), tuple(versions.items())),
        Table(("Setting", "Value"), tuple(settings.items())),
        Table(("Trained", "Task", "Preset", "Seed", "Recipe"), tuple(rows)),
    ]
