"""The library's commands: `prefix-interp inspect | check | tune`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Whatever loads torch is imported inside the handlers, so that --help answers at once.
import prefix_interp as pi
from prefix_interp.cli_check import add_check
from prefix_interp.errors import PrefixInterpError
from prefix_interp.files import check_target, check_writable, is_there
from prefix_interp.overwriting import check_same_run
from prefix_interp.words import counted

if TYPE_CHECKING:
    from prefix_interp.models.host import Model
    from prefix_interp.tuning.recipes import Recipe

# Commands of version 0.1 that moved out of the library with the studies.
MOVED = {
    "reproduce": "python -m analyses NAME (or make reproduce)",
    "report": "python -m analyses report (or make report)",
}

Handler = Callable[[argparse.Namespace], int | None]  # an exit code other than 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code, 2 with one line on bad input."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = argparse.Namespace(left=None)
    try:
        _refuse_moved(argv)
        arguments = _parser().parse_args(argv)
        arguments.check(arguments)
        return _run(arguments)
    except PrefixInterpError as error:
        print(f"prefix-interp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        left = arguments.left and arguments.left(arguments)
        print(f"prefix-interp: interrupted; {left or 'nothing was written'}", file=sys.stderr)
        return 130


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
        name: str, text: str, run: Handler, check: Handler, left: Callable[..., str | None] | None
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        where = "zoo name, or folder of a toy or of a Hugging Face model"
        sub.add_argument("--model", required=True, help=where)
        sub.add_argument("--device", default="cpu", help="cpu, cuda or mps (cpu)")
        sub.add_argument("--seed", type=int, default=0, help="any whole number (0)")
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        sub.add_argument(
            "--overwrite", action="store_true", help="replace what another run wrote to --out"
        )
        sub.set_defaults(run=run, check=check, left=left, done=False)
        return sub

    look = command(
        "inspect", "show what a prefix does, on one page", _inspect, _check_inspect, None
    )
    look.add_argument("--prefix", required=True, help="folder, or a key of the model's zoo entry")
    look.add_argument("--task", help="inputs to run (the task that the prefix was tuned on)")
    look.add_argument("--tokens", help="instead: token numbers with commas, e.g. 3,1,4,1,5")
    look.add_argument(
        "--text", type=Path, help="instead: a file with a text a line, .txt or .jsonl"
    )
    look.add_argument(
        "--out", type=Path, default=Path("inspect"), help="folder, or a page.html (inspect)"
    )

    tune = command("tune", "tune a prefix for a toy", _tune, _check_tune, _left_by_tune)
    tune.add_argument("--task", required=True, help="what the prefix should do")
    tune.add_argument("--n-slots", type=int, default=1, help="slots (1)")
    tune.add_argument("--parameterization", default="residual", help="residual or kv (residual)")
    tune.add_argument("--preset", default="fast", help="paper, fast or smoke (fast)")
    tune.add_argument("--lr", type=float, help="instead of the preset's")
    tune.add_argument("--steps", type=int, help="instead of the preset's")
    tune.add_argument("--precision", help="float32, bfloat16 or auto (the preset's)")
    tune.add_argument("--out", type=Path, default=Path("prefix"), help="folder (prefix)")
    tune.add_argument(
        "--checkpoint", type=Path,
        help="file to resume from after an interruption, removed at the end (OUT.checkpoint)",
    )  # fmt: skip
    add_check(commands)
    return parser


def _refuse_moved(argv: Sequence[str]) -> None:
    if argv and argv[0] in MOVED:
        raise PrefixInterpError(
            f"command={argv[0]!r} is not in the library any more; run {MOVED[argv[0]]} "
            f"in a checkout of the repository"
        )


def _run(arguments: argparse.Namespace) -> int:
    from prefix_interp.tuning.parallel import one_thread

    # A toy's runs have the same bits on any number of cores; a language model takes all there are.
    with nullcontext() if _is_hub(arguments.model) else one_thread():
        return arguments.run(arguments) or 0


def _is_hub(model: str) -> bool:
    """Return whether a name is the folder, or the .gguf file, of a Hugging Face model."""
    return (Path(model) / "config.json").exists() or Path(model).suffix == ".gguf"


def _load_model(arguments: argparse.Namespace) -> Model:
    from prefix_interp.models.device import check_device

    check_device(arguments.device)
    if _is_hub(arguments.model):
        return pi.load_pretrained(arguments.model, device=arguments.device)
    model = pi.load_toy(arguments.model)
    model.to(arguments.device, print_details=False)
    return model


def _check_tune(arguments: argparse.Namespace) -> None:
    if arguments.checkpoint is None:
        arguments.checkpoint = Path(f"{arguments.out.resolve()}.checkpoint")
    check_writable(arguments.out)
    check_target(arguments.checkpoint)
    if arguments.checkpoint.resolve().parent == arguments.out.resolve():
        raise PrefixInterpError(
            f"checkpoint={str(arguments.checkpoint)!r} is in the folder of --out, whose files it "
            "could replace; name a file elsewhere"
        )


def _tune(arguments: argparse.Namespace) -> None:
    model = _load_model(arguments)
    recipe = pi.Recipe.from_preset(
        arguments.preset, "prefix", lr=arguments.lr, steps=arguments.steps,
        precision=arguments.precision,
    )  # fmt: skip
    if not arguments.overwrite:
        _refuse_other_prefix(arguments, model, recipe)
    if is_there(arguments.checkpoint):
        print(f"resuming from {arguments.checkpoint}")
    fit = pi.tune_prefix(
        model,
        arguments.task,
        arguments.n_slots,
        parameterization=arguments.parameterization,
        recipe=recipe,
        seed=arguments.seed,
        checkpoint=arguments.checkpoint,
        progress=not arguments.quiet,
    )
    slots = counted(fit.prefix.n_slots, "slot")
    scores = f"exact match {fit.evaluation.exact_match}, loss {fit.evaluation.loss}"
    print(f"{arguments.task}, {arguments.parameterization}, {slots}: {scores}")
    print(fit.prefix.save(arguments.out))
    arguments.done = True
    for file in (arguments.checkpoint, Path(f"{arguments.checkpoint}.scores.json")):
        file.unlink(missing_ok=True)


def _refuse_other_prefix(arguments: argparse.Namespace, model: Model, recipe: Recipe) -> None:
    """Raise if the folder holds a prefix that this command would not make."""
    from prefix_interp.models.model import model_id

    files = [arguments.out / f"{pi.Prefix.STEM}.{end}" for end in ("json", "safetensors")]
    if not any(map(is_there, files)):
        return
    now = {
        "task": arguments.task, "parameterization": arguments.parameterization,
        "positions": "shift", "key_form": "projected", "n_slots": arguments.n_slots,
        "preset": recipe.preset,
        "seed": arguments.seed, "start": 0,
        "recipe": recipe.to_dict(), "model_id": model_id(model),
    }  # fmt: skip
    try:
        found = pi.Prefix.load(arguments.out)
    except PrefixInterpError:
        check_same_run(arguments.out, None, now)
    else:
        about = {"n_slots": found.n_slots, "model_id": found.model_id}
        check_same_run(arguments.out, {**found.settings, **about, **found.metadata}, now)


def _left_by_tune(arguments: argparse.Namespace) -> str | None:
    """Return what an interrupted tuning has left."""
    if arguments.done:
        return f"the prefix is saved in {str(arguments.out)!r}"
    if arguments.checkpoint is not None and is_there(arguments.checkpoint):
        return f"the same command resumes from {str(arguments.checkpoint)!r}"
    return "nothing was saved, since it came before the first checkpoint"


def _check_inspect(arguments: argparse.Namespace) -> None:
    from prefix_interp.cli_inspect import check_inspect

    check_inspect(arguments)


def _inspect(arguments: argparse.Namespace) -> None:
    from prefix_interp.cli_inspect import run_inspect

    for line in run_inspect(arguments, _load_model(arguments)):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
