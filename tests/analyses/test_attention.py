import pandas as pd
import pytest

import prefix_interp as pi
from analyses.attention import N_SHOWN, attention_views, sections
from analyses.claims.zoo import load_zoo
from analyses.registry import evidence_of


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


def test_sections_show_every_model_to_explore(attention):
    own, inside = sections(attention)
    shown = own.parts[-1].items
    assert [item.title for item in shown] == [
        view.name for view in attention.once(attention_views)[0]
    ]
    assert "No prefix" in shown[0].caption and "P1 to P10 hold" in shown[-1].caption
    assert [part.id for part in inside.parts] == ["parts", "spectrum"]
    assert own.findings and any("Accuracies are missing" in line for line in own.findings)
