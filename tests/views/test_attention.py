import json
import re

import pytest
import torch

import prefix_interp as pi
from prefix_interp.errors import PrefixInterpError
from prefix_interp.views import display
from prefix_interp.views.attention import (
    AttentionView,
    attention_figure,
    attention_view,
    plain_attention_view,
    query_figure,
)
from prefix_interp.views.display import (
    AttentionDisplay,
    attention_div,
    page_scripts,
    show_attention,
)


@pytest.fixture(scope="module")
def pair():
    model = pi.build_toy(pi.ToyConfig(n_layers=2, n_heads=2, d_model=8), seed=0)
    tokens = pi.get_task("sort_descending").sample(3, seed=0).tokens
    return pi.run_pair(model, pi.Prefix.random(model, 2, seed=0), tokens)


def _data(div):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', str(div))[1])


def test_slots_are_set_apart_and_the_content_is_renormalised(pair):
    view = attention_view(pair, sequence=1)
    pattern = pair.on[pi.Site.PATTERN.at(1)][1]
    assert torch.equal(view.slots[1], pattern[..., :2])
    assert torch.allclose(view.content.sum(-1), torch.ones(2, 2, 19))
    restored = view.content[1] * (1 - view.gate[1, ..., None])
    assert torch.allclose(restored, pattern[..., 2:], atol=1e-6)


def test_a_plain_view_is_the_masked_baseline(pair):
    view = plain_attention_view(pair.model, pair.tokens, sequence=2)
    assert view.slots.shape == (2, 2, 19, 0)
    # The toy's content stands at position 1, whatever the length of the prefix.
    for layer in range(2):
        expected = pair.off[pi.Site.PATTERN.at(layer)][2, ..., -19:]
        assert torch.allclose(view.content[layer], expected, atol=1e-6)


def test_dataframe_has_a_row_a_query(pair):
    frame = attention_view(pair).to_dataframe(layer=1, head=1)
    assert list(frame.columns[:4]) == ["query", "token", "P1", "P2"] and len(frame) == 19


def test_padding_to_a_square_leaves_rows_for_slots_empty(pair):
    view = attention_view(pair)
    props = _data(attention_div(view, "x", layer=1))
    assert props["component"] == "AttentionHeads"
    square = torch.tensor(props["props"]["attention"])
    assert square.shape == (2, 22, 22)
    assert not square[:, :3].any() and not square[:, :, 2].any()
    assert torch.allclose(square[:, 3:, :2], view.slots[1], atol=1e-4)
    assert torch.allclose(square[:, 3:, 3:], view.content[1], atol=1e-4)
    tokens = props["props"]["tokens"]
    assert tokens[:3] == ["P1", "P2", display.SPACER] and all(isinstance(t, str) for t in tokens)


def test_names_and_tokens_cannot_break_out_of_the_page():
    evil = '</script><img src=x onerror="alert(1)">'
    one = torch.ones(1, 1, 1, 1)
    div = str(attention_div(AttentionView(evil, [evil], one[..., :0], one), 'a"b'))
    assert evil not in div and "<img src=x" not in div and 'id="a"b"' not in div
    assert _data(div)["props"]["tokens"] == [evil]


def test_the_bundle_is_one_script_that_cannot_end_early():
    text = str(page_scripts())
    assert text.count("</script") == 1 and "sourceMappingURL" not in text


def test_large_patterns_fall_back_to_the_picture(pair, monkeypatch):
    monkeypatch.setattr(display, "MAX_CELLS", 10)
    div = str(attention_div(attention_view(pair), "x"))
    assert "application/json" not in div and "data:image/svg+xml" in div


def test_a_notebook_carries_the_bundle_once(pair, monkeypatch):
    monkeypatch.setattr(AttentionDisplay, "_carrier", None)
    first, second = show_attention(pair, sequence=0), show_attention(pair, sequence=1)
    assert first.figure_id != second.figure_id
    assert len(first._repr_html_()) > 1_000_000 > len(second._repr_html_())
    # A cell that is run again carries the bundle again: its old output is gone.
    assert len(show_attention(pair, sequence=0)._repr_html_()) > 1_000_000
    assert "data:image/svg+xml" in second._repr_html_()


def test_static_picture_sets_the_slots_apart(pair):
    slots, content = attention_figure(attention_view(pair), layer=1, head=1).axes
    assert slots.images[0].get_array().shape == (19, 2)
    assert content.images[0].get_array().shape == (19, 19)
    (alone,) = attention_figure(plain_attention_view(pair.model, pair.tokens)).axes
    assert alone.images[0].get_array().shape == (19, 19)


def test_query_picture_has_a_row_a_model(pair):
    views = [plain_attention_view(pair.model, pair.tokens), attention_view(pair)]
    figure = query_figure([views, views], query=9)
    assert figure.axes[1].images[0].get_array().shape == (2, 10)
    assert figure.axes[0].texts[0].get_text() == "–"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: attention_view(p, sequence=3), "sequence=3"),
        (lambda p: attention_view(p, labels=["a"]), "labels has 1 entries"),
        (lambda p: attention_figure(attention_view(p), layer=2), "layer=2"),
        (lambda p: attention_div(attention_view(p), "x", layer=-1), "layer=-1"),
        (lambda p: show_attention(p, layer=5), "layer=5"),
        (lambda p: query_figure([], 0), "groups is empty"),
    ],
)
def test_bad_input_is_refused_by_name(pair, call, message):
    with pytest.raises(PrefixInterpError, match=message):
        call(pair)
