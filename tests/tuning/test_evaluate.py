import math

import pytest
import torch

import prefix_interp as pi
from prefix_interp.estimates import Estimate, mean_interval, wilson


@pytest.fixture(scope="module")
def sorter():
    return pi.load_toy("sort-ascending-1l1h")


def test_wilson_solves_its_quadratic():
    # The interval's ends are where |p - x| = z sqrt(x (1 - x) / n), by definition.
    for k, n in [(0, 10), (3, 10), (50, 100), (3199, 3200), (7, 7)]:
        got = wilson(k, n)
        z = 1.959963984540054
        for end in (got.low, got.high):
            if 0 < end < 1:
                assert abs(k / n - end) == pytest.approx(z * math.sqrt(end * (1 - end) / n))
        assert got.low <= got <= got.high
    assert wilson(0, 10).low == 0 and wilson(7, 7).high == 1


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_refuses_nonsense(k, n):
    with pytest.raises(pi.PrefixInterpError):
        wilson(k, n)


def test_mean_interval_is_the_normal_one():
    x = torch.tensor([1.0, 2.0, 4.0, 9.0])
    got = mean_interval(x)
    half = 1.959963984540054 * (x.double().var().item() / 4) ** 0.5
    assert got.value == 4.0 and got.high - got.low == pytest.approx(2 * half)


def test_estimate_is_a_float_that_remembers():
    x = Estimate(0.5, 0.4, 0.6)
    assert x + 1 == 1.5 and x.value == 0.5 and "0.4" in repr(x)


@pytest.mark.parametrize("key", [None, "sort_descending-kv-10", "sort_descending"])
def test_teacher_forced_exact_match_is_greedy_exact_match(sorter, key):
    """On 1,000 inputs, sequence by sequence; the kv prefix gets some right and most wrong."""
    prefix = None if key is None else pi.load_prefixes("sort-ascending-1l1h")[key]
    task = pi.get_task("sort_ascending" if key is None else "sort_descending")
    batch = task.sample(1000, seed=3)
    generated = pi.greedy_answers(sorter, task, batch.tokens[:, : task.length], prefix)
    greedy = (generated == batch.answers).all(-1)
    logits = pi.tuning.evaluate.answer_logits(sorter, task, batch.tokens, prefix)
    forced = (logits.argmax(-1) == batch.answers).all(-1)
    assert torch.equal(greedy, forced)
    expected = {None: (1, 1000), "sort_descending-kv-10": (1, 999), "sort_descending": (0, 999)}
    low, high = expected[key]
    assert low <= int(greedy.sum()) <= high
    score = pi.evaluate(sorter, task, prefix, n=1000, seed=3)
    assert score.exact_match == pytest.approx(greedy.double().mean().item())
    assert score.token_accuracy == pytest.approx(
        (logits.argmax(-1) == batch.answers).double().mean().item()
    )
    log_p = logits.double().log_softmax(-1).gather(-1, batch.answers[..., None])
    assert score.loss == pytest.approx(-log_p.mean().item(), rel=1e-4, abs=1e-7)


def test_baselines_differ_and_batches_do_not_matter(sorter):
    scores = {
        b: pi.evaluate(sorter, "sort_ascending", n=400, baseline=b).loss.value
        for b in ("masked", "placeholder", "unshifted")
    }
    assert len(set(scores.values())) == 3 and scores["masked"] == min(scores.values())
    small = pi.evaluate(sorter, "sort_ascending", n=400, batch_size=150).loss
    assert small == pytest.approx(scores["masked"], rel=1e-3)


def test_no_prefix_inside_attach_is_refused(sorter):
    prefix = pi.load_prefixes("sort-ascending-1l1h")["sort_descending"]
    with pi.attach(sorter, prefix):
        with pytest.raises(pi.PrefixInterpError, match="has one already"):
            pi.evaluate(sorter, "sort_ascending", n=10)
        with pytest.raises(pi.PrefixInterpError, match="has one already"):
            pi.tune_prefix(sorter, "add_one", preset="smoke")


def test_bad_input(sorter):
    with pytest.raises(pi.PrefixInterpError, match="baseline='mask' is unknown"):
        pi.evaluate(sorter, "sort_ascending", baseline="mask", n=10)
    small = pi.build_toy(pi.ToyConfig(d_model=8, d_vocab=5))
    with pytest.raises(pi.PrefixInterpError, match="outside the vocabulary"):
        pi.evaluate(small, "sort_ascending", n=10)
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'sort_ascending'"):
        pi.evaluate(sorter, "sort_ascendin")
    with pytest.raises(pi.PrefixInterpError, match="n=0"):
        pi.evaluate(sorter, "sort_ascending", n=0)
    with pytest.raises(pi.PrefixInterpError, match="outside the vocabulary"):
        wide = pi.Prefix.random(sorter, 1)
        with pi.attach(sorter, wide):
            sorter(torch.tensor([[11]]))
