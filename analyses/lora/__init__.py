"""LoRA and prefixes with as many parameters, on a task that the model does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyses.lora.figures import figures
from analyses.lora.measure import measure
from analyses.lora.methods import METHODS
from analyses.lora.protocol import PROTOCOLS, TASK
from analyses.lora.section import findings, section
from analyses.lora.tables import tables
from analyses.study import Study
from prefix_interp.tuning.recipes import preset_settings


def _settings(preset: str) -> Mapping[str, Any]:
    return {"task": TASK, "methods": list(METHODS), "preset": preset_settings(preset)}


STUDY = Study(
    name="lora",
    claim="Does LoRA learn what a prefix of its size cannot? The paper: 92.4 against 0.3 %.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table2",),
    seeds=5,
    settings=_settings,
    findings={"lora": findings},
    figures=figures,
)
