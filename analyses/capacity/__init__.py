"""Capacity: how many continuations single tokens call up, and how long these can be."""

from analyses.capacity.figure import figures
from analyses.capacity.measure import PROTOCOLS, measure
from analyses.capacity.section import section
from analyses.capacity.tables import findings_block, tables
from analyses.study import Study

STUDY = Study(
    name="capacity",
    claim="How much can one token say? The paper: a soft token more than all hard ones.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("ladder",),
    seeds=3,
    findings={"one token": findings_block},
    figures=figures,
)
