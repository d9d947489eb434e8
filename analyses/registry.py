"""All studies, in the order in which the report shows them: one line each."""

from __future__ import annotations

from analyses.study import Study

STUDIES: tuple[Study, ...] = ()
