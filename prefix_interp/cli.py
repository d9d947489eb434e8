"""The library's commands: `prefix-interp inspect | tune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Whatever loads torch is imported inside the handlers, so that --help answers at once.
import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError, check_choice

if TYPE_CHECKING:
    import torch

    from prefix_interp.models.host import Model

# Commands of version 0.1 that moved out of the library with the studies.
MOVED = {
    "reproduce": "python -m analyses NAME (or make reproduce)",
    "report": "python -m analyses report (or make report)",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, 2 with one line on bad input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        _refuse_moved(argv)
        arguments = _parser().parse_args(argv)
        _check_out(arguments.out)
        _run(arguments)
    except PrefixInterpError as error:
        print(f"prefix-interp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prefix-interp: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose error message is one line, like every other error of the package."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"prefix-interp: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="prefix-interp", description=__doc__)
    parser.add_argument("--version", action="version", version=pi.__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--model", required=True, help="zoo name or folder")
        sub.add_argument("--device", default="cpu", help="cpu, cuda or mps (cpu)")
        sub.add_argument("--seed", type=int, default=0, help="any whole number (0)")
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        sub.set_defaults(run=run)
        return sub

    look = command("inspect", _inspect, "split every head's output under a prefix")
    look.add_argument("--prefix", required=True, help="folder, or a key of the model's zoo entry")
    look.add_argument("--task", default="sort_descending", help="inputs to run (sort_descending)")
    look.add_argument("--tokens", help="instead: token numbers with commas, e.g. 3,1,4,1,5")
    look.add_argument("--out", type=Path, default=Path("inspect"), help="folder (inspect)")

    tune = command("tune", _tune, "tune a prefix for a toy")
    tune.add_argument("--task", required=True, help="what the prefix should do")
    tune.add_argument("--n-slots", type=int, default=1, help="slots (1)")
    tune.add_argument("--parameterization", default="residual", help="residual or kv (residual)")
    tune.add_argument("--preset", default="fast", help="paper, fast or smoke (fast)")
    tune.add_argument("--lr", type=float, help="instead of the preset's")
    tune.add_argument("--steps", type=int, help="instead of the preset's")
    tune.add_argument("--out", type=Path, default=Path("prefix"), help="folder (prefix)")
    return parser


def _refuse_moved(argv: Sequence[str]) -> None:
    if argv and argv[0] in MOVED:
        raise PrefixInterpError(
            f"command={argv[0]!r} is not in the library any more; run {MOVED[argv[0]]} "
            f"in a checkout of the repository"
        )


def _run(arguments: argparse.Namespace) -> None:
    from prefix_interp.tuning.parallel import one_thread

    with one_thread():  # for the same bits on any number of cores
        arguments.run(arguments)


def _check_out(out: Path) -> None:
    from prefix_interp.files import check_writable

    check_writable(out)


def _load_model(arguments: argparse.Namespace) -> Model:
    import torch

    available = ["cpu"]
    available += ["cuda"] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    check_choice("device", arguments.device, available)
    model = pi.load_toy(arguments.model)
    model.to(arguments.device, print_details=False)
    return model


def _tune(arguments: argparse.Namespace) -> None:
    fit = pi.tune_prefix(
        _load_model(arguments),
        arguments.task,
        arguments.n_slots,
        parameterization=arguments.parameterization,
        recipe=pi.Recipe.from_preset(
            arguments.preset, "prefix", lr=arguments.lr, steps=arguments.steps
        ),
        seed=arguments.seed,
        progress=not arguments.quiet,
    )
    print(f"exact match {fit.evaluation.exact_match}, loss {fit.evaluation.loss}")
    print(fit.prefix.save(arguments.out))


def _inspect(arguments: argparse.Namespace) -> None:
    from prefix_interp.results import Result

    model = _load_model(arguments)
    shipped = pi.load_prefixes(arguments.model)
    if arguments.prefix not in shipped and not Path(arguments.prefix).is_dir():
        check_choice("prefix", arguments.prefix, [*shipped, "a folder"])
    prefix = shipped.get(arguments.prefix) or pi.Prefix.load(arguments.prefix)
    prefix = prefix.to(model)
    task = pi.get_task(arguments.task)
    settings = {"model": arguments.model, "prefix": arguments.prefix, "baseline": "masked"}
    if arguments.tokens is None:
        tokens = task.sample(64, seed=arguments.seed).tokens
        score = pi.evaluate(model, task, prefix, seed=arguments.seed)
        settings |= {"task": task.name, "evaluation": score.to_dict()}
        print(f"{task.name}: exact match {score.exact_match}, loss {score.loss}")
    else:
        tokens = _parse_tokens(arguments.tokens)
        settings |= {"tokens": tokens.tolist()}
    parts = pi.decompose_attention(pi.run_pair(model, prefix, tokens))
    table = parts.to_dataframe()
    print(table.drop(columns="pos").groupby(["layer", "head"]).agg("mean").to_string())
    print("largest violations, baseline masked:", parts.max_errors())
    records = table.to_dict("records")
    result = Result("inspect", "none", [arguments.seed], settings, {"parts": records})
    print(result.save(arguments.out / "inspect.json"))


def _parse_tokens(text: str) -> torch.Tensor:
    import torch

    try:
        return torch.tensor([[int(part) for part in text.split(",")]])
    except (ValueError, RuntimeError):
        raise PrefixInterpError(
            f"tokens={text!r} is not a list of whole numbers; write e.g. --tokens 3,1,4,1,5"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
