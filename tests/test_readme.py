"""The README's example prints what the README says."""

import contextlib
import io
import math
import re
from pathlib import Path

import prefix_interp as pi
from prefix_interp.experiments.content_blind import content_blind_log_probs

ROOT = Path(__file__).parent.parent


def test_the_example_prints_what_the_readme_shows():
    text = (ROOT / "README.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text, re.S).groups()
    assert len([line for line in code.splitlines() if line.strip()]) <= 21
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    got, expected = printed.getvalue().split(), shown.split()
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        numbers = [re.sub(r"[\[\],()]", "", x) for x in (a, b)]
        try:
            # Another processor may round the last digits, and flip one sequence, differently.
            assert math.isclose(*map(float, numbers), rel_tol=0.02, abs_tol=0.02), (a, b)
        except ValueError:
            assert a == b


def test_the_table_is_the_committed_result():
    from prefix_interp.experiments.summary import table1_rows
    from prefix_interp.experiments.table1 import NEW, OLD
    from prefix_interp.results import committed_result

    text = (ROOT / "README.md").read_text()
    for preset in ("fast", "paper"):
        for row in table1_rows(committed_result("table1", preset)):
            if row["method"].endswith(" prefix"):
                continue  # controls are in the report
            for task in (OLD, NEW):
                score = row[task]["exact_match"]
                assert f"{score['mean'] * 100:.1f} ± {score['sd'] * 100:.1f}" in text, row


def test_table_2_and_what_is_said_of_it_are_the_committed_results():
    import pandas as pd

    from docs.update_readme import table2
    from prefix_interp.experiments.heads_summary import copying_rows, elicited_rows
    from prefix_interp.experiments.subspace_summary import subspace_rows
    from prefix_interp.results import committed_result

    text = (ROOT / "README.md").read_text()
    assert table2() in text
    result = committed_result("heads", "fast")
    rows = pd.DataFrame(elicited_rows(result)).query("parameterization == 'residual'")
    denoise, noise = (rows[rows["direction"] == d] for d in ("denoise", "noise"))
    assert f"{denoise['elicited'].sum()} of {denoise['heads'].sum()} heads" in text
    assert f"only {noise['elicited'].sum()} do" in text
    largest = denoise["largest"]
    assert f"up to {100 * largest.max():.0f} %" in text
    assert f"as little as {100 * largest.min():.0f} %" in text
    gates = {row["tuned_on"]: row for row in copying_rows(result)}
    assert gates["sort_ascending"]["seeds_above_half"] == 9 and "in nine seeds" in text
    others = [gates[t]["other_gate"] for t in ("add_one", "add_two")]
    assert "{:.0f} and {:.0f} % of the others'".format(*(100 * x for x in others)) in text
    out = {
        (r["space"], r["remove"]): r["exact_match"]["mean"]
        for r in subspace_rows(committed_result("subspaces", "fast"))
        if r["part"] == "removal" and r["task"] is None and r["parameterization"] == "residual"
        and r["run"] == "on" and r["level"] == "head"
    }  # fmt: skip
    assert f"leaves {100 * out['own', 'output']:.0f} %" in text
    assert f"a random line {100 * out['random', 'output']:.1f} %" in text


def test_what_is_said_of_theorems_and_of_time_is_committed():
    from docs.update_readme import constructions
    from prefix_interp.results import Result, committed_result

    text = (ROOT / "README.md").read_text()
    assert constructions() in text
    rows = [
        r for r in committed_result("universality", "fast").records
        if r["part"] == "fit" and (r["dim"], r["n_slots"]) == (2, 1024)
    ]  # fmt: skip
    for method, words in (
        ("quadrature", "the function's own values"), ("least squares", "fitted ones"),
        ("least squares, flat", "flatter keys"),
    ):  # fmt: skip
        errors = [r["rmse"]["harmonic"] for r in rows if r["method"] == method]
        assert re.search(rf"{sum(errors) / len(errors):.2g}\s+with {words}", text), method
    again = Result.load(ROOT / "results" / "table2-fast-repeat.json")
    assert f"{again.timing['wall_s'] / 60:.0f} minutes on two cores (`results/table2" in text
    assert again.timing["wall_s"] < 90 * 60


def test_what_is_said_of_suffixes_is_committed():
    from docs.update_readme import suffixes
    from prefix_interp.experiments.ladder_protocol import BLIND, TUNED
    from prefix_interp.experiments.ladder_summary import FRONT, SUFFIXES, ladder_rows, suffix_rows
    from prefix_interp.results import committed_result

    text = (ROOT / "README.md").read_text()
    assert suffixes() in text
    result = committed_result("ladder", "fast")
    assert f"on {result.settings['protocol']['n_test']} unseen inputs" in text
    longest = {1: 1200, 2: 1200, 4: 400}
    new = [r for r in suffix_rows(result)
           if r["asks_for"] == "new" and r["steps"] == longest[r["depth"]]]  # fmt: skip
    by_task = {t: [r for r in new if r["task"] == t]
               for t in ("sort_descending", "double_histogram")}  # fmt: skip
    better = {
        (task, key): sum(r[key] == "better" for r in own)
        for task, own in by_task.items() for key in ("first_verdict", "peer_first_verdict")
    }  # fmt: skip
    assert list(better.values()) == [4, 3, 0, 0] and {len(own) for own in by_task.values()} == {6}
    assert "beats the blind rule in 4 of 6 on descending" in text
    assert "as many vectors tuned in front in 3 of 6" in text
    assert {r["peer_later_verdict"] for r in new} == {"no difference shown"}
    assert "better" not in {r["verdict"] for r in new}
    worse = [r for r in new if r["verdict"] == "worse"]
    assert f"{len(worse)} of 12 are worse, all on the histogram (0.0 against 1.1 %)" in text
    assert {r["task"] for r in worse} == {"double_histogram"}
    for who, share in (("suffix", "0.0"), ("front", "1.1")):
        assert {f"{100 * r[f'{who}_exact_match']['mean']:.1f}" for r in worse} == {share}
    most, histogram = (
        f"{100 * max(r['suffix_exact_match']['mean'] for r in own):.1f} %"
        for own in by_task.values()
    )
    assert f"the most is {most} of descending, {histogram} of the histogram" in text
    (first,) = [r for r in new if (r["depth"], r["task"], r["suffix"])
                == (2, "sort_descending", "suffix at every layer")]  # fmt: skip
    own, peer, blind = (first[f"{who}_first_output"] for who in ("suffix", "peer", "blind"))
    shares = [100 * x for x in (own["mean"], own["low"], own["high"], blind["mean"], peer["mean"])]
    assert "{:.1f} %, {:.0f} to {:.0f}, against {:.1f} and {:.1f})".format(*shares) in text
    assert (first["first_verdict"], first["peer_first_verdict"]) == ("better", "better")
    soft = [r for r in by_task["sort_descending"] if r["suffix"] == "soft suffix"]
    assert all(r["suffix_exact_match"]["mean"] < 5e-4 for r in soft)
    rows = [r for r in ladder_rows(result) if r["method"] == "context"]
    kv = {(r["depth"], r["steps"]): r["exact_match"] for r in rows
          if (r["context"], r["task"]) == ("prefix, kv", "sort_descending")}  # fmt: skip
    last = [kv[group] for group in longest.items()]
    assert "{:.1f}, {:.1f} and {:.1f} % of descending on average at one, two and four".format(
        *(100 * x["mean"] for x in last)
    ) in text  # fmt: skip
    spans = [f"{100 * x['low']:.0f} to {100 * x['high']:.0f}" for x in last]
    assert "with intervals of {}, {} and {}".format(*spans) in text
    short = [100 * kv[depth, 400]["mean"] for depth in (1, 2)]
    assert "({:.1f} and {:.1f} %)".format(*short) in text
    histogram = [r for r in rows if r["task"] == "double_histogram"]
    (floor,) = {r["exact_match"]["mean"] for r in histogram if r["context"] == BLIND}
    assert f"the blind rule's {100 * floor:.1f} %" in text
    assert all(round(r["exact_match"]["mean"], 3) <= round(floor, 3) for r in histogram)
    assert set(TUNED) == {*FRONT, *SUFFIXES}
    # It is always the same digit that the blind rule begins descending with.
    batch = pi.get_task("sort_descending").sample(800, split="test", seed=0)
    said = content_blind_log_probs(pi.get_task("sort_descending"), batch, 0)[:, 0].argmax(-1)
    assert set(said.tolist()) == {7} and "its first output on descending is always 7" in text


def test_what_is_said_of_one_token_is_committed():
    from docs.update_readme import one_token
    from prefix_interp.experiments.capacity_summary import longest_rows
    from prefix_interp.results import committed_result

    text = (ROOT / "README.md").read_text()
    assert one_token() in text
    result = committed_result("language-model", "fast")
    counts = {r["kind"]: r for r in result.records if r["part"] == "distinct"}
    share = counts["hard"]["distinct"] / counts["hard"]["tried"]
    assert f"of the language model's hard tokens, {100 * share:.0f} % are different" in text
    few = counts["hard, as many"]
    assert f"{few['distinct']:.1f} of {few['tried']} hard tokens drawn at random do" in text
    reached = {r["length"]: f"{r['reached']} of {r['tried']}" for r in result.records
               if r["part"] == "length"}  # fmt: skip
    assert f"{reached[1]} random single tokens of SmolLM2 are reached" in text
    assert f"{reached[2]} pairs" in text
    assert reached[4] == reached[10] == "0 of 32" and "none of 4 or 10 tokens" in text
    half = {(r["depth"], r["trained"]): r["half_mean"]
            for r in longest_rows(committed_result("capacity", "fast"))}  # fmt: skip
    assert all(half[depth, True] > half[depth, False] for depth in (1, 2, 4))
    assert half[1, True] >= half[2, True] >= half[4, True]  # more layers do not


def test_the_repeated_table_2_says_the_same():
    from prefix_interp.experiments.table2_summary import diagonal_rows, table2_rows
    from prefix_interp.results import Result, committed_result

    again = Result.load(ROOT / "results" / "table2-fast-repeat.json")
    paper = {"sort_ascending": 95, "sort_descending": 90, "add_one": 95, "add_two": 98}
    for result in (again, committed_result("table2", "fast")):
        own, *_ = [
            r for r in diagonal_rows(table2_rows(result))
            if (r["method"], r["parameterization"], r["init_std"]) == ("prefix", "residual", 0.1)
        ]  # fmt: skip
        assert all(100 * own["own"][task] >= least for task, least in paper.items())
        assert own["other"] <= 0.015
