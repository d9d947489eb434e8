"""All studies in the order of the report, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analyses.all_heads import STUDY as ALL_HEADS
from analyses.attention import STUDY as ATTENTION
from analyses.capacity import STUDY as CAPACITY
from analyses.circuits import STUDY as CIRCUITS
from analyses.claims import STUDY as CLAIMS
from analyses.constructions import STUDY as CONSTRUCTIONS
from analyses.cramming import STUDY as CRAMMING
from analyses.depth import STUDY as DEPTH
from analyses.heads import STUDY as HEADS
from analyses.ladder import STUDY as LADDER
from analyses.language_model import STUDY as LANGUAGE_MODEL
from analyses.language_model_heads import STUDY as LANGUAGE_MODEL_HEADS
from analyses.long_prefixes import STUDY as LONG_PREFIXES
from analyses.lora import STUDY as LORA
from analyses.reachability import STUDY as REACHABILITY
from analyses.report.evidence import Evidence
from analyses.sentiment import STUDY as SENTIMENT
from analyses.study import RESULTS, Study, named
from analyses.subspaces import STUDY as SUBSPACES
from analyses.swap import STUDY as SWAP
from analyses.table1 import STUDY as TABLE1
from analyses.table2 import STUDY as TABLE2
from analyses.table3 import DEEP as TABLE3_DEEP
from analyses.table3 import STUDY as TABLE3
from analyses.universality import STUDY as UNIVERSALITY
from prefix_interp.results import Result

STUDIES: tuple[Study, ...] = (
    ATTENTION,
    TABLE1,
    TABLE2,
    LORA,
    ALL_HEADS,
    HEADS,
    CIRCUITS,
    SUBSPACES,
    LONG_PREFIXES,
    SWAP,
    TABLE3,
    TABLE3_DEEP,
    DEPTH,
    CONSTRUCTIONS,
    CAPACITY,
    LANGUAGE_MODEL,
    CRAMMING,
    LANGUAGE_MODEL_HEADS,
    SENTIMENT,
    LADDER,
    UNIVERSALITY,
    REACHABILITY,
    CLAIMS,
)  # fmt: skip


def find_study(name: str) -> Study:
    """Return a study of `STUDIES` by its name.

    Raises:
        PrefixInterpError: an unknown name; the message gives the nearest one.
    """
    return named(STUDIES, name)


def evidence_of(
    results: str | Path | Sequence[Result] = RESULTS,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Evidence:
    """Return what all studies have measured, for their sections (see `Evidence`).

    Args:
        results: a folder of result files, or the results themselves.
        seed: chooses the test sequences of what is measured anew.
        device: where models run.
        progress: show the bars of what is measured anew.
    """
    return Evidence(STUDIES, results, seed=seed, device=device, progress=progress)
