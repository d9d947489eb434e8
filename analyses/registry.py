"""All studies, in the order in which the report shows them: one line each."""

from __future__ import annotations

from analyses.all_heads import STUDY as ALL_HEADS
from analyses.attention import STUDY as ATTENTION
from analyses.circuits import STUDY as CIRCUITS
from analyses.claims import STUDY as CLAIMS
from analyses.heads import STUDY as HEADS
from analyses.ladder import STUDY as LADDER
from analyses.long_prefixes import STUDY as LONG_PREFIXES
from analyses.study import Study
from analyses.subspaces import STUDY as SUBSPACES
from analyses.table1 import STUDY as TABLE1
from analyses.table2 import STUDY as TABLE2

STUDIES: tuple[Study, ...] = (
    TABLE1,
    ATTENTION,
    TABLE2,
    ALL_HEADS,
    HEADS,
    CIRCUITS,
    SUBSPACES,
    LONG_PREFIXES,
    LADDER,
    CLAIMS,
)  # fmt: skip
