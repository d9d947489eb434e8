"""Bias subspaces: in which directions a prefix writes, and whether the skill depends on them."""

from __future__ import annotations

from analyses.study import Study
from analyses.subspaces.figures import figures
from analyses.subspaces.measure import PROTOCOLS, measure
from analyses.subspaces.section import section
from analyses.subspaces.tables import tables
from analyses.table2.models import NAME

STUDY = Study(
    name="subspaces",
    claim="A prefix biases a head in at most n_s directions (section 4). Is the skill there?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    needs=("table2",),
    settings=lambda preset: {"toy": NAME},
    figures=figures,
)
