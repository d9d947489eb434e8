"""Depth: where does combining skills begin, and is it the layers or the MLPs between them?

    python -m analyses depth                       # 1 to 8 layers, with MLPs and without
    python -m analyses depth --seed 1 --seeds 1    # one seed, e.g. beside others

Both keep every finished training in ``--work``; the first gathers what the second has finished.
"""

from analyses.depth.measure import PROTOCOLS, measure
from analyses.depth.section import figures, section
from analyses.depth.tables import findings_block, tables
from analyses.study import Study

STUDY = Study(
    name="depth",
    claim="From how many layers on does a prefix combine skills? Do MLPs matter for it?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=3,
    findings={"depth": findings_block},
    figures=figures,
)
