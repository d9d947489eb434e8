from collections import Counter

import pytest

import prefix_interp as pi
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning.content_blind import content_blind_hits


def test_against_an_explicit_count():
    task = DigitTask("small", ("sort_descending",), length=4, n_digits=4)
    hits = content_blind_hits(task, n=300, seed=5, n_count=2000)
    table: dict[tuple[int, int], Counter] = {}
    train, test = task.sample(2000, "train", 5), task.sample(300, "test", 5)
    for tokens, answers in zip(train.tokens.tolist(), train.answers.tolist(), strict=True):
        for i, answer in enumerate(answers):
            table.setdefault((i, tokens[3 + i]), Counter())[answer] += 1
    right = 0
    for tokens, answers in zip(test.tokens.tolist(), test.answers.tolist(), strict=True):
        for i, answer in enumerate(answers):
            best = table.get((i, tokens[3 + i]), {0: 0})  # a cell never seen counts as 0
            right += answer == min(k for k in best if best[k] == max(best.values()))
    assert right == int(hits.sum())


def test_sorting_cannot_be_done_blind():
    hits = content_blind_hits("sort_descending", n=1000, n_count=50_000)
    assert hits.all(-1).double().mean() < 0.01 and hits.double().mean() > 0.4
    with pytest.raises(pi.PrefixInterpError, match="n_count=0"):
        content_blind_hits("add_one", n_count=0)
