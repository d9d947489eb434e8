"""Long prefixes: how many of their possible directions they use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.long_prefixes.figures import figures
from analyses.long_prefixes.measure import PROTOCOLS, measure
from analyses.long_prefixes.section import section
from analyses.long_prefixes.tables import tables
from analyses.study import Study
from analyses.table2.models import NAME
from prefix_interp.tuning.recipes import preset_settings


def _settings(preset: str) -> Mapping[str, Any]:
    return {"toy": NAME, "preset": preset_settings(preset)}


STUDY = Study(
    name="long-prefixes",
    claim="Do longer prefixes use all the directions that they could? The paper: no (appendix B).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table2",),
    seeds=3,
    settings=_settings,
    figures=figures,
)
