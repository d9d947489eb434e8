import csv
import io
import math

import pandas as pd
import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.tables import tex, to_csv, to_latex


def cells(frame, digits=3):
    lines = to_latex(frame, digits=digits).splitlines()
    return [line.removesuffix(r" \\").split(" & ") for line in lines[4:-2]]


def test_all_numbers_of_a_column_have_equal_decimals():
    frame = pd.DataFrame(
        {
            "whole": [1, 20, 3], "share": [0.5, 0.25, -0.1234], "large": [123.456, 1.0, 0.01],
            "tiny": [1e-12, 2e-9, 0.0], "gap": [0.5, None, math.nan], "yes": [True, False, True],
        }
    )  # fmt: skip
    columns = list(zip(*cells(frame), strict=True))
    assert columns == [
        ("1", "20", "3"), ("0.500", "0.250", "$-$0.123"), ("123", "1", "0"),
        ("1.00e$-$12", "2.00e$-$09", "0.00e+00"), ("0.500", "", ""), ("True", "False", "True"),
    ]  # fmt: skip
    assert to_latex(frame).splitlines()[0] == r"\begin{tabular}{rrrrrl}"
    assert cells(frame[["share"]], digits=1) == [["0.5"], ["0.2"], ["$-$0.1"]]


def test_every_letter_prints_as_it_reads_and_a_cell_is_one_line():
    assert tex("a\nb_c & 50 % {x} #1 $2 ~^\\ 90 ± 2 <−") == (
        r"a b\_c \& 50 \% \{x\} \#1 \$2 \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r"90 $\pm$ 2 $<$$-$"
    )
    frame = pd.DataFrame({"two\nlines_": ["90.0\npaper 95 ± 2"]})
    lines = to_latex(frame).splitlines()
    assert lines[2] == r"two lines\_ \\" and lines[4] == r"90.0 paper 95 $\pm$ 2 \\"
    assert len(lines) == 7


def test_csv_keeps_every_digit_and_one_line_a_row():
    frame = pd.DataFrame({"x": [0.1 + 0.2, None], "text": ["a\nb, c", 'say "hi"']})
    text = to_csv(frame)
    assert text.count("\n") == 3
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["x", "text"], ["0.30000000000000004", "a b, c"], ["", 'say "hi"']]


def test_files_have_the_ending_of_what_they_hold(tmp_path):
    frame = pd.DataFrame({"a": [1]})
    assert to_latex(frame, tmp_path / "a.tex") == (tmp_path / "a.tex").read_text()
    assert to_csv(frame, tmp_path / "a.csv") == (tmp_path / "a.csv").read_text()
    with pytest.raises(PrefixInterpError, match=r"a\.txt' must end in \.tex; rename it"):
        to_latex(frame, tmp_path / "a.txt")
    with pytest.raises(PrefixInterpError, match=r"must end in \.csv"):
        to_csv(frame, tmp_path / "a.tex")
    with pytest.raises(PrefixInterpError, match="no columns"):
        to_latex(pd.DataFrame())
    with pytest.raises(PrefixInterpError, match="digits=0"):
        to_latex(frame, digits=0)
