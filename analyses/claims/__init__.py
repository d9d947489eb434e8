"""The claims that the paper proves or makes about Table 1, each with a number and a verdict."""

from collections.abc import Mapping, Sequence
from typing import Any

from analyses.claims.measure import PROTOCOLS, measure, settings
from analyses.claims.section import section
from analyses.study import Study
from prefix_interp.results import Result


def tables(result: Result) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return the claims as measured: there is only one seed, so nothing to summarise."""
    return {"claims": result.rows("claims")}


STUDY = Study(
    name="claims",
    claim="Does every statement of the theory hold on the shipped models (sections 3 to 5)?",
    protocols=PROTOCOLS,
    measure=measure,
    tables=tables,
    section=section,
    seeds=1,
    settings=settings,
    live=True,
)
