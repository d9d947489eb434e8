import functools

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.elicitation import head_elicitation
from tests.attribution.planted import plant
from tests.helpers import assert_close

SEEDS, SKILLS, N = range(10), range(4), 6


@functools.cache
def planted(seed, n_layers=1):
    return plant(seed, n_layers=n_layers)


def logits(toy, skill, prefix=None, gates=None):
    batch = toy.batch(skill, N)
    with torch.no_grad():
        if prefix is None:
            return toy.model(batch.tokens)[:, -toy.n_in :], batch.answers
        with pi.attach(toy.model, toy.prefixes[prefix], gates=gates):
            return toy.model(batch.tokens)[:, -toy.n_in :], batch.answers


def accuracy(*args, **kwargs):
    found, answers = logits(*args, **kwargs)
    return float((found.argmax(-1) == answers).double().mean())


def parts_of(toy, skill):
    return pi.decompose_attention(
        pi.run_pair(toy.model, toy.prefixes[skill], toy.batch(skill, N).tokens)
    )


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_prefix_of_a_skill_switches_that_skill_on_and_no_other(n_layers):
    for seed in SEEDS:
        toy = planted(seed, n_layers)
        for skill in SKILLS:
            assert accuracy(toy, skill, prefix=skill) == 1.0
            assert accuracy(toy, skill, prefix=(skill + 1) % 4) == 0.0
        plain, _ = logits(toy, 0)
        assert float(plain.std()) < 1e-10  # every answer alike: chance


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_planted_head_is_needed_and_enough(n_layers):
    """The truth about the toy, by dropping the prefix at heads, without any attribution."""
    for seed in SEEDS:
        toy = planted(seed, n_layers)
        for skill in SKILLS:
            alone = torch.zeros(n_layers, 5)
            alone[0, toy.heads[skill]] = 1
            assert accuracy(toy, skill, skill, alone) == 1.0
            assert float(logits(toy, skill, skill, 1 - alone)[0].std()) < 1e-10


def test_the_construction_is_hidden():
    assert len({planted(seed).heads for seed in SEEDS}) > 5
    for name, w in planted(0).model.named_parameters():
        if w.ndim > 1 and "b_" not in name:
            # Written by hand nearly all entries were 0.
            assert float((w.abs() > 1e-12).double().mean()) > 0.9, name
    again, first = plant(3), planted(3)
    assert again.heads == first.heads
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.model.parameters(), first.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_planted_head_is_found_in_every_seed(direction):
    for seed in SEEDS:
        toy = planted(seed)
        for skill in SKILLS if direction == "denoise" else [seed % 4]:
            batch, prefix = toy.batch(skill, N), toy.prefixes[skill]
            found = head_elicitation(
                toy.model, prefix, batch, direction=direction, n_random=9, seed=seed, progress=False
            )
            table = found.to_dataframe().set_index("head")
            head = toy.heads[skill]
            assert table["excess"].idxmax() == head
            assert list(table.index[table["elicited"]]) == [head]
            assert table.loc[head, "recovered"] == pytest.approx(1, abs=1e-3)
            # It is the bias, although half of the head's own output is gated away.
            assert table.loc[head, "bias"] == pytest.approx(table.loc[head, "effect"], rel=1e-3)
            assert table["effect"].drop(index=head).abs().max() < 1e-3


def test_methods_that_look_at_size_or_logits_pick_the_decoy():
    for seed in SEEDS:
        toy = planted(seed)
        for skill in SKILLS:
            parts = parts_of(toy, skill)
            assert int(parts.gate[0].mean(dim=(0, 2)).argmax()) == toy.decoys[0]
            norms = parts.bias[0].norm(dim=-1)[..., -toy.n_in :]
            assert int(norms.mean(dim=(0, 2)).argmax()) == toy.decoys[0]
            assert toy.decoys[0] not in toy.heads
        found = head_elicitation(
            toy.model, toy.prefixes[0], toy.batch(0, N), n_random=2, progress=False
        )
        direct = found.logit_attribution[0].mean(-1)
        assert int(direct.argmax()) == toy.decoys[0]
        # 10 off the one token of 7 that is never right.
        assert_close(direct[toy.decoys[0]], torch.tensor(10 / 7, dtype=torch.float64), 1e-6)
        assert float(direct[toy.heads[0]].abs()) < 1e-10


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_head_that_passes_on_what_an_earlier_one_found_is_credited_as_such(direction):
    for seed in SEEDS[:5]:
        toy, skill = planted(seed, 2), seed % 4
        found = head_elicitation(
            toy.model, toy.prefixes[skill], toy.batch(skill, N),
            direction=direction, n_random=9, progress=False,
        )  # fmt: skip
        table = found.to_dataframe().set_index(["layer", "head"])
        carrier, relay = (0, toy.heads[skill]), (1, toy.relay)
        assert set(table.index[table["elicited"]]) == {carrier, relay}
        for at, part in ((carrier, "bias"), (relay, "propagated")):
            assert table.loc[at, "recovered"] == pytest.approx(1, abs=1e-3)
            for name in ("gate", "bias", "propagated"):
                share = table.loc[at, name] / table.loc[at, "effect"]
                assert share == pytest.approx(float(name == part), abs=1e-3)
        # The prefix does nothing to the relay directly.
        assert float(parts_of(toy, skill).gate[1, :, toy.relay, -toy.n_in :].max()) < 1e-4


@pytest.mark.parametrize(
    "settings", [{"n_skills": 2}, {"n_tokens": 4, "n_in": 3}, {"n_skills": 1, "n_layers": 2}]
)
def test_other_sizes_work_too(settings):
    toy = plant(0, **settings)
    for skill in range(len(toy.heads)):
        assert accuracy(toy, skill, prefix=skill) == 1.0


def test_answers_are_inputs_moved_by_the_skill():
    toy = planted(0)
    batch = toy.batch(2, 5, seed=1)
    for tokens, answers in zip(batch.tokens.tolist(), batch.answers.tolist(), strict=True):
        assert answers == [(x + 2) % 6 for x in tokens[:4]] and tokens[4:] == answers[:-1]
    assert torch.equal(batch.tokens, toy.batch(2, 5, seed=1).tokens)
    assert not torch.equal(batch.tokens, toy.batch(2, 5, seed=2).tokens)


@pytest.mark.parametrize(
    "settings", [{"n_skills": 7}, {"n_skills": 0}, {"n_layers": 3}, {"n_in": 0}, {"n_tokens": 0}]
)
def test_sizes_out_of_range_are_refused(settings):
    with pytest.raises(pi.PrefixInterpError, match=next(iter(settings))):
        plant(0, **settings)


def test_unknown_skills_are_refused():
    with pytest.raises(pi.PrefixInterpError, match="skill=4 must be between 0 and 3"):
        planted(0).batch(4, 2)
    with pytest.raises(pi.PrefixInterpError, match="n=0"):
        planted(0).batch(0, 0)
