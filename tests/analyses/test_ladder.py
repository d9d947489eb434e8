import math
from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from prefix_interp.experiments.capacity import PROTOCOLS as CAPACITY
from prefix_interp.experiments.capacity import capacity
from prefix_interp.experiments.capacity_summary import distinct_rows, length_rows, longest_rows
from prefix_interp.experiments.content_blind import content_blind_hits
from prefix_interp.experiments.ladder import ladder, ladder_seed, ladder_toys
from prefix_interp.experiments.ladder_protocol import BLIND, CONTEXTS, PROTOCOLS, TASKS, TUNED
from prefix_interp.experiments.ladder_summary import METRICS, compare, ladder_rows, suffix_rows
from prefix_interp.experiments.seed_runs import score_rows
from prefix_interp.tuning.evaluate import answer_logits
from prefix_interp.views.capacity import capacity_figure
from prefix_interp.views.capacity_sections import capacity_section
from prefix_interp.views.ladder import ladder_figure, suffix_figure, tuning_length_figure
from prefix_interp.views.ladder_sections import ladder_section, suffix_findings

SMALL = replace(PROTOCOLS["smoke"], depths=(1,), long_depths=(1,), hard_slots=(1,))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("ladder")


@pytest.fixture(scope="module")
def result(work):
    return ladder("smoke", [0], work=work, n_jobs=1, progress=False)


def test_every_context_is_there_for_every_task_and_depth(result):
    rows = ladder_rows(result)
    found = {(r["depth"], r["context"], r["task"]) for r in rows if r["method"] == "context"}
    depths = PROTOCOLS["smoke"].depths
    assert found == {(d, c, t) for d in depths for c in CONTEXTS for t in TASKS}
    for method in ("random", "norm-matched"):
        assert {r["context"] for r in rows if r["method"] == method} == set(TUNED)
    for row in result.records:
        shares = row["by_output"]
        accuracy = row["evaluation"]["token_accuracy"]["value"]
        assert len(shares) == 10 and math.fsum(shares) / 10 == pytest.approx(accuracy, abs=1e-6)


def test_a_finished_seed_is_taken_from_the_work_folder(result, work):
    again = ladder_seed(0, "smoke", work)
    own = [r for r in result.records if r["context"] != BLIND]
    assert again["from_work"] and again["records"] == own
    assert result.timing["seeds_from_work"] == 0


def test_what_was_saved_scores_as_recorded(work, result):
    folder = ladder_toys(0, "smoke", work)[2]
    model = pi.load_toy(folder)
    (saved,) = (folder / "contexts").glob("2-layers-sort_descending-soft-suffix-2")
    prompt = pi.SoftPrompt.load(saved)
    (row,) = [
        r for r in result.records
        if (r["depth"], r["context"], r["steps"], r["task"], r["tuned_on"], r["method"])
        == (2, "soft suffix", 3, "sort_descending", "sort_descending", "context")
    ]  # fmt: skip
    assert (prompt.after, prompt.level) == (10, "embedding")
    score = pi.evaluate(model, "sort_descending", prompt, n=PROTOCOLS["smoke"].n_test)
    assert row["evaluation"] == score.to_dict()


def test_tasks_that_are_new_are_tuned_longer_too(result):
    sizes = PROTOCOLS["smoke"]
    found = {(r["depth"], r["steps"], TASKS[r["task"]]) for r in ladder_rows(result) if r["steps"]}
    kinds = set(TASKS.values())
    short = {(d, sizes.steps, kind) for d in sizes.depths for kind in kinds}
    assert found == short | {
        (d, sizes.long_steps, kind) for d in sizes.long_depths for kind in sizes.long_asks_for
    }


def test_the_blind_rule_is_the_control_of_table_1(result):
    task = pi.get_task("sort_descending")
    hits = content_blind_hits(task, n=PROTOCOLS["smoke"].n_test)
    for row in result.records:
        if row["context"] == BLIND and row["task"] == task.name:
            assert row["evaluation"]["exact_match"]["value"] == float(hits.all(-1).double().mean())
            assert row["by_output"] == [round(float(x), 6) for x in hits.double().mean(0)]
            # No fixed answer beats it: it says the most frequent one at least.
            digits = task.sample(PROTOCOLS["smoke"].n_test, "test", 0).answers[:, 0].bincount()
            assert row["by_output"][0] >= float(digits.max() / digits.sum()) - 0.05


def test_by_output_against_a_loop():
    model, task = pi.build_toy(pi.ToyConfig(n_heads=2, d_model=16)), pi.get_task("add_one")
    (row,) = score_rows({}, model, ["add_one"], baseline="masked", n=7, by_output=True)
    batch = task.sample(7, split="test", seed=0)
    for i, share in enumerate(row["by_output"]):
        # What the model says next, given the right outputs before it and nothing behind.
        said = answer_logits(model, task, batch.tokens[:, : 10 + i])[:, -1].argmax(dim=-1)
        right = sum(int(a == b) for a, b in zip(said, batch.answers[:, i], strict=True))
        assert share == round(right / 7, 6)


def _made_up(values, spread=0.01):
    """A ladder in which the exact match of each context is known, five seeds."""
    records = []
    for seed in range(5):
        for context, value in {BLIND: 0.0, **values}.items():
            for task in TASKS:
                score = {"value": value + spread * seed, "low": 0.0, "high": 1.0}
                records.append({
                    "seed": seed, "depth": 1, "context": context,
                    "n_slots": 0 if context == BLIND else 10,
                    "steps": None if context == BLIND else 400, "method": "context",
                    "task": task, "tuned_on": task, "chosen": True,
                    "evaluation": {
                        **dict.fromkeys(("exact_match", "token_accuracy", "loss"), score), "n": 800
                    },
                    "by_output": [1.0] + [0.5] * 9,
                })  # fmt: skip
    return pi.Result("ladder", "fast", range(5), {}, records)


def _section_of(values, seeds=5):
    result = _made_up(values)
    records = [r for r in result.records if r["seed"] < seeds]
    return suffix_findings(suffix_rows(replace(result, records=records)))[0]


def test_two_seeds_are_too_few_for_a_verdict():
    result = _made_up({c: 0.2 for c in TUNED})
    few = replace(result, records=[r for r in result.records if r["seed"] < 2])
    assert {r["verdict"] for r in suffix_rows(few)} == {"too few seeds to say"}


@pytest.mark.parametrize(
    ("suffix", "verdict"),
    [(0.9, "better"), (0.1, "worse"), (0.49, "no difference shown")],
)
def test_the_verdict_on_suffixes_compares_intervals(suffix, verdict):
    values = {c: 0.2 for c in TUNED} | {"prefix, kv": 0.5, "soft suffix": suffix}
    row = next(r for r in suffix_rows(_made_up(values)) if r["suffix"] == "soft suffix")
    assert row["verdict"] == verdict and row["front"] == "prefix, kv"
    assert row["first_verdict"] == "no difference shown"  # both are always right
    assert (row["peer"], row["peer_exact_match"]["mean"]) == ("soft prompt", pytest.approx(0.22))
    assert row["suffix_first_output"]["mean"] == 1.0
    assert row["suffix_later_outputs"]["mean"] == 0.5


def test_what_is_one_sequence_of_the_test_set_is_no_difference():
    values = {c: 0.0 for c in TUNED} | {"soft suffix": 1 / 800}
    rows = suffix_rows(_made_up(values, spread=0.0))  # all seeds agree: intervals of no width
    assert {r["verdict"] for r in rows} == {"no difference shown"}


def test_the_finding_counts_every_verdict():
    values = {c: 0.2 for c in TUNED} | {"prefix, kv": 0.5, "soft suffix": 0.9}
    same = "at the first output no difference shown in 4, at the later ones no difference shown in"
    finding = _section_of(values)
    # Two suffixes on two new tasks; the one at every layer has 20 %.
    assert "the best tuned context in front of the input: better in 2, worse in 2." in finding
    assert same in finding
    assert "input: too few seeds to say in 4." in _section_of(values, seeds=2)


def test_of_the_loss_the_lower_is_better():
    low, high = ({"n_seeds": 3, "loss": {"low": x, "high": x + 0.1}} for x in (0.1, 1.0))
    assert compare(low, high, "loss") == "better" and compare(high, low, "loss") == "worse"


def test_capacity_counts_what_it_says(work, result, tmp_path):
    found = capacity("smoke", [0], work=tmp_path, ladder_work=work, n_jobs=1, progress=False)
    sizes = CAPACITY["smoke"]
    rows = distinct_rows(found)
    assert {(r["depth"], r["trained"], r["kind"]) for r in rows} == {
        (d, t, k) for d in (1, 2) for t in (True, False) for k in ("hard", "random", "searched")
    }
    hard = [r for r in rows if r["kind"] == "hard"]
    assert all(r["tried"]["mean"] == 11 and r["distinct"]["mean"] <= 11 for r in hard)
    assert {r["length"] for r in length_rows(found)} == set(sizes.lengths)
    assert {r["any"] for r in longest_rows(found)} <= {0, *sizes.lengths}
    assert len(capacity_figure(found).axes) == 2
    section = capacity_section(found)
    assert len(section.numbers["distinct"]) == len(rows) and len(section.findings) == 2
    with pytest.raises(pi.PrefixInterpError, match="holds no finished seed 5"):
        capacity("smoke", [5], ladder_work=work)


def test_figures_show_every_rung(result):
    figure = ladder_figure(result)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert "soft suffix, 2 slots, 3 steps" in labels and "no context" in labels
    assert len(figure.axes) == 2
    for metric in METRICS:
        assert len(suffix_figure(result, metric).axes) == len(TASKS)
    longer = tuning_length_figure(result)
    assert [ax.get_title() for ax in longer.axes] == ["descending, 2 layers", "histogram, 2 layers"]
    assert [t.get_text() for t in longer.axes[0].get_xticklabels()] == ["3", "4"]
    with pytest.raises(pi.PrefixInterpError, match="two lengths are needed"):
        tuning_length_figure(_made_up({c: 0.2 for c in TUNED}))
    with pytest.raises(pi.PrefixInterpError, match="metric='accuracy'"):
        suffix_figure(result, "accuracy")
    with pytest.raises(pi.PrefixInterpError, match="has no contexts"):
        ladder_figure(replace(result, records=[]))


def test_the_section_has_every_number_and_a_conclusion(result):
    section = ladder_section(result)
    assert len(section.numbers["ladder"]) == len(ladder_rows(result))
    assert len(section.numbers["suffixes"]) == 2 * (2 * len(TASKS) + 2)
    assert len(section.findings) == 1 + 2  # one over all, one a depth
    assert "12 comparisons at 1 and 2 layers. Exact match against" in section.findings[0]
    assert section.findings[0].count("too few seeds to say in 12") == 5
    assert all("against" in finding for finding in section.findings[1:])


def test_training_is_told_where_the_slots_stand(work, result):
    seen = {
        (r["context"], r.get("after"), r.get("level"))
        for r in result.records if r["context"] in TUNED and r["method"] == "context"
    }  # fmt: skip
    assert ("soft suffix", 10, "embedding") in seen
    assert ("suffix at every layer", 10, "layers") in seen
    assert ("soft prompt", 0, "embedding") in seen
    assert torch.is_tensor(pi.load_toy(ladder_toys(0, "smoke", work)[1]).W_E)
