import json

import pytest

from benchmarks import __main__ as command
from benchmarks.compare import compare, of_pairs


def test_a_ratio_is_the_median_over_rounds_with_its_middle_half():
    pairs = [(1.0, r) for r in (9.0, 2.0, 3.0, 4.0, 1.0)]
    found = of_pairs("work", "peer", pairs)
    assert (found.ratio, found.low, found.high, found.rounds) == (3.0, 2.0, 4.0, 5)
    assert (found.seconds, found.peer_seconds) == (1.0, 3.0)
    assert "peer 3000.0 ms, ratio 3.00 (2.00 to 4.00)" in str(found)


def test_both_take_turns_and_the_first_round_does_not_count():
    calls = []
    found = compare("work", lambda: calls.append(0), "peer", lambda: calls.append(1), rounds=2)
    assert calls == [1, 0, 0, 1, 1, 0] and found.rounds == 2


@pytest.mark.slow
def test_the_command_writes_numbers_and_a_picture(tmp_path, capsys):
    command.main(["evaluation", "matrix_rate", "--out", str(tmp_path / "bench")])
    record = json.loads((tmp_path / "bench" / "bench.json").read_text())
    (ratio,), (cost,) = record["ratios"], record["costs"]
    assert ratio["peer"] == "generation without a cache" and ratio["ratio"] > 0
    assert cost["unit"] == "%" and "torch" in record["about"]
    assert (tmp_path / "bench" / "bench.png").stat().st_size > 1000
    assert "evaluation of 800 sequences" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["sweeep"])
    assert "did you mean 'sweep'" in capsys.readouterr().err
