"""All studies, in the order in which the report shows them: one line each."""

from __future__ import annotations

from analyses.study import Study
from analyses.table1 import STUDY as TABLE1

STUDIES: tuple[Study, ...] = (
    TABLE1,
)  # fmt: skip
