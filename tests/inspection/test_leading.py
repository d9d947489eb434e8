"""The leading heads: exact effects and controls as head_elicitation has them, and fades."""

import pytest
import torch
from torch.testing import assert_close

import prefix_interp as pi
from prefix_interp.inspection import leading as module
from prefix_interp.inspection.chunks import Effort
from prefix_interp.inspection.leading import FADES, leading_heads, patch_leading
from prefix_interp.inspection.measure import measure
from prefix_interp.inspection.sentences import as_sentences
from tests.inspection.tiny import TEXTS, tiny

HEADS = ((1, 2), (0, 1), (1, 0))
EFFORT = Effort(n_leading=3, n_random=3, n_examples=3, n_shown=2)


@pytest.fixture(scope="module")
def given():
    model, prefix = tiny()
    return model, prefix, as_sentences(model, TEXTS)


@pytest.fixture(scope="module")
def found(given):
    return patch_leading(*given, HEADS, EFFORT, progress=False)


@pytest.mark.parametrize("size", [1, 3])
def test_effects_and_controls_are_those_of_head_elicitation(given, size, monkeypatch):
    monkeypatch.setattr(module, "chunk_size", lambda *_: size)
    monkeypatch.setattr(module, "stack_size", lambda *_: 2)
    model, prefix, sentences = given
    own = patch_leading(*given, HEADS, EFFORT, progress=False)
    for direction in ("denoise", "noise"):
        whole = pi.head_elicitation(
            model, prefix, sentences.batch, direction=direction, n_random=3, progress=False
        )
        for i, (layer, head) in enumerate(HEADS):
            assert_close(
                getattr(own, direction)[i], whole.effect[layer, head], rtol=1e-9, atol=1e-12
            )
            if direction == "denoise":
                controls = whole.controls["norm-matched"][:, layer, head]
                assert_close(own.controls[:, i], controls, rtol=1e-9, atol=1e-12)


def test_a_head_is_elicited_by_the_rule_of_head_elicitation(given, found):
    model, prefix, sentences = given
    whole = pi.head_elicitation(model, prefix, sentences.batch, n_random=3, progress=False)
    frame = whole.to_dataframe().set_index(["layer", "head"])
    assert found.level == whole.level
    for row in found.rows():
        own = frame.loc[(row["layer"], row["head"])]
        assert row["elicited"] == own["elicited"]
        assert (row["enough_low"], row["enough_high"]) == pytest.approx((own["low"], own["high"]))


def test_fades_are_runs_with_the_prefix_gated_at_one_head(given, found):
    model, prefix, sentences = given
    n = sentences.lengths.tolist()
    for i, (layer, head) in enumerate(HEADS):
        for k, share in enumerate(FADES):
            gates = torch.ones(2, 3, dtype=torch.float64)
            gates[layer, head] = share
            for j, row in enumerate(sentences.batch.tokens):
                with torch.no_grad(), pi.attach(model, prefix, gates=gates):
                    logits = model(row[None, : n[j]])[0, -n[j] :]
                chances = logits[:-1].log_softmax(-1).gather(-1, row[1 : n[j], None])
                assert float(found.fades[i, k, j]) == pytest.approx(float(chances.mean()), abs=1e-9)
    shown = found.shown[1]
    places = shown.fades[0, 0, : n[1] - 1]
    assert float(places.mean()) == pytest.approx(float(found.fades[0, 0, 1]), abs=1e-9)


def test_what_is_shown_is_the_attention_of_the_runs(given, found):
    model, prefix, sentences = given
    pair = pi.run_pair(model, prefix, sentences.batch.tokens[:1, :5])
    assert len(found.shown) == 2
    for i, (layer, head) in enumerate(HEADS):
        on = pair.on[pi.Site.PATTERN.at(layer)][0, head]
        assert_close(found.shown[0].slots[i], on[:, :2])
        assert_close(found.shown[0].on[i], on[:, 2:] / on[:, 2:].sum(-1, keepdim=True))
        assert_close(found.shown[0].off[i], pair.off[pi.Site.PATTERN.at(layer)][0, head][:, -5:])


def test_fading_in_the_page_is_the_models_own(given, found):
    """The explorer scales slot masses by itself: f m / (1 - m + f m)."""
    model, prefix, sentences = given
    layer, head = HEADS[0]
    gates = torch.ones(2, 3, dtype=torch.float64)
    gates[layer, head] = 0.25
    with torch.no_grad(), pi.attach(model, prefix, gates=gates):
        _, cache = model.run_with_cache(sentences.batch.tokens[:1, :5])
    real = cache[pi.Site.PATTERN.at(layer)][0, head, -5:]
    own = found.shown[0].slots[0]
    mass = own.sum(-1, keepdim=True)
    assert_close(real[:, :2], 0.25 * own / (1 - mass + 0.25 * mass))
    assert_close(real[:, 2:] / real[:, 2:].sum(-1, keepdim=True), found.shown[0].on[0])


def test_leading_heads_have_the_largest_estimates(given):
    measured = measure(*given, progress=False)
    size = torch.stack([x.mean(-1).abs() for x in measured.estimates.values()]).amax(0)
    order = leading_heads(measured, 4)
    values = [float(size[i, j]) for i, j in order]
    assert values == sorted(values, reverse=True) and len(set(order)) == 4
    assert values[-1] >= sorted(size.flatten().tolist(), reverse=True)[3]


def test_a_single_example_has_no_interval_and_elicits_nothing(given):
    model, prefix, sentences = given
    one = patch_leading(model, prefix, sentences.first(1), HEADS[:1], EFFORT, progress=False)
    (row,) = one.rows()
    assert row["enough_low"] != row["enough_low"] and row["elicited"] is False
