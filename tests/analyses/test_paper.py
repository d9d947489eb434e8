import math

from analyses.paper import table1_frame, table2_frame
from analyses.table1.measure import NEW, OLD
from analyses.table2.tables import tables
from prefix_interp.tables import to_csv, to_latex
from tests.analyses.test_table2 import made_up


def test_table_2_is_a_number_a_cell_and_one_line_a_row():
    frame = table2_frame(tables(made_up())["rows"])
    own = frame[frame["tuned on"] == "sort ascending"].iloc[0]
    assert own["sort ascending (%)"] == 90.0 and own["sort ascending, paper (%)"] == 95.0
    assert own["add one (%)"] == 1.0 and "+1" not in to_csv(frame)
    lines = to_latex(frame).splitlines()
    assert len(lines) == len(frame) + 6 and all(x.endswith(r"\\") for x in lines[4:-2])
    assert {x.count("&") for x in lines[4:-2]} == {len(frame.columns) - 1}


def test_table_1_has_ours_and_the_papers():
    exact = {"mean": 0.931, "sd": 0.02}
    row = {
        "method": "prefix", "parameterization": "residual", "n_slots": 1,
        "paper": {OLD: (0, 0), NEW: (0, 0)}, OLD: {"exact_match": exact},
        NEW: {"exact_match": {"mean": 0.0, "sd": None}},
    }  # fmt: skip
    (found,) = table1_frame([row]).to_dict("records")
    assert found["prefix"] == "residual, 1 slot"
    assert math.isclose(found["sort ascending (%)"], 93.1)
    assert found["sort descending, paper (%)"] == 0.0
    assert found["sort descending, sd"] is None or math.isnan(found["sort descending, sd"])
