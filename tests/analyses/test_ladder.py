import math
from dataclasses import asdict, replace

import pytest

import prefix_interp as pi
from analyses.kept import Kept
from analyses.ladder import STUDY
from analyses.ladder.figures import ladder_figure, suffix_figure, tuning_length_figure
from analyses.ladder.protocol import BLIND, CONTEXTS, TASKS, TUNED, toy_name
from analyses.ladder.section import controls
from analyses.ladder.tables import METRICS, compare, ladder_rows, tables, verdict_counts
from analyses.registry import evidence_of
from analyses.scores import score_rows
from analyses.study import Job
from prefix_interp.estimates import wilson
from prefix_interp.results import Result
from prefix_interp.tasks import Batch
from prefix_interp.tuning.content_blind import content_blind_hits
from prefix_interp.tuning.evaluate import answer_logits

SIZES = replace(STUDY.protocols["smoke"], depths=(1,), long_depths=(1,), hard_slots=(1,))
TOY = toy_name(1)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return Kept(tmp_path_factory.mktemp("ladder"))


@pytest.fixture(scope="module")
def result(kept):
    found = STUDY.measure(Job(0, "smoke", SIZES, keeps=kept))
    return Result("ladder", "fast", [0], {"protocol": asdict(SIZES)}, found)


def test_every_context_is_there_for_every_task_and_depth(result):
    rows = ladder_rows(result.rows())
    found = {(r["depth"], r["context"], r["task"]) for r in rows if r["method"] == "context"}
    assert found == {(1, c, t) for c in CONTEXTS for t in TASKS}
    for method in ("random", "norm-matched"):
        assert {r["context"] for r in rows if r["method"] == method} == set(TUNED)
    for row in result.rows():
        shares = row["by_output"]
        accuracy = row["evaluation"]["token_accuracy"]["value"]
        assert len(shares) == 10 and math.fsum(shares) / 10 == pytest.approx(accuracy, abs=1e-6)


def test_what_was_saved_scores_as_recorded(kept, result):
    model = kept.toy(TOY)
    prompt = kept.context(TOY, "1-layers-sort_descending-soft-suffix-2")
    (row,) = [
        r for r in result.rows()
        if (r["depth"], r["context"], r["steps"], r["task"], r["tuned_on"], r["method"])
        == (1, "soft suffix", 3, "sort_descending", "sort_descending", "context")
    ]  # fmt: skip
    assert (prompt.position, prompt.layers) == (10, "embedding")
    score = pi.evaluate(model, "sort_descending", prompt, n=SIZES.n_test)
    assert row["evaluation"] == score.to_dict()
    assert (row["position"], row["layers"]) == (10, "embedding")


def test_contexts_stand_where_they_say_while_they_are_tuned(kept, result):
    """Each tuned anew from its description, alone, on the toy that was kept: the same numbers."""
    model, task = kept.toy(TOY), "double_histogram"
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=SIZES.long_steps, lr=SIZES.lrs[0])
    prefixes = {f"prefix-{kind}": {"parameterization": kind} for kind in ("residual", "kv")}
    prompts = {
        "soft-prompt": {"position": 0, "layers": "embedding"},
        "soft-suffix": {"position": 10, "layers": "embedding"},
        "suffix-at-every-layer": {"position": 10, "layers": "all"},
    }
    for name, where in {**prefixes, **prompts}.items():
        tune = pi.tune_prefix if name in prefixes else pi.tune_soft_prompt
        context = tune(model, task, 2, recipe=recipe, progress=False, **where).context
        own = kept.context(TOY, f"1-layers-{task}-{name}-2-{SIZES.long_steps}-steps")
        assert type(own) is type(context)
        for key, tensor in context.tensors.items():
            assert own.tensors[key].equal(tensor), name


def test_tasks_that_are_new_are_tuned_longer_too(result):
    found = {(r["steps"], r["asks_for"]) for r in ladder_rows(result.rows()) if r["steps"]}
    assert found == {*((3, kind) for kind in TASKS.values()), (4, "new")}


def test_the_blind_rule_is_the_control_of_table_1(result):
    task = pi.get_task("sort_descending")
    hits = content_blind_hits(task, n=SIZES.n_test)
    for row in result.rows():
        if row["context"] == BLIND and row["task"] == task.name:
            assert row["evaluation"]["exact_match"]["value"] == float(hits.all(-1).double().mean())
            assert row["by_output"] == [round(float(x), 6) for x in hits.double().mean(0)]
            # No fixed answer beats it: it says the most frequent one at least.
            digits = task.sample(SIZES.n_test, "test", 0).answers[:, 0].bincount()
            assert row["by_output"][0] >= float(digits.max() / digits.sum()) - 0.05


def test_by_output_against_a_loop():
    model, task = pi.build_toy(pi.ToyConfig(n_heads=2, d_model=16)), pi.get_task("add_one")
    (row,) = score_rows({}, model, ["add_one"], baseline="masked", n=7, by_output=True)
    batch = task.sample(7, split="test", seed=0)
    for i, share in enumerate(row["by_output"]):
        # What the model says next, given the right outputs before it and nothing behind.
        said = answer_logits(model, Batch(batch.tokens[:, : 10 + i], batch.answers[:, : i + 1]))[
            :, -1
        ]
        said = said.argmax(dim=-1)
        right = sum(int(a == b) for a, b in zip(said, batch.answers[:, i], strict=True))
        assert share == round(right / 7, 6)


def _made_up(values, spread=0.01, seeds=5):
    """A ladder in which the exact match of each context is known: value + spread * seed."""
    records = []
    for seed in range(seeds):
        for context, value in {BLIND: 0.0, **values}.items():
            for task in TASKS:
                score = wilson(800 * (value + spread * seed), 800).to_dict()
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
    return Result("ladder", "fast", range(seeds), {}, {"rows": records})


@pytest.mark.parametrize(
    ("suffix", "verdict"),
    [(0.9, "better"), (0.1, "worse"), (0.49, "no difference shown")],
)
def test_the_verdict_on_suffixes_compares_intervals(suffix, verdict):
    values = {c: 0.2 for c in TUNED} | {"prefix, kv": 0.5, "soft suffix": suffix}
    rows = tables(_made_up(values))["suffixes"]
    row = next(r for r in rows if r["suffix"] == "soft suffix")
    assert row["verdict"] == verdict and row["front"] == "prefix, kv"
    assert row["first_verdict"] == "no difference shown"  # both are always right
    assert (row["peer"], row["peer_exact_match"]["mean"]) == ("soft prompt", pytest.approx(0.22))
    assert row["suffix_first_output"]["mean"] == 1.0
    assert row["suffix_later_outputs"]["mean"] == 0.5


def test_what_is_one_sequence_of_the_test_set_is_no_difference():
    values = {c: 0.0 for c in TUNED} | {"soft suffix": 1 / 800}
    rows = tables(_made_up(values, spread=0.0))["suffixes"]  # seeds agree: no width
    assert {r["verdict"] for r in rows} == {"no difference shown"}


def test_verdicts_are_counted():
    values = {c: 0.2 for c in TUNED} | {"prefix, kv": 0.5, "soft suffix": 0.9}
    # Two suffixes on four tasks; the one at every layer has 20 %.
    rows = tables(_made_up(values))["suffixes"]
    assert verdict_counts(rows, "verdict") == {"better": 4, "worse": 4}
    assert verdict_counts(rows, "peer_later_verdict") == {"no difference shown": 8}
    few = tables(_made_up(values, seeds=2))["suffixes"]
    assert verdict_counts(few, "verdict") == {"too few seeds to say": 8}


def test_of_the_loss_the_lower_is_better():
    low, high = ({"n_seeds": 3, "loss": {"low": x, "high": x + 0.1}} for x in (0.1, 1.0))
    assert compare(low, high, "loss") == "better" and compare(high, low, "loss") == "worse"


def test_the_heat_map_has_the_mean_of_every_rung_and_task():
    values = {context: 0.1 * i for i, context in enumerate(TUNED)}
    rows = tables(_made_up(values))["ladder"]
    (ax,) = ladder_figure(rows).axes
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == [BLIND, *(f"{c}, 10 slots, 400 steps" for c in TUNED)]
    shown = ax.images[0].get_array()
    assert shown.shape == (1 + len(TUNED), len(TASKS))
    for i, context in enumerate(TUNED):
        assert shown[1 + i].tolist() == pytest.approx([100 * (values[context] + 0.02)] * len(TASKS))


def test_what_was_not_measured_stays_empty():
    result = _made_up({c: 0.2 for c in TUNED})
    lacks = ("soft prompt", "sort_ascending")
    left = [r for r in result.rows() if (r["context"], r["task"]) != lacks]
    (ax,) = ladder_figure(ladder_rows(left)).axes
    shown = ax.images[0].get_array()
    assert shown.mask[1, 0] and shown.mask.sum() == 1 and len(ax.texts) == shown.size - 1


def test_figures_show_means_by_depth_and_by_steps(result):
    deeper = [{**r, "depth": 2} for r in result.rows() if r["steps"] != 4]
    rows = ladder_rows([*result.rows(), *deeper])
    for metric in METRICS:
        axes = suffix_figure(rows, metric).axes
        assert len(axes) == len(TASKS)
        scale = 1 if metric == "loss" else 100
        for ax, task in zip(axes, TASKS, strict=True):
            for line, context in zip(ax.containers, TUNED, strict=True):
                means = [
                    scale * r[metric]["mean"] for r in rows
                    if (r["context"], r["task"], r["method"], r["steps"])
                    == (context, task, "context", 3)
                ]  # fmt: skip
                assert line.lines[0].get_ydata() == pytest.approx(means)
                assert len(means) == 2
    longer = tuning_length_figure(rows)
    assert [ax.get_title() for ax in longer.axes] == [
        "sort descending, 1 layer",
        "double histogram, 1 layer",
    ]
    assert [t.get_text() for t in longer.axes[0].get_xticklabels()] == ["3", "4"]
    with pytest.raises(pi.PrefixInterpError, match="two lengths are needed"):
        tuning_length_figure(tables(_made_up({c: 0.2 for c in TUNED}))["ladder"])
    with pytest.raises(pi.PrefixInterpError, match="metric='accuracy'"):
        suffix_figure(rows, "accuracy")
    with pytest.raises(pi.PrefixInterpError, match=r"rows=\[\] has nothing to draw"):
        ladder_figure([])


def test_the_section_has_every_row_and_counts_the_comparisons(result):
    evidence = evidence_of([result])
    section, summary = STUDY.section(evidence), evidence.tables("ladder")
    assert len(section.numbers["ladder"]) == len(summary["ladder"])
    assert len(section.numbers["suffixes"]) == 2 * (len(TASKS) + 2)
    assert "of 4 comparisons" in section.text or "comparisons" in section.text


def test_the_controls_are_those_of_the_tuned_contexts(result):
    """Their slots are those of the tuned contexts, not those of the longest examples."""
    rows = STUDY.tables(result)["ladder"]
    most = max(r["n_slots"] for r in rows)
    assert most > max(r["n_slots"] for r in rows if r["method"] != "context")
    table = controls(rows).table
    kinds = {(r["method"], r["context"], r["task"]) for r in rows if r["method"] != "context"}
    assert len(table.rows) == len(kinds) > 0
    assert {row[0] for row in table.rows} == {"random", "norm-matched"}


def test_the_findings_show_the_longest_tuning_of_new_tasks(result):
    evidence = evidence_of([result])
    lines = [line.split(" | ") for line in STUDY.findings["suffixes"](evidence).splitlines()]
    cells = {(line[0], line[1]): line[2:] for line in lines[2:]}
    assert list(cells) == [("| 1, 4", context) for context in (BLIND, *TUNED)]
    for context in TUNED:
        (row,) = [
            r for r in evidence.tables("ladder")["ladder"]
            if (r["steps"], r["context"], r["task"], r["method"])
            == (4, context, "double_histogram", "context")
        ]  # fmt: skip
        own = cells["| 1, 4", context]
        assert own[3].split()[0] == f"{100 * row['exact_match']['mean']:.1f}"
        assert own[4].split()[0] == f"{100 * row['first_output']['mean']:.1f}"
        assert own[5].split()[0] == f"{row['loss']['mean']:.2f}"
