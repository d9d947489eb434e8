"""Run the studies of the paper and write their report: `python -m analyses --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 2 with one line on bad input, 130 on Ctrl-C."""
    try:
        from analyses.command import run  # torch and the studies, which take seconds
    except KeyboardInterrupt:
        print("analyses: interrupted before anything was begun", file=sys.stderr)
        return 130
    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
