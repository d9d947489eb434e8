"""All studies, in the order in which the report shows them: one line each."""

from __future__ import annotations

from analyses.ladder import STUDY as LADDER
from analyses.long_prefixes import STUDY as LONG_PREFIXES
from analyses.study import Study
from analyses.subspaces import STUDY as SUBSPACES
from analyses.table1 import STUDY as TABLE1

STUDIES: tuple[Study, ...] = (
    TABLE1,
    SUBSPACES,
    LONG_PREFIXES,
    LADDER,
)  # fmt: skip
