import pytest

from prefix_interp.results import committed_result
from prefix_interp.views.theory_sections import constructions_section, universality_section


def test_every_row_of_the_constructions_came_out_right():
    result = committed_result("constructions", "fast")
    section = constructions_section(result)
    counts = section.numbers["right"]
    assert len(counts) == sum(r["part"] == "right" for r in result.records)
    assert all(row["right"] == row["checked"] for row in counts)
    assert "10,000" not in section.findings[0]  # summed over both sizes of Theorem 1
    assert "Theorem 1: any sequence 14,096 of 14,096" in section.findings[0]
    sharp = section.numbers["sharp"]
    for row in sharp:
        if row["offset"] >= 0:
            assert row["hardest"] and row["exact"] == 1, row
        # From V = 10 on the room left for rounding is more than 1e-6, see `any_map_of_pairs`.
        elif row["construction"] != "any map of two tokens" or row["n_tokens"] < 10:
            assert not row["hardest"], row
        elif row["offset"] < -0.01 and row["n_tokens"] < 13:
            assert not row["hardest"], row
    assert {r["n_tokens"] for r in sharp if r["n_tokens"] not in (94,)} == set(range(3, 14))


def test_what_universality_says_is_in_its_rows():
    result = committed_result("universality", "fast")
    section = universality_section(result)
    rows = section.numbers["fits"]
    (row,) = [
        r for r in rows
        if (r["sphere"], r["function"], r["method"], r["slots"])
        == (2, "harmonic", "quadrature", 1024)
    ]  # fmt: skip
    own = [
        r["rmse"]["harmonic"] for r in result.records
        if r["part"] == "fit" and (r["dim"], r["method"], r["n_slots"]) == (2, "quadrature", 1024)
    ]  # fmt: skip
    assert row["rmse"] == pytest.approx(sum(own) / len(own)) and len(own) == 10
    assert f"{row['rmse']:.2g} with 1024;" in section.findings[0]
    assert all(r["eq. 6"] < 1e-14 and r["rank"] <= r["bound"] for r in rows if r["slots"])
