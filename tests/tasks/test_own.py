"""Tasks of one's own: what they sample, how they are split, and that every answer counts once."""

import itertools

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import prefix_interp as pi
from prefix_interp.tasks import NO_ANSWER, as_batch, as_task, mean_over_answers
from prefix_interp.tasks.split import row_codes
from tests.helpers import assert_close

PAIRS = torch.cartesian_prod(torch.arange(7), torch.arange(7))
SUMS = PAIRS.sum(-1) % 7


def rows(tokens):
    return {tuple(row) for row in tokens.tolist()}


@given(st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_split_is_exact_complete_and_without_overlap(share, seed):
    twice = torch.cat([PAIRS, PAIRS])  # equal rows must stay on one side
    task = pi.task_from_tensors(twice, torch.cat([SUMS, SUMS]), test_share=share)
    sides = [rows(task.sample(1000, split, seed).tokens) for split in ("train", "test")]
    assert len(sides[1]) == round(share * 49) and not sides[0] & sides[1]
    assert sides[0] | sides[1] == rows(PAIRS) == rows(task.sample(1000, "all").tokens)
    drawn = task.sample_from(torch.Generator().manual_seed(seed), 500, "train")
    assert len(drawn.tokens) == 500 and rows(drawn.tokens) <= sides[0]


def test_a_test_has_each_row_once_and_a_seed_decides_which():
    task = pi.task_from_tensors(PAIRS, SUMS, test_share=0.5)
    batch = task.sample(10, seed=1)
    assert len(rows(batch.tokens)) == 10 and torch.equal(batch.tokens, task.sample(10, seed=1)[0])
    assert not torch.equal(batch.tokens, task.sample(10, seed=2).tokens)
    assert torch.equal(batch.answers[:, 0], batch.tokens.sum(-1) % 7)


def test_the_split_does_not_depend_on_the_order_of_the_rows():
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    tasks = [pi.task_from_tensors(PAIRS[o], SUMS[o]) for o in (torch.arange(49), order)]
    assert len({frozenset(rows(t.sample(99).tokens)) for t in tasks}) == 1


def test_a_function_never_draws_a_sequence_of_the_other_side():
    def copy(n, rng):
        x = torch.randint(6, (n, 4), generator=rng)
        return torch.cat([x, x[:, :3]], dim=1), x

    task = pi.task_from_function(copy, test_share=0.3)
    sides = [rows(task.sample(20_000, split).tokens) for split in ("train", "test")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 6**4
    assert abs(len(sides[1]) - 389) < 4 * 16.5  # of 1,296, with the standard deviation
    assert task.name == "copy" and len(task.sample(7).tokens) == 7


def test_positions_for_all_rows_and_for_each():
    shared = pi.task_from_tensors(PAIRS, SUMS, torch.tensor([1])).sample(9)
    own = pi.task_from_tensors(PAIRS, SUMS, torch.full((49, 1), 1)).sample(9)
    column = pi.task_from_tensors(PAIRS, SUMS, torch.full((49,), 1)).sample(9)
    assert shared.positions.tolist() == own.positions.tolist() == column.positions.tolist()
    assert shared.n_rows == 1


def ragged():
    """Three sequences of 5, 4 and 2 tokens, with 2, 1 and 1 answers at different positions."""
    tokens = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 4, 0], [1, 2, 0, 0, 0]])
    answers = torch.tensor([[6, 7], [8, NO_ANSWER], [9, NO_ANSWER]])
    return pi.Batch(tokens, answers, positions=torch.tensor([[1, 4], [3, 0], [1, 0]]))


def test_reading_against_a_loop():
    batch = ragged().check()
    logits = torch.randn(2, 3, 5, 11, generator=torch.Generator().manual_seed(0))
    assert batch.n_rows == 4
    for kept in (5, 4):  # rows before the first answer may be left out
        read = batch.read(logits[:, :, -kept:])
        for stack, row, place in itertools.product(range(2), range(3), range(2)):
            if batch.given[row, place]:
                at = int(batch.positions[row, place])
                assert torch.equal(read[stack, row, place], logits[stack, row, at])


def test_tokens_in_front_move_the_places_along():
    batch = ragged()
    logits = torch.randn(3, 8, 11, generator=torch.Generator().manual_seed(0))
    longer = batch.behind(torch.cat([torch.zeros(3, 3).long(), batch.tokens], dim=1)).check()
    assert longer.n_rows == batch.n_rows
    given = batch.given
    assert torch.equal(longer.read(logits)[given], batch.read(logits[:, 3:])[given])


def test_the_mean_is_over_the_answers_there_are():
    values = torch.tensor([[1.0, 3.0], [5.0, torch.nan], [7.0, torch.inf]])
    assert mean_over_answers(values, ragged().answers).tolist() == [2.0, 5.0, 7.0]


def test_parts_and_copies_keep_everything_together():
    batch = ragged()
    again = batch.repeat(2)
    assert torch.equal(again.part(slice(3, 6)).positions, batch.positions) and again.skill is None
    assert again.part(torch.tensor([5])).tokens.tolist() == [[1, 2, 0, 0, 0]]


@given(st.lists(st.lists(st.integers(0, 99), min_size=3, max_size=3), min_size=2, max_size=30))
def test_equal_rows_and_only_they_have_equal_codes(lists):
    codes = row_codes(torch.tensor(lists)).tolist()
    assert all(code >= 0 for code in codes)
    for (a, x), (b, y) in itertools.combinations(zip(lists, codes, strict=True), 2):
        assert (a == b) == (x == y)


def test_a_checkpoint_knows_the_data_of_a_task():
    changed = SUMS.clone()
    changed[0] += 1
    names = [pi.task_from_tensors(PAIRS, answers).identity() for answers in (SUMS, SUMS, changed)]
    assert names[0] == names[1] != names[2]


def test_a_batch_or_its_parts_serve_where_nothing_is_sampled(unchecked):
    batch = pi.Batch(PAIRS, SUMS[:, None])
    assert as_batch(batch, 5, 0)[1] is not None and as_batch(batch, 5, 0)[0] == "a batch"
    assert torch.equal(as_batch((PAIRS, SUMS[:, None]), 5, 0)[1].tokens, PAIRS)
    with pytest.raises(pi.PrefixInterpError, match="task is a Batch, which cannot be sampled"):
        as_task(batch)


bad = {
    "give answers for each row": lambda: pi.task_from_tensors(PAIRS, SUMS[:5]),
    "tokens is torch.float32; give": lambda: pi.task_from_tensors(PAIRS.float(), SUMS),
    "positions hold 2, outside": lambda: pi.task_from_tensors(PAIRS, SUMS, torch.tensor([2])),
    "answers[3] are all -100": lambda: pi.task_from_tensors(
        PAIRS, SUMS.where(torch.arange(49) != 3, NO_ANSWER)
    ),
    "test_share=2 must be": lambda: pi.task_from_tensors(PAIRS, SUMS, test_share=2),
    "no sequences in split='test'": lambda: pi.task_from_tensors(
        PAIRS, SUMS, test_share=0.0
    ).sample(1),
    "split='tst' is unknown (did you mean 'test'?)": lambda: pi.task_from_tensors(
        PAIRS, SUMS
    ).sample(1, "tst"),
    "sample is a int": lambda: pi.task_from_function(3),
    "sample gives a NoneType": lambda: pi.task_from_function(lambda n, rng: None),
    "sample drew other sequences": lambda: pi.task_from_function(
        lambda n, rng: (torch.randint(9, (n, 2)), torch.zeros(n).long())
    ),
    "drew no sequence of split": lambda: pi.task_from_function(
        lambda n, rng: (torch.zeros(n, 2).long(), torch.zeros(n).long())
    ).sample(1, "test" if int(row_codes(torch.zeros(1, 2).long())) >> 61 else "train"),
}


@pytest.mark.parametrize("message", bad)
def test_bad_input_is_one_line(message, unchecked):
    with pytest.raises(pi.PrefixInterpError) as error:
        bad[message]()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_evaluation_of_ragged_answers_against_a_loop():
    model = pi.build_toy(pi.ToyConfig(n_heads=2, d_model=16, n_content=5, d_vocab=11))
    batch, losses, right = ragged(), [], []
    with torch.no_grad():
        for row, answers, positions in zip(*batch[:2], batch.positions, strict=True):
            own = []
            for answer, at in zip(answers.tolist(), positions.tolist(), strict=True):
                if answer != NO_ANSWER:  # the sequence ends where the answer is predicted
                    logits = pi_logits(model, row[: at + 1])
                    own.append((float(-logits.log_softmax(-1)[answer]), logits.argmax() == answer))
            losses.append(sum(x for x, _ in own) / len(own))
            right.append(all(x for _, x in own))
    score = pi.evaluate(model, batch)
    assert score.n == 3 and score.task == "a batch"
    assert_close(torch.tensor(score.loss.value), torch.tensor(sum(losses) / 3), 1e-6)
    assert score.exact_match.value == sum(right) / 3


def pi_logits(model, tokens):
    """The last logits of a toy without a prefix, through its own position embeddings."""
    from prefix_interp.prefixes.layout import offset_hooks

    return model.run_with_hooks(tokens[None], fwd_hooks=offset_hooks(model, 1))[0, -1]


def test_padding_does_not_decide_the_side():
    def padded(n, rng):
        x = torch.randint(0, 4, (n, 6), generator=rng)  # only the first two are ever seen
        return x, x[:, :2].sum(-1), torch.full((n,), 1)

    task = pi.task_from_function(padded)
    sides = [rows(task.sample(500, split).tokens[:, :2]) for split in ("train", "test")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 16
    tokens, answers, positions = padded(300, torch.Generator().manual_seed(0))
    task = pi.task_from_tensors(tokens, answers, positions)
    sides = [rows(task.sample(500, split).tokens[:, :2]) for split in ("train", "test")]
    assert not sides[0] & sides[1] and len(sides[1]) == 4


def test_a_tuple_means_the_same_everywhere(unchecked):
    given = (PAIRS, SUMS, torch.tensor([0]))
    assert as_batch(given, 5, 0)[1].positions.tolist() == [[0]] * 49
    short = as_batch((PAIRS.int(), SUMS.short()), 5, 0)[1]
    assert short.tokens.dtype == short.answers.dtype == torch.int64
    assert pi.task_from_tensors([[1, 2], [3, 4]], [1, 2], 1).data.positions.tolist() == [[1], [1]]


def two_kinds(n, rng):
    x = torch.randint(9, (n, 3), generator=rng)
    return (x, x[:, :1]) if len(x) % 2 else (x, x[:, :1], torch.zeros(n, 1).long())


WRONG = {
    "NoneType is no table of whole numbers": lambda: pi.task_from_tensors(PAIRS, None),
    "rows of one length": lambda: pi.task_from_tensors([[1, 2], [3]], [1, 2]),
    "name=3 must be a text": lambda: pi.task_from_tensors(PAIRS, SUMS, name=3),
    "one position for each answer": lambda: pi.task_from_tensors(
        PAIRS, PAIRS, torch.tensor([1, 1, 1])
    ),
    "answers is NoneType": lambda: pi.Batch(PAIRS, None).check(),
    "batches of different kinds": lambda: [
        pi.task_from_function(two_kinds).sample(n, "test") for n in range(50, 70)
    ],
}


@pytest.mark.parametrize("message", WRONG)
def test_other_wrong_parts_are_one_line(message, unchecked):
    with pytest.raises(pi.PrefixInterpError) as error:
        WRONG[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
