"""`prefix-interp inspect`: one command to one page."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.files import check_target, is_there, read_file
from prefix_interp.overwriting import check_same_run

if TYPE_CHECKING:
    import torch

    from prefix_interp.inspection.look import Inspection
    from prefix_interp.inspection.sentences import Given
    from prefix_interp.models.host import Model
    from prefix_interp.prefixes.prefix import Prefix
    from prefix_interp.tasks import Task

_INPUTS = ("task", "tokens", "text")
_PRINTED = 64  # heads that fit on a screen


def check_inspect(arguments: argparse.Namespace) -> None:
    """Raise if the arguments contradict each other, or the files cannot be written."""
    given = [name for name in _INPUTS if getattr(arguments, name) is not None]
    if len(given) > 1:
        both = " and ".join(f"{name}={str(getattr(arguments, name))!r}" for name in given)
        raise PrefixInterpError(f"{both} are both given; name one of them")
    for file in _files(arguments.out):
        check_target(file)


def run_inspect(arguments: argparse.Namespace, model: Model) -> Iterator[str]:
    """Inspect a prefix of `model`, write the page and its numbers; yield lines to print."""
    from prefix_interp.inspection.run import inspect, save_page
    from prefix_interp.models.model import model_id

    prefix = _load_prefix(arguments, model).to(model)
    settings: dict[str, Any] = {
        "model": arguments.model, "model_id": model_id(model), "prefix": arguments.prefix,
        "tuned": {**prefix.settings, "n_slots": prefix.n_slots, **prefix.metadata},
        "baseline": "masked",
    }  # fmt: skip
    task, given, about = _inputs(arguments, prefix)
    settings |= about
    page, numbers = _files(arguments.out)
    if not arguments.overwrite:
        _refuse_other_inspection(page, numbers, {**settings, "seeds": [arguments.seed]})
    if task is not None:
        score = pi.evaluate(model, task, prefix, seed=arguments.seed)
        settings |= {"evaluation": score.to_dict()}
        yield f"task {task.name}: {settings['task_from']}"
        yield f"{task.name}: exact match {score.exact_match}, loss {score.loss}"
    found = inspect(
        model, prefix, given, out=None, seed=arguments.seed,
        name=Path(arguments.model).resolve().name,  # a page that is sent on shows no place
        progress=not arguments.quiet,
    )  # fmt: skip
    found = replace(found, about=replace(found.about, settings=settings))
    yield from _lines(found)
    yield str(save_page(found, page, numbers))


def _files(out: Path) -> tuple[Path, Path]:
    """Return the page and its numbers: both in a folder, or beside each other."""
    if out.suffix.lower() == ".html":
        return out, out.with_suffix(".json")
    return out / "report.html", out / "inspect.json"


def _inputs(
    arguments: argparse.Namespace, prefix: Prefix
) -> tuple[Task | None, Given, dict[str, Any]]:
    """Return the task, if it is one, what is run, and what the settings say of it."""
    if arguments.tokens is not None:
        tokens = _parse_tokens(arguments.tokens)
        return None, tokens, {"tokens": tokens.tolist()}
    if arguments.text is not None:
        from prefix_interp.inspection.text_files import MAX_TEXT_BYTES, read_texts

        texts = read_texts(arguments.text)
        digest = hashlib.sha256(read_file(arguments.text, MAX_TEXT_BYTES)).hexdigest()
        return None, texts, {"text": str(arguments.text), "text_sha256": digest}
    task, why = _task_of(arguments, prefix)
    return task, task, {"task": task.name, "task_from": why}


def _lines(found: Inspection) -> Iterator[str]:
    about = found.about
    if about.n_layers * about.n_heads <= _PRINTED:
        table = found.to_dataframe("parts").drop(columns="pos")
        yield table.groupby(["layer", "head"]).agg("mean").to_string()
    acts = found.tables["acts"][0]
    worst = {name: acts[name] for name in ("eq6", "eq7")}
    yield f"largest violations, baseline masked: {worst}"
    yield from found.summary()


def _load_prefix(arguments: argparse.Namespace, model: Model) -> Prefix:
    from prefix_interp.models.host import host_of
    from prefix_interp.prefixes.peft import is_adapter

    toy = host_of(model).n_reserved is not None
    shipped = pi.load_prefixes(arguments.model) if toy else {}
    if arguments.prefix not in shipped and not Path(arguments.prefix).is_dir():
        check_choice("prefix", arguments.prefix, [*shipped, "a folder"])
    if is_adapter(arguments.prefix):
        return pi.Prefix.from_peft(arguments.prefix, model)
    return shipped.get(arguments.prefix) or pi.Prefix.load(arguments.prefix)


def _task_of(arguments: argparse.Namespace, prefix: Prefix) -> tuple[Task, str]:
    """Return the task to run, and why it is this one."""
    own = prefix.metadata.get("task")
    if arguments.task is not None:
        tuned = "" if own == arguments.task else f"; the prefix was tuned on {own or 'none named'}"
        return pi.get_task(arguments.task), f"named by --task{tuned}"
    try:
        return pi.get_task(str(own)), "the prefix was tuned on it, as its metadata say"
    except PrefixInterpError:
        says = "name no task" if own is None else f"name {own!r}, which is no task of the library"
        raise PrefixInterpError(
            f"prefix={arguments.prefix!r} has metadata that {says}; name the task to run with "
            "--task, or token numbers with --tokens"
        ) from None


def _refuse_other_inspection(page: Path, numbers: Path, now: Mapping[str, Any]) -> None:
    """Raise if the files are no inspection of the same prefix on the same inputs."""
    from prefix_interp.results import Result

    if not is_there(numbers):
        if is_there(page):
            check_same_run(page, None, now)
        return
    try:
        found = Result.load(numbers)
    except PrefixInterpError:
        check_same_run(numbers, None, now)
    else:
        before = {k: v for k, v in found.settings.items() if k != "evaluation"}
        check_same_run(numbers, {**before, "seeds": list(found.seeds)}, now)


def _parse_tokens(text: str) -> torch.Tensor:
    import torch

    try:
        return torch.tensor([[int(part) for part in text.split(",")]])
    except (ValueError, RuntimeError):
        raise PrefixInterpError(
            f"tokens={text!r} is not a list of whole numbers; write e.g. --tokens 3,1,4,1,5"
        ) from None
