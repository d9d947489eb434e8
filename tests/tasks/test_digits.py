import itertools
import json
import math
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch

import prefix_interp as pi
from prefix_interp.tasks import DigitTask, list_tasks
from prefix_interp.tasks.digits import FOUR_SKILLS, RULES, in_test_split

ORACLES = {
    "sort_ascending": sorted,
    "sort_descending": lambda x: sorted(x, reverse=True),
    "add_one": lambda x: [d + 1 for d in x],
    "add_two": lambda x: [d + 2 for d in x],
    "sort_ascending_add_one": lambda x: [d + 1 for d in sorted(x)],
    "double_histogram": lambda x: [x.count(d) for d in x],
}


def inputs_of(batch, length=10):
    return batch.tokens[:, :length]


def stirling(n, k):
    return sum((-1) ** i * math.comb(k, i) * (k - i) ** n for i in range(k + 1)) // math.factorial(
        k
    )


def code(digits, n_digits=8):
    return sum(d * n_digits**i for i, d in enumerate(digits))


@pytest.mark.parametrize("name", list_tasks())
def test_answers_are_those_of_a_loop(name):
    task = pi.get_task(name)
    for split in ("train", "test", "all"):
        batch = task.sample(200, split=split, seed=3)
        for tokens, answers, skill in zip(*(x.tolist() for x in batch[:3]), strict=True):
            x = tokens[:10]
            assert answers == ORACLES[task.rules[skill]](x)
            assert tokens[10:] == answers[:-1]
            assert set(x) <= set(range(8))
    assert batch.tokens.shape == (200, 19) == (200, task.n_content)
    assert batch.answers.shape == (200, 10) and batch.tokens.dtype == torch.int64


def test_the_names_are_the_papers():
    assert list_tasks() == [*RULES, "four_skills"] and set(RULES) == set(ORACLES)
    assert pi.get_task("four_skills").rules == FOUR_SKILLS


@pytest.mark.parametrize("length, n_digits", [(10, 8), (4, 4), (2, 2), (12, 8), (6, 3)])
def test_tokens_fit_the_vocabulary(length, n_digits):
    for rule in RULES:
        task = DigitTask("x", (rule,), length=length, n_digits=n_digits)
        top = torch.full((1, length), n_digits - 1)
        batch = task.batch(top, torch.zeros(1, dtype=torch.long))  # all equal: the count is length
        assert int(torch.cat([batch.tokens, batch.answers], 1).max()) < task.d_vocab
    assert pi.get_task("double_histogram").d_vocab == 11
    equal = pi.get_task("double_histogram").batch(torch.full((1, 10), 3), torch.tensor([0]))
    assert equal.answers.tolist() == [[10] * 10]


def test_repetitions_are_as_common_as_in_the_paper():
    """P(at most 5 distinct) = p / (1 - (1 - p) / 2), p by Stirling numbers."""
    surjections = sum(math.perm(8, k) * stirling(10, k) for k in range(1, 6))
    p = surjections / 8**10
    exact = p / (1 - (1 - p) / 2)
    assert round(p, 3) == 0.322 and round(exact, 3) == 0.488
    n = 60_000
    for split in ("train", "test", "all"):
        x = inputs_of(pi.get_task("add_one").sample(n, split=split, seed=1))
        distinct = (torch.nn.functional.one_hot(x, 8).sum(1) > 0).sum(-1)
        share = float((distinct <= 5).float().mean())
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / n), split
        # and within each half all inputs are equally likely: the digits are uniform
        for half in (distinct <= 5, distinct > 5):
            counts = torch.bincount(x[half].flatten(), minlength=8).double()
            assert (counts / counts.mean() - 1).abs().max() < 0.03


def test_the_distribution_of_a_small_task_by_enumeration():
    task = DigitTask("x", ("add_one",), length=4, n_digits=4, max_distinct=2)
    weights = {x: 1.0 if len(set(x)) <= 2 else 0.5 for x in itertools.product(range(4), repeat=4)}
    n, total = 100_000, sum(weights.values())
    drawn = Counter(map(tuple, inputs_of(task.sample(n, "all", seed=2), 4).tolist()))
    assert set(drawn) == set(weights)
    chi2 = sum((drawn[x] - n * w / total) ** 2 / (n * w / total) for x, w in weights.items())
    assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)
    test = {x for x in weights if bool(in_test_split(torch.tensor([code(x, 4)])))}
    assert 0.1 < len(test) / len(weights) < 0.4
    found = {
        s: set(map(tuple, inputs_of(task.sample(9000, s), 4).tolist())) for s in ("train", "test")
    }
    assert found["test"] == test and found["train"] == set(weights) - test


def murmur(x):
    """MurmurHash3's 64-bit finaliser with Python's integers."""
    mask = 2**64 - 1
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & mask
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & mask
    return x ^ x >> 33


def test_the_split_is_a_quarter_by_a_fixed_hash():
    codes = torch.randint(8**10, (40_000,), generator=torch.Generator().manual_seed(0))
    member = in_test_split(codes)
    assert member.tolist() == [murmur(c) % 4 == 0 for c in codes.tolist()]
    assert abs(float(member.float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 40_000)


def test_train_and_test_are_disjoint_and_agree_with_the_hash():
    task = pi.get_task("sort_ascending")
    for split, inside in (("train", False), ("test", True)):
        x = inputs_of(task.sample(5000, split=split, seed=4))
        codes = (x * 8 ** torch.arange(10)).sum(-1)
        assert (in_test_split(codes) == inside).all()
    both = in_test_split((inputs_of(task.sample(5000, "all")) * 8 ** torch.arange(10)).sum(-1))
    assert 0.22 < float(both.float().mean()) < 0.28


def test_another_process_with_another_hash_salt_draws_the_same():
    program = (
        "import prefix_interp as pi\n"
        "print(pi.get_task('four_skills').sample(50, split='test', seed=7).tokens.tolist())"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    here = pi.get_task("four_skills").sample(50, split="test", seed=7).tokens.tolist()
    assert json.loads(run.stdout) == here


def test_a_seed_gives_the_same_sample_and_another_another():
    task, state = pi.get_task("four_skills"), torch.get_rng_state()
    one, again, other = (task.sample(50, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one[:3], again[:3], strict=True))
    assert not torch.equal(one.tokens, other.tokens)
    assert not torch.equal(task.sample(50, "train", seed=1).tokens, one.tokens)
    rng = torch.Generator().manual_seed(0)
    assert not torch.equal(task.sample_from(rng, 50).tokens, task.sample_from(rng, 50).tokens)


def test_the_mixture_is_uniform_and_independent_of_the_input():
    batch = pi.get_task("four_skills").sample(20_000, seed=5)
    sigma = math.sqrt(0.25 * 0.75 * 20_000)
    assert (torch.bincount(batch.skill) - 5000).abs().max() < 4 * sigma
    for digit in range(8):
        skills = batch.skill[batch.tokens[:, 0] == digit]
        share = torch.bincount(skills, minlength=4) / len(skills)
        assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / len(skills))


@pytest.mark.parametrize("length", [2, 4, 6])
@pytest.mark.parametrize("n_digits", [2, 3, 8])
def test_small_tasks_have_both_splits(length, n_digits):
    task = DigitTask("x", ("add_one",), length=length, n_digits=n_digits)
    for split in ("train", "test"):
        assert task.sample(7, split).tokens.shape == (7, 2 * length - 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "bad",
    [dict(length=3), dict(length=0), dict(length=14), dict(n_digits=9), dict(n_digits=0),
     dict(n_digits=1), dict(n_digits=True), dict(max_distinct=0), dict(rules=())],
)  # fmt: skip
def test_a_task_that_cannot_be_is_refused(bad):
    with pytest.raises(pi.PrefixInterpError, match=next(iter(bad))):
        DigitTask(**{"name": "x", "rules": ("add_one",), **bad})


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused():
    task = pi.get_task("add_one")
    for n in (0, -3, 1.5, True):
        with pytest.raises(pi.PrefixInterpError, match="n="):
            task.sample(n)
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'train'"):
        task.sample(1, "training")
    with pytest.raises(pi.PrefixInterpError, match="seed"):
        task.sample(1, seed=0.5)
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'sort_ascending'"):
        pi.get_task("sort_asc")
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'add_one'"):
        DigitTask("x", ("add_on",))
