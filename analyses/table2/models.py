"""What one seed of Table 2 is trained as, and what it keeps for the studies that measure it."""

from __future__ import annotations

from prefix_interp.models.toy import ToyConfig

MODEL = ToyConfig(n_layers=1, n_heads=4, d_model=256, n_prefix=1, skip_ln1=True)
MIXTURE, NAME = "four_skills", "four-skills-1l4h"

# Groups of kept prefixes: the best of each trial, and the best of each of its starts.
PREFIXES, STARTS = "prefixes", "starts"
INIT_STD = 0.1  # starts of the trials that other studies measure


def variant(task: str, parameterization: str, init_std: float = INIT_STD) -> str:
    """Return the name of a trial's best prefix in `PREFIXES`.

    Args:
        task: the task it was tuned for.
        parameterization: ``"residual"`` or ``"kv"``.
        init_std: standard deviation of its start.
    """
    return f"{task}-{parameterization}-std-{init_std:g}"


def start_name(trial: str, start: int) -> str:
    """Return the name in `STARTS` of the best prefix from one start.

    Args:
        trial: from `variant`.
        start: which one, from 0 on.
    """
    return f"{trial}-start-{start}"
