"""Answers among named foils: batches that carry them, and who wins, against a loop."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import prefix_interp as pi
from prefix_interp.tasks import NO_ANSWER
from prefix_interp.tasks.batch import joined
from prefix_interp.tasks.choice import beats_foils, logits_at
from prefix_interp.tuning.evaluate import answer_logits
from tests.helpers import raw_model

ANSWERS = torch.tensor([[6, 7], [8, NO_ANSWER], [9, 1]])
FOILS = torch.tensor([
    [[1, 2, NO_ANSWER], [3, 0, 1]],
    [[4, NO_ANSWER, NO_ANSWER], [NO_ANSWER, 1, 2]],
    [[8, 7, 6], [0, NO_ANSWER, NO_ANSWER]],
])  # fmt: skip


def batch(foils=FOILS, answers=ANSWERS):
    tokens = torch.arange(12).view(3, 4)
    return pi.Batch(tokens, answers, positions=torch.tensor([[1, 3]] * 3), foils=foils)


def by_loop(logits, answers, foils):
    """Whether one sequence's answers have higher logits than their foils."""
    return all(
        row[answer] > row[foil]
        for row, answer, own in zip(logits, answers, foils, strict=True)
        for foil in own
        if answer != NO_ANSWER and foil != NO_ANSWER
    )


@given(st.integers(0, 10**6))
def test_who_wins_against_a_loop(seed):
    logits = torch.randn(5, 3, 2, 11, generator=torch.Generator().manual_seed(seed))
    logits = logits + 3 * torch.nn.functional.one_hot(ANSWERS.clamp(min=0), 11)
    found, at = beats_foils(logits, ANSWERS, FOILS), logits_at(logits, FOILS)
    for stack, row in itertools.product(range(5), range(3)):
        own = logits[stack, row].tolist()
        expected = by_loop(own, ANSWERS[row].tolist(), FOILS[row].tolist())
        assert bool(found[stack, row]) == expected
        for place, i in itertools.product(range(2), range(3)):
            foil = int(FOILS[row, place, i])
            wanted = -torch.inf if foil == NO_ANSWER else logits[stack, row, place, foil]
            assert at[stack, row, place, i] == wanted


def test_a_tie_is_not_won():
    assert not beats_foils(torch.zeros(1, 1, 5), torch.tensor([[1]]), torch.tensor([[[2]]])).any()


def test_foils_stay_with_their_answers():
    whole = batch().check()
    parts = [whole.part(slice(1)), whole.part(torch.tensor([1, 2]))]
    assert torch.equal(joined(parts).foils, FOILS)
    assert torch.equal(whole.repeat(2).part(slice(3, 6)).foils, FOILS)
    longer = whole.behind(torch.cat([torch.zeros(3, 2).long(), whole.tokens], dim=1))
    assert (
        torch.equal(longer.foils, FOILS) and batch(FOILS.int()).check().foils.dtype == torch.int64
    )


BAD = {
    "foils have shape (3, 2) but answers (3, 2); give axes batch, n_out, n_foil": FOILS[..., 0],
    "foils have shape (2, 2, 3) but": FOILS[:2],
    "foils have shape (3, 2, 0) but": FOILS[..., :0],
    "foils[0, 1] are all -100": FOILS.where(FOILS[..., :1] != 3, NO_ANSWER),
    "foils[2, 0] hold the answer itself": FOILS.where(FOILS != 7, 9),
    "foils is torch.float32; give": FOILS.float(),
}


@pytest.mark.parametrize("message", BAD)
def test_foils_that_do_not_fit_are_one_line(message, unchecked):
    with pytest.raises(pi.PrefixInterpError) as error:
        batch(BAD[message]).check()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_evaluation_of_a_choice_against_a_loop(tmp_path):
    model = raw_model()
    tokens = torch.randint(13, (40, 6), generator=torch.Generator().manual_seed(0))
    own = pi.Batch(tokens, tokens[:, :1], foils=(tokens[:, :1, None] + torch.tensor([1, 2])) % 13)
    logits = answer_logits(model, own)
    wins = [
        by_loop(*x)
        for x in zip(logits.tolist(), own.answers.tolist(), own.foils.tolist(), strict=True)
    ]
    score = pi.evaluate(model, own, batch_size=7)
    assert 0 < sum(wins) < 40 and score.choice.value == sum(wins) / 40
    assert score.exact_match.value < score.choice.value  # other tokens do not count
    assert list(score.scores) == ["exact_match", "token_accuracy", "loss", "choice"]
    assert "choice" in score.caption() and "choice" in score.to_dataframe()["score"].to_list()
    score.save(tmp_path / "score")
    assert type(score).load(tmp_path / "score") == score
    plain = pi.evaluate(model, own._replace(foils=None))
    assert plain.choice is None and "choice" not in plain.to_dict()


def test_tuning_keeps_the_choice_with_its_checkpoint(tmp_path):
    model = raw_model(dtype=torch.float32)
    tokens = torch.randint(13, (40, 6), generator=torch.Generator().manual_seed(0))
    own = pi.Batch(tokens, tokens[:, :1], foils=(tokens[:, :1, None] + torch.tensor([1, 2])) % 13)
    task = pi.task_from_function(lambda n, rng: own.part(torch.randint(40, (n,), generator=rng)))
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=3)
    run = dict(recipe=recipe, progress=False, checkpoint=tmp_path / "c")
    first, again = (pi.tune_prefix(model, task, 1, **run) for _ in range(2))
    assert first.evaluation == again.evaluation and first.evaluation.choice is not None
