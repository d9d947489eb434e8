from dataclasses import replace

import pytest
import torch

import prefix_interp as pi
from analyses.language_model_heads import STUDY
from analyses.language_model_heads.measure import last_shares
from analyses.registry import evidence_of
from analyses.runs import run_study
from analyses.sentiment import data
from analyses.sentiment.methods import start_prefix
from tests.analyses.test_sentiment import SENTENCES, reviews
from tests.tiny_language_models import language_model


@pytest.fixture(scope="module")
def study():
    smoke = replace(STUDY.protocols["smoke"], sentences=SENTENCES)
    return replace(STUDY, protocols={"smoke": smoke, "fast": smoke})


@pytest.fixture(scope="module")
def model():
    return language_model("llama", torch.float64)


@pytest.fixture(scope="module")
def result(study, model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.models, "movie_reviews", reviews)
        return run_study(
            study, "smoke", [0], work=tmp_path_factory.mktemp("work"), n_jobs=1, progress=False,
            model=model, model_name="tiny",
        )  # fmt: skip


def test_both_equations_hold_in_every_layer_and_nothing_moves_in_the_first(result):
    rows = result.rows("layers")
    assert [row["prefix"] for row in rows[::3]] == ["random", "zero", "text", "tuned"]
    assert all(row["eq6"] < 1e-12 and row["eq7"] < 1e-12 for row in rows)
    assert all((row["moved"] < 1e-12) == (row["layer"] == 0) for row in rows)


def test_gate_and_sink_against_a_plain_recount(result, model, monkeypatch):
    monkeypatch.setattr(data.models, "movie_reviews", reviews)
    texts = [data.PROMPT.format(each.text) for each in data.short_reviews(model, 24, seed=1)[:4]]
    prefix = start_prefix(model, "kv", 3, "random", 0, 1.0)
    gates, sinks = [], []
    for text in texts:
        tokens = torch.tensor([model.tokenizer.encode(text)])
        with torch.no_grad(), pi.attach(model, prefix):
            _, cache = model.run_with_cache(tokens)
        pattern = cache["blocks.1.attn." + "hook_pattern"][0, :, 3:]  # head query slots+key
        gates += pattern[:, 1:, :3].sum(-1).mean(0).tolist()
        sinks += pattern[:, 1:, 3].mean(0).tolist()
    row = next(r for r in result.rows("layers") if r["prefix"] == "random" and r["layer"] == 1)
    assert row["gate"] == pytest.approx(sum(gates) / len(gates), rel=1e-6)
    assert row["sink_on"] == pytest.approx(sum(sinks) / len(sinks), rel=1e-6)


def test_shares_are_of_the_last_token():
    mass = torch.zeros(1, 2, 1, 3, 2)
    mass[0, 0, 0, 1] = torch.tensor([0.1, 0.3])
    mass[0, 1, 0, 2] = torch.tensor([0.5, 0.0])
    found = last_shares(mass, torch.tensor([2, 3]))
    assert found[:, 0, 0].tolist() == [pytest.approx([0.25, 0.75]), [1.0, 0.0]]


def test_section(study, result):
    evidence = evidence_of([replace(result, preset="fast")])
    evidence.studies = (study,)
    section = study.section(evidence)
    assert "12 heads of tiny" in section.title and len(section.numbers["prefixes"]) == 4
