"""Tables as LaTeX and CSV: every number of a column with the same number of decimals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd

from prefix_interp.errors import PrefixInterpError, check_positive
from prefix_interp.files import write_file

_MAX_DECIMALS = 6  # smaller numbers are written with an exponent
_TEX: dict[str, str] = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "→": r"$\to$", "<": "$<$",
    ">": "$>$", "|": "$|$",
}  # fmt: skip


def to_latex(frame: pd.DataFrame, path: str | Path | None = None, digits: int = 3) -> str:
    r"""Return a table as LaTeX for the package booktabs, and write it if `path` is given.

    A column of numbers is aligned to the right and has one number of decimals, so that its largest
    number has `digits` digits; tiny and huge numbers have exponents. Cells and headers are escaped;
    a cell of several lines becomes one.

    Args:
        frame: one row a line; its index is left out.
        path: a file ending in ``.tex``, or None.
        digits: of the largest number of each column.

    Raises:
        PrefixInterpError: a table without columns, another ending, or no such folder.

    Example:
        >>> import pandas as pd
        >>> from prefix_interp.tables import to_latex
        >>> print(to_latex(pd.DataFrame({"head_name": ["a & b"], "share": [0.5]})))
        \begin{tabular}{lr}
        \toprule
        head\_name & share \\
        \midrule
        a \& b & 0.500 \\
        \bottomrule
        \end{tabular}
        <BLANKLINE>
    """
    check_positive("digits", digits)
    if not len(frame.columns):
        raise PrefixInterpError("frame has no columns; give a table with at least one")
    columns = [frame.iloc[:, i].tolist() for i in range(frame.shape[1])]
    align = "".join("r" if _numbers(column) else "l" for column in columns)
    lines = zip(*(_texts(column, digits) for column in columns), strict=True)
    rows = [" & ".join(map(tex, line)) + r" \\" for line in lines]
    header = " & ".join(tex(str(name)) for name in frame.columns) + r" \\"
    text = "\n".join(
        [
            rf"\begin{{tabular}}{{{align}}}", r"\toprule", header, r"\midrule", *rows,
            r"\bottomrule", r"\end{tabular}", "",
        ]
    )  # fmt: skip
    return _written(text, path, ".tex")


def to_csv(frame: pd.DataFrame, path: str | Path | None = None) -> str:
    """Return a table as CSV with every digit of its numbers, and write it if `path` is given.

    Args:
        frame: one row a line; its index is left out.
        path: a file ending in ``.csv``, or None.

    Raises:
        PrefixInterpError: another ending, or no such folder.

    Example:
        >>> import pandas as pd
        >>> from prefix_interp.tables import to_csv
        >>> to_csv(pd.DataFrame({"head": [0], "share": [0.5]})).splitlines()
        ['head,share', '0,0.5']
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.astype(object).itertuples(index=False, name=None):
        writer.writerow(["" if _missing(x) else _line(x) for x in row])
    return _written(buffer.getvalue(), path, ".csv")


def tex(text: str) -> str:
    """Return a text as one line of LaTeX that prints as it reads."""
    line: str = _line(text)
    return "".join(_TEX.get(letter, letter) for letter in line)


def _line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _numbers(column: Iterable[Any]) -> bool:
    found = [x for x in column if not _missing(x)]
    return bool(found) and all(isinstance(x, Real) and not isinstance(x, bool) for x in found)


def _texts(column: Sequence[Any], digits: int) -> list[str]:
    """Return the cells of a column: whole numbers as they are, others with equal decimals."""
    found = [x for x in column if not _missing(x)]
    if not _numbers(column) or all(isinstance(x, Integral) for x in found):
        return ["" if _missing(x) else str(x) for x in column]
    top = max((abs(float(x)) for x in found if math.isfinite(x)), default=0.0)
    decimals = max(0, digits - 1 - (math.floor(math.log10(top)) if top else 0))
    scientific = decimals > _MAX_DECIMALS or top > 10**_MAX_DECIMALS
    form = f"{{:.{digits - 1}e}}" if scientific else f"{{:.{decimals}f}}"
    return ["" if _missing(x) else form.format(float(x)).replace("-", "−", 1) for x in column]


def _written(text: str, path: str | Path | None, ending: str) -> str:
    if path is not None:
        if Path(path).suffix.lower() != ending:
            raise PrefixInterpError(f"path={str(path)!r} must end in {ending}; rename it")
        write_file(path, text)
    return text
