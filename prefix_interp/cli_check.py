"""The command `prefix-interp check`: does a prefix act, under the libraries installed here?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prefix_interp.errors import PrefixInterpError

_MAX_LINES = 32
_ABOUT = "say whether a prefix acts, by each way to run it here; exit code 1 if one is broken"


def add_check(commands: Any) -> None:
    """Add the command to the subparsers of the command line."""
    sub = commands.add_parser("check", help=_ABOUT, description=_ABOUT)
    sub.add_argument("--model", required=True, help="folder, .gguf file, or name of a toy")
    sub.add_argument(
        "--prefix", required=True, help="folder of a PEFT adapter or of ours, or a toy's key"
    )
    sub.add_argument(
        "--text",
        type=Path,
        help=f".txt or .jsonl with a text a line; the first {_MAX_LINES} count (four sentences)",
    )
    sub.set_defaults(run=_check, check=lambda arguments: None, left=None, done=False)


def _check(arguments: argparse.Namespace) -> int:
    """Print the table; return the exit code."""
    from prefix_interp.inspection.text_files import read_texts
    from prefix_interp.models.zoo import list_toys, load_toy
    from prefix_interp.prefixes.check import check_context
    from prefix_interp.prefixes.prefix import load_prefixes

    texts = None if arguments.text is None else read_texts(arguments.text)[:_MAX_LINES]
    model, prefix = arguments.model, arguments.prefix
    if model in list_toys():
        if texts is not None:
            raise PrefixInterpError(
                f"text={str(arguments.text)!r} does not go with a toy, which reads no text; leave "
                "it out"
            )
        model, prefix = load_toy(model), load_prefixes(model).get(prefix, prefix)
    found = check_context(model, prefix, texts)
    rows = zip(found.questions, found.verdicts, found.sentences, strict=True)
    for question, verdict, says in rows:
        print(f"{verdict:12}{question}: {says}")
    print(found.caption())
    return 0 if found.passed else 1
