import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses.report.sections import picture, records, spread_frame
from analyses.report.tables import frame_table, loss, markdown, mean_and_sd, percent, share

SPREAD = {"mean": 0.25, "sd": 0.1, "low": 0.0, "high": 0.5, "min": 0.1, "max": 0.4}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (1.0, "100.0"), (0.5, "50.0"), (0.0004, "0.040"), (0.9996, "99.960")],
)
def test_a_share_near_an_end_is_not_rounded_to_it(value, text):
    assert percent(value) == text


def test_spreads_as_text():
    assert share(SPREAD) == "25.0 ± 10.0\n[0.0, 50.0]"
    assert share(SPREAD | {"sd": None}) == "25.0"
    assert share(SPREAD | {"sd": 0.0001}).startswith("25.0 ± 0.01\n")
    assert loss(SPREAD) == "0.25 ± 0.1\n[0, 0.5]" and loss(SPREAD | {"sd": None}) == "0.25"
    assert mean_and_sd(SPREAD) == "25.0 ± 10.0"


def test_markdown_has_a_rule_under_its_header():
    assert markdown([["", "a"], ["x", "1"]]) == "|  | a |\n| --- | --- |\n| x | 1 |"


def test_a_frame_as_text():
    frame = pd.DataFrame({"n": [1, 2], "x": [0.123456, float("nan")], "w": ["a", None]})
    table = frame_table(frame)
    assert table.header == ("n", "x", "w")
    assert table.rows == (("1", "0.123", "a"), ("2", "", ""))
    assert records(frame) == [{"n": 1, "x": 0.123456, "w": "a"}, {"n": 2, "x": None, "w": None}]


def test_spreads_become_columns():
    rows = [{"task": "a", "gate": SPREAD, "other": SPREAD}, {"task": "b"}]
    frame = spread_frame(rows, ["gate", "loss"])
    assert list(frame.columns) == ["task", "gate", "gate low", "gate high"]
    assert frame.loc[0].tolist() == ["a", 0.25, 0.0, 0.5] and frame.loc[1].isna().sum() == 3


def test_a_picture_carries_its_numbers():
    own = picture("id", Figure(), "what it shows", "how to read it", pd.DataFrame({"n": [3]}))
    assert own.src.startswith("data:image/svg+xml;base64,") and own.table.rows == (("3",),)
