import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file

from analyses.cramming import STUDY
from analyses.cramming.measure import Protocol, cumulated_bits, front_attention, make_targets
from analyses.cramming.section import cramming_figure
from analyses.models import Review
from analyses.registry import evidence_of
from analyses.runs import run_study
from prefix_interp.models.host import host_of
from prefix_interp.theory.capacity import soft_continuations
from tests.tiny_language_models import D_VOCAB, language_model

module = import_module(STUDY.measure.__module__)
SIZE = Protocol(n_targets=2, max_length=3, steps=150, from_noise=(2,))


def reviews(source="imdb"):
    return [Review(f"w{10 + i} w{20 + i} w{30 + i} w{40 + i}", True) for i in range(9)]


@pytest.fixture(scope="module")
def study():
    return replace(STUDY, protocols={"smoke": SIZE, "fast": SIZE})


@pytest.fixture(scope="module")
def model():
    return language_model("llama")


@pytest.fixture(scope="module")
def run(study, model, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")

    def run():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module.models, "movie_reviews", reviews)
            return run_study(
                study, "smoke", [0], work=work, n_jobs=1, progress=False, model=model,
                model_name="tiny",
            )  # fmt: skip

    run.work = work
    return run


@pytest.fixture(scope="module")
def result(run):
    return run()


def test_the_longest_front_is_really_emitted(run, result, model):
    parts = next(run.work.rglob("parts"))
    reached = [row for row in result.rows("targets") if row["length"]]
    assert reached  # otherwise nothing is tested
    uniform = make_targets(model, "uniform", SIZE, 0)
    first = load_file(parts / "uniform-1.safetensors")
    emitted = soft_continuations(model, first["vectors"], 1)
    assert torch.equal((emitted == uniform[:, :1]).all(1), first["reached"])
    for kind in ("text", "uniform"):
        own = [row for row in result.rows("stages") if row["kind"] == kind]
        longest = [row["length"] for row in result.rows("targets") if row["kind"] == kind]
        for row in own:  # of each length those are tried whose shorter one was reached
            assert row["tried"] == sum(n >= row["length"] - 1 for n in longest)
            assert row["reached"] == sum(n >= row["length"] for n in longest)


def test_bits_are_the_surprisal_of_a_plain_run(model):
    targets = torch.tensor([[5, 9, 7]])
    found = cumulated_bits(model, targets)
    p = model(targets)[0].detach().double().softmax(-1)
    by_hand = [math.log2(D_VOCAB), -math.log2(p[0, 9]), -math.log2(p[1, 7])]
    assert found[0].tolist() == pytest.approx([sum(by_hand[: i + 1]) for i in range(3)])


def test_attention_to_a_token_in_front_is_that_of_a_plain_run(model):
    tokens = torch.tensor([4, 8, 6])
    vector = host_of(model).embed(torch.tensor([[11]]))
    found = front_attention(model, vector, tokens)
    _, cache = model.run_with_cache(torch.tensor([[11, 4, 8, 6]]))
    plain = [cache["pattern", i][0, :, 1:, 0].mean() for i in range(3)]
    assert found.tolist() == pytest.approx([float(x) for x in plain], rel=1e-5)


def test_an_interrupted_search_goes_on_where_it_stopped(run, result, monkeypatch):
    made = []
    before = module.search_soft_tokens

    def spy(model, targets, **settings):
        made.append(targets.shape[1])
        return before(model, targets, **settings)

    monkeypatch.setattr(module, "search_soft_tokens", spy)
    (finished,) = run.work.rglob("finished.json.gz")
    finished.unlink()
    (finished.parent / "parts" / "text-1.safetensors").unlink()
    assert run().tables == result.tables and made == [1]


def test_section(study, result):
    evidence = evidence_of([replace(result, preset="fast")])
    evidence.studies = (study,)
    section = study.section(evidence)
    assert "exactly (median)" in section.title and len(section.numbers["kinds"]) == 2


def test_the_figure_shows_what_share_of_all_targets_is_left(study, result):
    tables = study.tables(result)
    left, right = cramming_figure(tables).axes
    own = [row for row in tables["stages"] if row["kind"] == "uniform"]
    assert left.lines[1].get_ydata()[:2] == pytest.approx([100, 50 * own[0]["reached"]])
    assert len(right.lines) == 4
