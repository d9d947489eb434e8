import pytest
import torch

import prefix_interp as pi
from prefix_interp.tuning.evaluate import greedy_answers


@pytest.fixture(scope="module")
def sorter():
    return pi.load_toy("sort-ascending-1l1h")


@pytest.mark.parametrize("key", [None, "sort_descending-kv-10", "sort_descending"])
def test_teacher_forced_exact_match_is_greedy_exact_match(sorter, key):
    """On 1,000 inputs, sequence by sequence; the kv prefix gets some right and most wrong."""
    prefix = None if key is None else pi.load_prefixes("sort-ascending-1l1h")[key]
    task = pi.get_task("sort_ascending" if key is None else "sort_descending")
    batch = task.sample(1000, seed=3)
    generated = greedy_answers(sorter, task, batch.tokens[:, : task.length], prefix)
    greedy = (generated == batch.answers).all(-1)
    logits = pi.tuning.evaluate.answer_logits(sorter, batch, prefix)
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
    with pytest.raises(pi.PrefixInterpError, match="from 0 to 7, outside the vocabulary of 5"):
        pi.evaluate(small, "sort_ascending", n=10)
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'sort_ascending'"):
        pi.evaluate(sorter, "sort_ascendin")
    with pytest.raises(pi.PrefixInterpError, match="n=0"):
        pi.evaluate(sorter, "sort_ascending", n=0)
    with pytest.raises(pi.PrefixInterpError, match="outside the vocabulary"):
        wide = pi.Prefix.random(sorter, 1)
        with pi.attach(sorter, wide):
            sorter(torch.tensor([[11]]))
