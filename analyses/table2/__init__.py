"""Table 2: does a prefix pick one of the skills that a pretrained model has?"""

from analyses.study import Study
from analyses.table2.measure import PROTOCOLS, export_zoo, measure, settings
from analyses.table2.section import figures, section
from analyses.table2.tables import findings_block, tables

STUDY = Study(
    name="table2",
    claim="Does one slot pick one of four skills? The paper: 90 to 98 % (section 6).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    findings={"table 2": findings_block},
    exports=export_zoo,
    settings=settings,
    figures=figures,
)
