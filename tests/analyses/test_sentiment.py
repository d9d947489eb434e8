from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from analyses.models import Review
from analyses.registry import evidence_of
from analyses.runs import run_study
from analyses.sentiment import STUDY, data, methods
from analyses.sentiment.data import Sentences, shown
from analyses.sentiment.lora import lora_shape, with_lora
from analyses.sentiment.methods import start_prefix
from analyses.sentiment.section import sentiment_figure
from prefix_interp.models.weights import plain_copy
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.tuning.lora_peft import trained
from tests.helpers import assert_close
from tests.tiny_language_models import language_model, random_tokens

KINDS = ("zero", "text", "random")
SENTENCES = Sentences(n_validation=8, test_share=0.25, answers=(" w5", " w6"))


def reviews():
    return [Review(f"w{10 + i} w{20 + i % 7} w{30 + i % 5}", i % 2 == 0) for i in range(40)]


@pytest.fixture(scope="module")
def study():
    smoke = replace(STUDY.protocols["smoke"], sentences=SENTENCES)
    return replace(STUDY, protocols={"smoke": smoke, "fast": smoke})


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


@pytest.fixture(scope="module")
def run(study, model, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data.models, "movie_reviews", reviews)
            return run_study(
                study, "smoke", [0], work=work, n_jobs=1, progress=False, model=model,
                model_name="tiny",
            )  # fmt: skip

    run.work = work
    return run


@pytest.fixture(scope="module")
def result(run):
    return run()


def test_every_method_is_scored_once(result):
    scores = result.rows("scores")
    assert [row["method"] for row in scores[:3]] == ["zero-shot", "few-shot", "instruction"]
    tuned = [(r["parameterization"], r["n_slots"], r["start"])
             for r in scores if r["method"] == "prefix"]  # fmt: skip
    assert len(tuned) == len(set(tuned)) == 2 * 2 * 3
    assert any(row["method"] == "lora" for row in scores)
    assert all(row["evaluation"]["choice"] is not None for row in scores)
    assert all(row["n_parameters"] for row in scores[3:])
    assert {row["control"] for row in result.rows("heads")} == {0, 1}


def test_a_start_and_its_scores(model):
    zero, text, noise = (
        start_prefix(model, "kv", 2, s, 0, 1.0) for s in ("zero", "text", "random")
    )
    assert not zero.keys.any() and noise.keys.std() > 0.5
    with pytest.raises(pi.PrefixInterpError, match="n_slots=99"):
        start_prefix(model, "kv", 99, "text", 0, 1.0)
    front = torch.ones(1, 2, dtype=torch.long)  # all words of the instruction are unknown: token 1
    assert_close(text.keys, prefix_from_text(model, front[0]).keys, 1e-6)


def test_lora_is_of_the_size_of_the_prefix_and_starts_as_the_model(model):
    tokens = random_tokens()
    assert_close(plain_copy(model)(tokens).logits, model(tokens), 1e-6)
    n = start_prefix(model, "kv", 20, "zero", 0, 1.0).n_parameters
    rank, layers = lora_shape(model, n)
    adapted = with_lora(model, rank, layers, 0)
    own = sum(p.numel() for p in trained(adapted).values())
    assert abs(own - n) <= 0.1 * n
    assert_close(adapted(tokens).logits, model(tokens), 1e-6)
    again = with_lora(model, rank, layers, 0)
    assert all(map(torch.equal, trained(adapted).values(), trained(again).values()))


def test_a_killed_run_repeats_one_training_at_most(run, result, monkeypatch):
    made, before = [], methods.sweep
    monkeypatch.setattr(methods, "sweep", lambda *a, **k: made.append(1) or before(*a, **k))
    (finished,) = run.work.rglob("finished.json.gz")
    finished.unlink()
    parts = finished.parent / "parts"
    for name in ("kv-1-zero-0.03.json", "kv-1-zero-0.03-tuned.safetensors"):
        (parts / name).unlink()
    again = run()
    assert made == [1]
    assert again.rows("scores") == result.rows("scores")


def test_examples_are_balanced():
    text = shown(reviews(), 4, (" yes", " no"))
    assert text.count("Sentiment: yes\n\n") == text.count("Sentiment: no\n\n") == 2


def test_tables_and_section(study, result):
    evidence = evidence_of([replace(result, preset="fast")])
    evidence.studies = (study,)
    section = study.section(evidence)
    assert "%" in section.title and len(section.folded) == 5 and section.figure
    best, by_slots = STUDY.findings["sentiment"](evidence).split("\n\n")
    assert [line.split(" |")[0] for line in best.splitlines()[2:]] == [
        "| nothing", "| prefix", "| LoRA"
    ]  # fmt: skip
    assert by_slots.count("LoRA of its size") == 2 and by_slots.count(" start |") == 6
    rows = section.numbers["scores"]
    assert rows[0]["n_seeds"] == 1 and 0 <= rows[0]["choice"]["mean"] <= 1


def test_the_best_by_validation_and_a_lora_of_its_size_are_trained_longer(result):
    bare, prefix, lora = result.rows("longer")
    assert [row["method"] for row in (bare, prefix, lora)] == ["zero-shot", "prefix", "lora"]
    assert {row["evaluation"]["n"] for row in (bare, prefix, lora)} == {8}  # all
    fits = [row for row in result.rows("fits") if row["method"] == "prefix"]
    best = min(fits, key=lambda row: row["evaluation"]["loss"]["value"])
    keys = ("parameterization", "n_slots", "start", "lr")
    assert [prefix[key] for key in keys] == [best[key] for key in keys]
    assert prefix["train_loss"] != best["train_loss"]  # 3 steps, not 2
    sizes = {row["n_parameters"] for row in result.rows("fits") if row["method"] == "lora"}
    n = prefix["n_parameters"]
    assert lora["n_parameters"] == min(sizes, key=lambda size: abs(size - n))


def test_the_figure_has_a_lora_of_equal_size_beside_every_number_of_slots(study, result):
    tables = study.tables(result)
    left, right = sentiment_figure(tables).axes
    assert (left.get_title(), right.get_title()) == ("kv", "residual")
    lines = {line.get_label(): line for line in left.lines}
    assert list(lines["LoRA of its size"].get_xdata()) == [1, 5]
    scores = tables["scores"]
    for n, y in zip(*lines["prefix, zero start"].get_data(), strict=True):
        (own,) = [r for r in scores if (r["parameterization"], r["n_slots"], r["start"])
                  == ("kv", n, "zero")]  # fmt: skip
        assert y == pytest.approx(100 * own["choice"]["mean"])


def test_a_tuning_sees_no_test_sentence_and_scores_next_to_none(model, monkeypatch):
    monkeypatch.setattr(data.models, "movie_reviews", reviews)
    task, validation, _ = data.sentiment_tasks(model, SENTENCES)
    tuned_on = data.to_tune_on(task)
    seen = {tuple(row) for row in tuned_on.data.tokens.tolist()}
    for unseen in (task.sample(99, "test"), validation.sample(99, "test")):
        assert not seen & {tuple(row) for row in unseen.tokens.tolist()}
    assert len(tuned_on.rows["test"]) <= 4 < len(tuned_on.rows["train"])
