"""The constructions: the paper's theorems as models with hooks."""

from analyses.constructions.measure import PROTOCOLS, measure
from analyses.constructions.section import figures, section
from analyses.constructions.tables import findings_block, tables
from analyses.study import Study

STUDY = Study(
    name="constructions",
    claim="Can one virtual token make a fixed transformer say anything? The paper: yes.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    findings={"constructions": findings_block},
    figures=figures,
)
