"""What a command may replace: its own files, and those of no other run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analyses.runs import KEPT_OLD
from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import is_there, read_file
from prefix_interp.models.toy import STEM, read_toy
from prefix_interp.overwriting import check_same_run
from prefix_interp.results import Result, package_versions


def check_result(
    path: Path, name: str, preset: str, seeds: Sequence[int], settings: Mapping[str, Any]
) -> None:
    """Raise if the file holds the result of another run: other seeds, settings or versions.

    Args:
        path: where the result will be written; nothing need be there.
        name: of the study.
        preset: of the run.
        seeds: of the run.
        settings: from `result_settings`.

    Raises:
        PrefixInterpError: the message names the differences.
    """
    if not is_there(path):
        return
    now = {
        "study": name, "preset": preset, "seeds": list(seeds), "settings": settings,
        "versions": package_versions(),
    }  # fmt: skip
    try:
        found = Result.load(path)
    except PrefixInterpError:
        check_same_run(path, None, now)
        return
    own = {key: value for key, value in found.settings.items() if key != KEPT_OLD}
    before = {
        "study": found.name, "preset": found.preset, "seeds": list(found.seeds), "settings": own,
        "versions": found.versions,
    }  # fmt: skip
    check_same_run(path, before, now)


def check_zoo(zoo: Path, preset: str, seed: int) -> None:
    """Raise if the folder holds toys of another preset or seed.

    Args:
        zoo: where toys will be written; it need not exist.
        preset: of the run.
        seed: its first seed, whose toys are written.

    Raises:
        PrefixInterpError: the message names the first such toy.
    """
    for file in sorted(zoo.glob(f"*/{STEM}.json")):
        now = {"preset": preset, "seed": seed}
        try:
            about = read_toy(file.parent)[1]
        except PrefixInterpError:
            check_same_run(file.parent, None, now, "zoo")
            continue
        check_same_run(file.parent, {key: about.get(key) for key in now}, now, "zoo")


def check_report(out: Path, seed: int, device: str) -> None:
    """Raise if the folder holds a report of another seed or device, or a page that is no report.

    Args:
        out: where the report will be written; it need not exist.
        seed: of the test sequences.
        device: where models run.

    Raises:
        PrefixInterpError: the message names the differences.
    """
    page, record = out / "report.html", out / "report.json"
    if not is_there(page) and not is_there(record):
        return
    now = {"seed": seed, "device": device}
    try:
        found = json.loads(read_file(record))
        before = {key: found[key] for key in now}
    except (PrefixInterpError, ValueError, KeyError, TypeError):
        before = None
    check_same_run(page, before, now)
