"""Table 1: can a prefix teach a one-layer, one-head model a new attention pattern?"""

from analyses.study import Study
from analyses.table1.measure import PROTOCOLS, export_zoo, measure, settings
from analyses.table1.section import figures, section
from analyses.table1.tables import findings_block, tables

STUDY = Study(
    name="table1",
    claim="Can a prefix teach one layer to sort the other way? The paper: 0 ± 0 % (section 5).",
    protocols=PROTOCOLS, measure=measure, tables=tables, section=section,
    exports=export_zoo, settings=settings, findings={"table 1": findings_block}, figures=figures,
)  # fmt: skip
