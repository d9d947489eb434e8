"""Every number of the pass equals a loop over single sentences without padding."""

import pytest
import torch
from torch.testing import assert_close

import prefix_interp as pi
from prefix_interp.inspection import measure as module
from prefix_interp.inspection.measure import measure
from prefix_interp.inspection.sentences import as_sentences
from prefix_interp.inspection.vocabulary import bias_logits, bias_words
from tests.inspection.tiny import TEXTS, tiny


@pytest.fixture(scope="module")
def given():
    model, prefix = tiny()
    return model, prefix, as_sentences(model, TEXTS)


@pytest.fixture(scope="module")
def measured(given):
    return measure(*given, progress=False)


@pytest.fixture(scope="module")
def pairs(given):
    """Each sentence alone, as long as it is."""
    model, prefix, sentences = given
    rows = zip(sentences.batch.tokens, sentences.lengths.tolist(), strict=True)
    return [pi.run_pair(model, prefix, row[None, :n]) for row, n in rows]


def close(found, wanted):
    assert_close(found, torch.as_tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_log_probabilities_are_those_of_each_sentence_alone(measured, pairs):
    for i, pair in enumerate(pairs):
        n = pair.tokens.shape[1]
        for name in ("on", "off"):
            logits = getattr(pair, f"logits_{name}")[0]
            for pos in range(n - 1):
                wanted = float(logits[pos].log_softmax(-1)[pair.tokens[0, pos + 1]])
                close(getattr(measured, f"log_prob_{name}")[i, pos], wanted)
        assert bool(measured.log_prob_on[i, n - 1 :].isnan().all())


def test_gate_and_bias_are_those_of_the_decomposition(measured, pairs, given):
    for pos in range(7):
        own = [pair for pair in pairs if pair.tokens.shape[1] > pos]
        assert float(measured.count[pos]) == len(own)
        for layer in range(2):
            for head in range(3):
                gates, sizes = [], []
                for pair in own:
                    parts = pi.decompose_attention(pair)
                    gates.append(float(parts.gate[layer, 0, head, pos]))
                    sizes.append(float(parts.bias[layer, 0, head, pos].norm()))
                close(measured.gate[layer, head, pos], sum(gates) / len(own))
                close(measured.parts["bias"][layer, head, pos], sum(sizes) / len(own))
    every = torch.stack([measured.parts["bias"][0, 0, p] * measured.count[p] for p in range(7)])
    close(measured.mean("bias")[0, 0], float(every.sum()) / 14)


def test_sink_and_moved_attention_are_those_of_a_loop(measured, pairs):
    for layer in range(2):
        on, off, moved, n = torch.zeros(3), torch.zeros(3), torch.zeros(3), 0
        on, off, moved = on.double(), off.double(), moved.double()
        for pair in pairs:
            name = pi.Site.PATTERN.at(layer)
            with_it, without = (
                pair.on[name][0, ..., 2:],
                pair.off[name][0, ..., -len(pair.tokens[0]) :],
            )
            for query in range(1, pair.tokens.shape[1]):
                row = with_it[:, query]
                relative = row / row.sum(-1, keepdim=True)
                on += row[:, 0]
                off += without[:, query, 0]
                moved += (relative - without[:, query]).abs().sum(-1) / 2
                n += 1
        close(measured.sink_on[layer], on / n)
        close(measured.sink_off[layer], off / n)
        close(measured.moved[layer], moved / n)
    assert float(measured.moved[0].max()) < 1e-14 < 1e-3 < float(measured.moved[1].max())


def test_ranks_are_those_of_the_bias_subspace(given):
    model, prefix, _ = given
    tokens = torch.randint(1, 9, (6, 9), generator=torch.Generator().manual_seed(0))
    found = measure(model, prefix, as_sentences(model, tokens), progress=False)
    for layer in range(2):
        for head in range(3):
            own, wanted = (
                found.spaces[layer][head],
                pi.bias_subspace(model, prefix, tokens, layer, head),
            )
            assert (own.rank, own.bound, own.n_rows) == (wanted.rank, wanted.bound, wanted.n_rows)
            assert own.effective_rank == pytest.approx(wanted.effective_rank)
            assert own.principal_angles(wanted).max() < 1e-6


@pytest.mark.parametrize("size", [1, 2])
def test_chunks_change_nothing(given, measured, size, monkeypatch):
    monkeypatch.setattr(module, "chunk_size", lambda *_: size)
    again = measure(*given, progress=False)
    for name in ("residual", "sink_on", "sink_off", "moved", "mean_bias", "log_prob_on", "count"):
        one, two = getattr(measured, name), getattr(again, name)
        assert_close(one, two, rtol=1e-9, atol=1e-12, equal_nan=True)
    for name in measured.parts:
        close(again.parts[name], measured.parts[name])
    for direction in ("denoise", "noise"):
        close(again.estimates[direction], measured.estimates[direction])
    assert (again.kl, again.changed) == pytest.approx((measured.kl, measured.changed))
    assert [s.rank for own in again.spaces for s in own] == [
        s.rank for own in measured.spaces for s in own
    ]


def test_estimates_are_those_of_attribution_patching(given, measured):
    model, prefix, sentences = given
    for direction in ("denoise", "noise"):
        grid = pi.attribution_patch(model, prefix, sentences.batch, direction=direction)
        close(measured.estimates[direction], grid.effect())


def test_the_vocabulary_hears_what_goes_missing_without_the_bias(given, measured):
    model, _, _ = given
    found = bias_logits(model, measured.mean_bias, measured.final)
    layer, head = 1, 2
    written = measured.mean_bias[layer, head] @ model.W_O[layer, head]
    wanted = torch.zeros(model.cfg.d_vocab, dtype=torch.float64)
    for row in measured.final:
        with_it, without = (
            model.unembed(model.ln_final(x[None, None]))[0, 0] for x in (row, row - written)
        )
        wanted += (with_it - without).detach() / len(measured.final)
    close(found[layer, head], wanted - wanted.mean())
    said = bias_words(model, found, n=2)[layer][head]
    assert said.raised[0] == (
        model.tokenizer.decode([int(wanted.argmax())]),
        pytest.approx(float(found[layer, head].max())),
    )
    assert said.lowered[0][1] == pytest.approx(float(found[layer, head].min()))


def test_the_two_ways_to_inject_agree_and_the_logits_differ(measured):
    assert measured.methods < 1e-12 < 1e-3 < measured.logit_change
    assert float(measured.eq6.max()) < 1e-14 and measured.eq7 < 1e-14
