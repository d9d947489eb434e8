"""Which pretrained heads does a prefix amplify or suppress, and which does it bias?"""

from analyses.heads.measure import PROTOCOLS, measure, settings
from analyses.heads.section import figures, section
from analyses.heads.tables import tables
from analyses.study import Study

STUDY = Study(
    name="heads",
    claim="Which heads do the prefixes of Table 2 elicit? The paper: attention heads (section 6).",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table2",),
    needs_next=("table2",),
    settings=settings,
    figures=figures,
)
