import pandas as pd
import pytest
import torch

import prefix_interp as pi
from analyses.attention import N_SHOWN, attention_views, sections
from analyses.channels import channel_rows, mean_of_like
from analyses.claims.zoo import load_zoo
from analyses.registry import evidence_of
from analyses.table1.measure import NEW


@pytest.fixture(scope="session")
def attention():
    return evidence_of([])


@pytest.fixture(scope="session")
def rows(attention):
    return {name: pd.DataFrame(found) for name, found in attention.tables("attention").items()}


def test_the_attention_of_the_first_output_is_that_of_the_views(attention, rows):
    query = rows["query"]
    assert len(query) == N_SHOWN * 6
    views = attention.once(attention_views)[1]
    own = query[query["sequence"] == 2].reset_index(drop=True)
    assert own["model"].tolist() == [view.name for view in views]
    keys = [f"key {k}" for k in range(10)]
    assert own[keys].sum(axis=1).tolist() == pytest.approx([1.0] * 6)
    assert own.loc[3, keys].tolist() == views[3].content[0, 0, 9, :10].tolist()
    assert own["gate"].tolist()[:2] == [0.0, 0.0] and min(own["gate"].tolist()[2:]) > 0


def test_parts_and_spectra_are_those_of_the_library(attention, rows):
    zoo = attention.once(load_zoo)
    prefix = zoo.prefixes["sort_descending-kv-10"]
    pair = pi.run_pair(zoo.pretrained, prefix, zoo.tokens)
    parts = rows["parts"][rows["parts"]["prefix"] == "kv, 10 slots"]
    expected = pi.decompose_attention(pair).to_dataframe()
    for column in ("pos", "gate", "scaled_base", "bias", "residual"):
        assert parts[column].tolist() == expected[column].tolist()
    own = rows["spectrum"][rows["spectrum"]["prefix"] == "kv, 10 slots"]
    space = pi.bias_subspace(zoo.pretrained, prefix, zoo.tokens, layer=0, head=0)
    assert set(own["bound"]) == {10} and len(own) == 24
    share = (space.singular_values / space.singular_values[0])[:24].tolist()
    assert own["of_first"].tolist() == pytest.approx(share, abs=1e-15)
    assert own["of_first"].tolist()[10] < 1e-12 < own["plain_of_first"].tolist()[10]


def test_sections_tell_what_stays_and_what_moves(attention, rows):
    own, rank, inside = sections(attention)
    assert [s.part for s in (own, rank, inside)] == ["cannot", "cannot", "does"]
    assert own.card.holds and own.card.number.endswith("10⁻¹⁶")
    assert own.figure.id == "query" and own.top.id == "query-first"
    (parts,) = [p for p in inside.folded if getattr(p, "title", "").startswith("Attention that")]
    last = rows["parts"][(rows["parts"]["prefix"] == "kv, 10 slots") & (rows["parts"]["pos"] == 18)]
    (row,) = [r for r in parts.table.rows if r[0] == "kv, 10 slots"]
    assert row[2] == f"{100 * last['gate'].iloc[0]:.1f}" and row[2] in inside.text


def test_the_content_passes_through_the_scaled_output_and_the_gate_is_the_minor_way(rows):
    content = rows["content"].set_index("prefix").loc["kv, 10 slots"]
    assert content["both"] > content["scaled_base"] > content["gate_and_bias"] > content["neither"]


def test_means_of_like_values_keep_what_is_alike_apart():
    values = torch.tensor([[[1.0], [5.0]], [[3.0], [9.0]]])
    alike = torch.tensor([[0, 1], [0, 2]])
    assert mean_of_like(values, alike).tolist() == [[[2.0], [5.0]], [[2.0], [9.0]]]


def test_with_nothing_held_the_answers_are_those_of_the_prefixed_model(attention):
    zoo = attention.once(load_zoo)
    prefix = zoo.prefixes["sort_descending-kv-10"]
    (row,) = channel_rows(zoo.pretrained, {"kv": prefix}, NEW, 128, seed=5)
    batch = pi.get_task(NEW).sample(128, split="test", seed=5)
    with torch.no_grad(), pi.attach(zoo.pretrained, prefix):
        right = zoo.pretrained(batch.tokens)[:, -10:].argmax(-1) == batch.answers
    assert row["both"] == pytest.approx(right.double().mean().item(), abs=1e-6)
