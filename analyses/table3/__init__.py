"""Table 3: does a deeper model let a prefix combine skills, or learn a new one?

    python -m analyses table3                       # 4 layers
    python -m analyses table3-deep                  # 40, the paper's depth: one seed
    python -m analyses table3 --seed 1 --seeds 1    # one seed, e.g. beside others

All keep every finished training in ``--work``; the first gathers what the last has finished.
"""

from dataclasses import replace
from functools import partial

from analyses.study import Study
from analyses.table3.measure import DEEP_PROTOCOLS, PROTOCOLS, export_zoo, measure, settings
from analyses.table3.section import figures, section
from analyses.table3.tables import findings_block, tables

STUDY = Study(
    name="table3",
    claim="Does a prefix combine skills of a deep model? Teach a new one? The paper: 93 %, 1 %.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=5,
    exports=export_zoo,
    settings=settings,
    findings={"table 3": findings_block},
    figures=figures,
)

DEEP = replace(
    STUDY,
    name="table3-deep",
    claim="The same at the paper's depth, 40 layers.",
    protocols=DEEP_PROTOCOLS,
    section=partial(section, name="table3-deep"),
    seeds=1,
    exports=None,  # a model of 126 MB
    settings=partial(settings, protocols=DEEP_PROTOCOLS),
    findings={"table 3 deep": partial(findings_block, name="table3-deep")},
)
