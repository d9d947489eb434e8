"""All studies in the order of the report, one line each."""

from __future__ import annotations

from analyses.all_heads import STUDY as ALL_HEADS
from analyses.attention import STUDY as ATTENTION
from analyses.capacity import STUDY as CAPACITY
from analyses.circuits import STUDY as CIRCUITS
from analyses.claims import STUDY as CLAIMS
from analyses.constructions import STUDY as CONSTRUCTIONS
from analyses.heads import STUDY as HEADS
from analyses.ladder import STUDY as LADDER
from analyses.language_model import STUDY as LANGUAGE_MODEL
from analyses.long_prefixes import STUDY as LONG_PREFIXES
from analyses.study import Study
from analyses.subspaces import STUDY as SUBSPACES
from analyses.table1 import STUDY as TABLE1
from analyses.table2 import STUDY as TABLE2
from analyses.universality import STUDY as UNIVERSALITY

STUDIES: tuple[Study, ...] = (
    TABLE1,
    ATTENTION,
    TABLE2,
    ALL_HEADS,
    HEADS,
    CIRCUITS,
    SUBSPACES,
    LONG_PREFIXES,
    CONSTRUCTIONS,
    CAPACITY,
    LANGUAGE_MODEL,
    LADDER,
    UNIVERSALITY,
    CLAIMS,
)  # fmt: skip
