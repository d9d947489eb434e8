"""The evaluation at the end of a training, made once and kept beside its checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefix_interp.estimates import Estimate
from prefix_interp.files import read_file
from prefix_interp.records import Schema
from prefix_interp.storage import read_json, write_json
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.tuning.parallel import one_thread

_SCHEMAS = {1: Schema(1, {"checkpoint": str, "evaluations": list[dict[str, Any]]})}


def scored_once(
    checkpoint: str | Path | None, evaluate: Callable[[], list[Evaluation]]
) -> list[Evaluation]:
    """Return the evaluations at the end of a training: the same bits on any number of cores.

    They are kept in ``<checkpoint>.scores.json``, so a training that had ended when its process was
    killed is not evaluated again. They are made anew if the checkpoint has changed.

    Args:
        checkpoint: the file of the finished training; None keeps nothing.
        evaluate: makes them.
    """
    if checkpoint is None:
        with one_thread():
            return evaluate()
    file = Path(f"{checkpoint}.scores.json")
    digest = hashlib.sha256(read_file(checkpoint)).hexdigest()
    if file.exists():
        record = read_json(file, _SCHEMAS)
        if record["checkpoint"] == digest:
            return [_evaluation(row) for row in record["evaluations"]]
    with one_thread():
        found = evaluate()
    rows = [each.to_dict() for each in found]
    write_json(file, {"format": 1, "checkpoint": digest, "evaluations": rows})
    return found


def _evaluation(row: dict[str, Any]) -> Evaluation:
    scores = {name: Estimate(**x) for name, x in row.items() if isinstance(x, dict)}
    return Evaluation(task=row["task"], n=row["n"], **scores)
