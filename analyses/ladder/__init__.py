"""The ladder of contexts: what each kind of context makes the same frozen toys do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.ladder.figures import figures
from analyses.ladder.measure import measure
from analyses.ladder.protocol import PROTOCOLS, SKILLS, TASKS
from analyses.ladder.section import findings, section
from analyses.ladder.tables import tables
from analyses.study import Study
from prefix_interp.tuning.recipes import preset_settings


def _settings(preset: str) -> Mapping[str, Any]:
    return {"skills": list(SKILLS.rules), "tasks": TASKS, "preset": preset_settings(preset)}


STUDY = Study(
    name="ladder",
    claim="What can real tokens, soft prompts, prefixes and suffixes make one frozen model do?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=3,
    settings=_settings,
    findings={"suffixes": findings},
    figures=figures,
)
