"""Swap and mix: is it the keys or the values of a prefix that carry its task?

A prefix with the keys of one and the values of another asks which of the two carries the task. Two
prefixes side by side share the attention of the first layer in a way that their gates alone
predict, exactly; what that does to accuracy is not predicted, and is measured.
"""

from analyses.study import Study
from analyses.swap.measure import PROTOCOLS, measure
from analyses.swap.section import figures, section
from analyses.swap.tables import tables

STUDY = Study(
    name="swap",
    claim="Do the keys or the values of a prefix carry its task? What do two prefixes do together?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table2",),
    figures=figures,
)
