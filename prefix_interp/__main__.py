"""The commands as ``python -m prefix_interp``, where `prefix-interp` is not on the path."""

import sys

from prefix_interp.cli import main

if __name__ == "__main__":
    sys.exit(main())
