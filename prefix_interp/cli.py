"""The command line: `prefix-interp report | reproduce | tune | inspect`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from prefix_interp import __version__
from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.experiments import table1, table2
from prefix_interp.experiments.capacity import capacity
from prefix_interp.experiments.constructions import constructions
from prefix_interp.experiments.heads import heads
from prefix_interp.experiments.ladder import ladder
from prefix_interp.experiments.long_prefixes import long_prefixes
from prefix_interp.experiments.subspaces import subspaces
from prefix_interp.experiments.universality import universality
from prefix_interp.models.host import Model
from prefix_interp.models.zoo import load_toy
from prefix_interp.prefixes.baselines import run_pair
from prefix_interp.prefixes.prefix import Prefix, load_prefixes
from prefix_interp.results import Result
from prefix_interp.storage import check_writable
from prefix_interp.tasks import get_task
from prefix_interp.theory.decompose import decompose_attention
from prefix_interp.tuning.contexts import tune_prefix
from prefix_interp.tuning.evaluate import evaluate
from prefix_interp.tuning.recipes import Recipe, preset_recipes

EXPERIMENTS: dict[str, Callable[..., Result]] = {
    "table1": table1.table1,
    "table2": table2.table2,
    "heads": heads,
    "subspaces": subspaces,
    "long-prefixes": long_prefixes,
    "ladder": ladder,
    "capacity": capacity,
    "universality": universality,
    "constructions": constructions,
}
# Experiments that measure the models of another: what their folder is called.
MODELS_OF = {
    "heads": "table2_work",
    "subspaces": "table2_work",
    "long-prefixes": "table2_work",
    "capacity": "ladder_work",
}
# Experiments whose trained models can go into a zoo.
EXPORTS = {"table1": table1.export_zoo, "table2": table2.export_zoo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, 2 with one line on bad input."""
    arguments = _parser().parse_args(argv)
    try:
        check_writable(arguments.out)
        arguments.run(arguments)
    except PrefixInterpError as error:
        print(f"prefix-interp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prefix-interp: interrupted; reproduce resumes where it stopped", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is one line, like every other error of the package."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with code 2."""
        self.exit(2, f"prefix-interp: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="prefix-interp", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[..., None], text: str, out: str) -> Any:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--out", type=Path, default=Path(out), help=f"folder ({out})")
        sub.add_argument("--seed", type=int, default=0, help="any whole number (0)")
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        sub.set_defaults(run=run)
        return sub

    report = command("report", _report, "write one HTML file and its JSON from the zoo", "report")
    _add_device(report)

    again = command("reproduce", _reproduce, "run an experiment of the paper again", "results")
    again.add_argument("name", help=f"one of {', '.join(EXPERIMENTS)}")
    again.add_argument("--preset", default="fast", help="paper, fast or smoke (fast)")
    again.add_argument("--seeds", type=int, default=10, help="how many, from --seed on (10)")
    again.add_argument("--jobs", type=int, help="processes (one a core)")
    again.add_argument("--work", type=Path, help="checkpoints to resume from (work/NAME-PRESET)")
    for source in ("table2", "ladder"):
        users = ", ".join(k for k, v in MODELS_OF.items() if v == f"{source}_work")
        again.add_argument(
            f"--{source}-work", type=Path, help=f"models for {users} (work/{source}-PRESET)"
        )
    again.add_argument("--zoo", type=Path, help="also write the first seed's models here")

    tune = command("tune", _tune, "tune a prefix for a toy", "prefix")
    _add_model(tune)
    _add_device(tune)
    tune.add_argument("--task", required=True, help="what the prefix should do")
    tune.add_argument("--n-slots", type=int, default=1, help="slots (1)")
    tune.add_argument("--parameterization", default="residual", help="residual or kv (residual)")
    tune.add_argument("--preset", default="fast", help="paper, fast or smoke (fast)")
    tune.add_argument("--lr", type=float, help="instead of the preset's")
    tune.add_argument("--steps", type=int, help="instead of the preset's")

    look = command("inspect", _inspect, "split every head's output under a prefix", "inspect")
    _add_model(look)
    _add_device(look)
    look.add_argument("--prefix", required=True, help="folder, or a key of the model's zoo entry")
    look.add_argument("--task", default="sort_descending", help="inputs to run (sort_descending)")
    look.add_argument("--tokens", help="instead: token numbers with commas, e.g. 3,1,4,1,5")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="zoo name or folder")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (cpu)")


def _check_device(device: str) -> str:
    available = ["cpu"]
    available += ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    check_choice("device", device, available)
    return device


def _load_model(arguments: argparse.Namespace) -> Model:
    device = _check_device(arguments.device)
    model = load_toy(arguments.model)
    model.to(device, print_details=False)
    return model


def _report(arguments: argparse.Namespace) -> None:
    from prefix_interp.views.report import write_report  # plotting is loaded only when drawn

    device = _check_device(arguments.device)
    path = write_report(
        arguments.out, seed=arguments.seed, device=device, progress=not arguments.quiet
    )
    print(path)


def _reproduce(arguments: argparse.Namespace) -> None:
    check_choice("name", arguments.name, EXPERIMENTS)
    preset_recipes(arguments.preset)
    if arguments.zoo is not None:
        check_choice("--zoo with name", arguments.name, EXPORTS)
    stem = f"{arguments.name}-{arguments.preset}"
    work = arguments.work or Path("work") / stem
    for folder in (work, arguments.zoo or work):
        check_writable(folder)
    models: dict[str, Any] = {}
    for key in sorted(set(MODELS_OF.values())):
        if (folder := getattr(arguments, key)) is not None:
            users = [name for name, need in MODELS_OF.items() if need == key]
            check_choice(f"--{key.replace('_', '-')} with name", arguments.name, users)
            models = {key: folder}
    result = EXPERIMENTS[arguments.name](
        arguments.preset,
        range(arguments.seed, arguments.seed + arguments.seeds),
        work=work,
        n_jobs=arguments.jobs,
        progress=not arguments.quiet,
        **models,
    )
    print(result.save(arguments.out / f"{stem}.json"))
    if arguments.zoo is not None:
        for folder in EXPORTS[arguments.name](work, arguments.zoo, arguments.seed):
            print(folder)


def reproduce(
    name: str, argv: Sequence[str] | None, description: str | None
) -> tuple[Result, Path]:
    """Run one experiment for a script with a command line of its own; return result and stem.

    The script takes ``--preset``, ``--seeds``, ``--out``, ``--work``, ``--table2-work`` and
    ``--ladder-work`` as `prefix-interp reproduce` does, and leaves with its code on bad input.

    Args:
        name: of the experiment.
        argv: the script's arguments; None for those of the process.
        description: what ``--help`` says.
    """
    parser = _Parser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--table2-work", type=Path)
    parser.add_argument("--ladder-work", type=Path)
    arguments = parser.parse_args(argv)
    command = ["reproduce", name]
    for key, value in vars(arguments).items():
        command += [] if value is None else [f"--{key.replace('_', '-')}", str(value)]
    code = main(command)
    if code:
        sys.exit(code)
    stem = arguments.out / f"{name}-{arguments.preset}"
    return Result.load(stem.with_suffix(".json")), stem


def _tune(arguments: argparse.Namespace) -> None:
    fit = tune_prefix(
        _load_model(arguments),
        arguments.task,
        arguments.n_slots,
        parameterization=arguments.parameterization,
        recipe=Recipe.from_preset(
            arguments.preset, "prefix", lr=arguments.lr, steps=arguments.steps
        ),
        seed=arguments.seed,
        progress=not arguments.quiet,
    )
    print(f"exact match {fit.evaluation.exact_match}, loss {fit.evaluation.loss}")
    print(fit.prefix.save(arguments.out))


def _inspect(arguments: argparse.Namespace) -> None:
    model = _load_model(arguments)
    shipped = load_prefixes(arguments.model)
    if arguments.prefix not in shipped and not Path(arguments.prefix).is_dir():
        check_choice("prefix", arguments.prefix, [*shipped, "a folder"])
    prefix = shipped.get(arguments.prefix) or Prefix.load(arguments.prefix)
    prefix = prefix.to(model)
    task = get_task(arguments.task)
    settings = {"model": arguments.model, "prefix": arguments.prefix, "baseline": "masked"}
    if arguments.tokens is None:
        tokens = task.sample(64, seed=arguments.seed).tokens
        score = evaluate(model, task, prefix, seed=arguments.seed)
        settings |= {"task": task.name, "evaluation": score.to_dict()}
        print(f"{task.name}: exact match {score.exact_match}, loss {score.loss}")
    else:
        tokens = _parse_tokens(arguments.tokens)
        settings |= {"tokens": tokens.tolist()}
    parts = decompose_attention(run_pair(model, prefix, tokens))
    table = parts.to_dataframe()
    print(table.groupby(["layer", "head"]).mean().drop(columns="pos").to_string())
    print("largest violations, baseline masked:", parts.max_errors())
    records = table.to_dict("records")
    result = Result("inspect", "none", [arguments.seed], settings, records)
    print(result.save(arguments.out / "inspect.json"))


def _parse_tokens(text: str) -> torch.Tensor:
    try:
        return torch.tensor([[int(part) for part in text.split(",")]])
    except (ValueError, RuntimeError):
        raise PrefixInterpError(
            f"tokens={text!r} is no list of whole numbers; write e.g. --tokens 3,1,4,1,5"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
