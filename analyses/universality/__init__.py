"""Universality: one fixed head and a long prefix fit any function on a sphere."""

from analyses.study import Study
from analyses.universality.figure import figures
from analyses.universality.measure import PROTOCOLS, measure, settings
from analyses.universality.section import section
from analyses.universality.tables import tables

STUDY = Study(
    name="universality",
    claim="Does a long prefix make one head fit any function on a sphere? Petrov et al.: yes.",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    settings=settings,
    figures=figures,
)
