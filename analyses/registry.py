"""All studies, in the order in which the report shows them: one line each."""

from __future__ import annotations

from analyses import ladder, long_prefixes, subspaces
from analyses.study import Study

STUDIES: tuple[Study, ...] = (
    subspaces.STUDY,
    long_prefixes.STUDY,
    ladder.STUDY,
)
