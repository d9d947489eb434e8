"""The long prefixes over seeds: means, spreads and intervals of the measurements."""

from __future__ import annotations

import math

from analyses.study import Rows, Tables
from analyses.summaries import summarise
from prefix_interp.results import Result

_KEYS = ("parameterization", "n_slots", "task")
_COUNTS = dict.fromkeys(("bound", "rank", "effective_rank", "n_95", "n_99"), math.inf)
_SHARES = {"slot_range": 1.0, "top_slot": 1.0}  # of a head's attention alone


def tables(result: Result) -> Tables:
    """Return one row per kind of prefix, number of slots and task, summarised over seeds.

    ``tuning`` has ``exact_match`` and ``loss``. ``bias`` has one row per ``method`` and ``level``
    for each of them, with head values averaged over heads. Rows with ``task`` None are averages
    over tasks. Each metric has ``mean``, ``sd``, its 95% interval ``low`` and ``high`` (see
    `over_seeds`), ``min`` and ``max`` over seeds.

    Args:
        result: of the study.
    """
    tunings = [  # a tuning is evaluated on inputs drawn by its own seed
        {**r, "test_seed": r["seed"], **{k: r["evaluation"][k] for k in ("exact_match", "loss")}}
        for r in result.rows("tuning")
    ]
    biases: Rows = []
    for level, shares in (("head", _SHARES), ("layer", {})):
        own = [r for r in result.rows("bias") if r["level"] == level]
        biases += summarise(own, ("method", "level", *_KEYS), {**_COUNTS, **shares})
    return {
        "tuning": summarise(tunings, _KEYS, {"exact_match": 1.0, "loss": math.inf}),
        "bias": biases,
    }
