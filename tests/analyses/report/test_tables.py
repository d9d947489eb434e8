import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses.report.sections import picture, records, spread_frame
from analyses.report.tables import (
    Column,
    decimals,
    markdown,
    mean_and_sd,
    mean_of,
    mean_share,
    percent,
    power,
    rows_table,
    share,
    whole,
)

SPREAD = {"mean": 0.25, "sd": 0.1, "low": 0.0, "high": 0.5, "min": 0.1, "max": 0.4}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (1.0, "100.0"),
        (0.5, "50.0"),
        (0.0004, "< 0.1"),
        (0.9996, "> 99.9"),
        (-0.238, "−23.8"),
    ],
)
def test_a_share_near_an_end_is_not_rounded_to_it(value, text):
    assert percent(value) == text


def test_spreads_as_text():
    assert share(SPREAD) == "25.0 ± 10.0\n[0.0, 50.0]"
    assert share(SPREAD | {"sd": None}) == "25.0"
    assert mean_share(SPREAD) == "25.0 (0.0 to 50.0)"
    assert mean_of(2)(SPREAD) == "0.25 (0.00 to 0.50)"
    assert mean_and_sd(SPREAD) == "25.0 ± 10.0"


def test_powers_of_ten():
    assert power(6.8e-16) == "6.8\u00a0×\u00a010⁻¹⁶" and power(6.8e-16, 0) == "7\u00a0×\u00a010⁻¹⁶"
    assert power(1e-10, 0) == "10⁻¹⁰" and power(0.25) == "0.25"
    assert whole(4096) == "4,096" and decimals(2)(-0.542) == "−0.54"
    assert decimals(2)(-0.002) == "0.00"


def test_markdown_has_a_rule_under_its_header():
    assert markdown([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | --- |\n| x | 1 |"


def test_rows_as_text_with_one_number_of_digits_a_column():
    rows = [{"n": 1, "x": 0.5, "w": "a"}, {"n": 2, "x": float("nan"), "w": None}, {"n": 3, "x": 2}]
    table = rows_table(rows, [Column("Count", "n"), Column("Size", "x", decimals(2)),
                              Column("Name", "w")])  # fmt: skip
    assert table.header == ("Count", "Size", "Name")
    assert table.rows == (("1", "0.50", "a"), ("2", "", ""), ("3", "2.00", ""))


def test_frames_as_records():
    frame = pd.DataFrame({"n": [1, 2], "x": [0.123456, float("nan")], "w": ["a", None]})
    assert records(frame) == [{"n": 1, "x": 0.123456, "w": "a"}, {"n": 2, "x": None, "w": None}]


def test_spreads_become_columns():
    rows = [{"task": "a", "gate": SPREAD, "other": SPREAD}, {"task": "b"}]
    frame = spread_frame(rows, ["gate", "loss"])
    assert list(frame.columns) == ["task", "gate", "gate low", "gate high"]
    assert frame.loc[0].tolist() == ["a", 0.25, 0.0, 0.5] and frame.loc[1].isna().sum() == 3


def figure():
    drawn = Figure(figsize=(3, 2))
    drawn.subplots().plot([0.123456, 1], [0, 1], label="1.00")
    drawn.legend()
    return drawn


def test_a_picture_is_a_small_drawing_or_pixels():
    own = picture("id", figure(), "what it shows", "how to read it")
    assert own.src.startswith("data:image/svg+xml,<svg") and '"' not in own.src
    assert own.src == picture("id", figure(), "", "").src  # the same in every run
    assert ">1.00</text>" in own.src  # numbers in words keep their digits
    dense = picture("id", figure(), "", "", dense=True)
    assert dense.src.startswith("data:image/png;base64,")
