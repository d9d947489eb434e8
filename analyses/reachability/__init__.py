"""Reachability: what no prefix of any length does in one layer, and what new weights do."""

from analyses.reachability.figure import figures
from analyses.reachability.measure import PROTOCOLS, measure
from analyses.reachability.section import section
from analyses.reachability.tables import findings_block, tables
from analyses.study import Study

STUDY = Study(
    name="reachability",
    claim="What can no prefix of any length do in one layer? The paper: learn a new task.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table1",),
    findings={"reachability": findings_block},
    figures=figures,
)
