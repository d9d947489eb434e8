import itertools
import math

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.metrics import (
    METRICS,
    Target,
    answer_log_prob,
    choice,
    choose_metric,
    choose_metrics,
    exact_match,
    kl_to_prefixed,
    logit_difference,
    recovered,
)
from tests.helpers import assert_close

STACK, BATCH, OUT, VOCAB = 3, 4, 2, 5


@pytest.fixture
def case():
    rng = torch.Generator().manual_seed(0)

    def noise(*shape):
        return torch.randn(*shape, VOCAB, generator=rng, dtype=torch.float64) * 2

    answers = torch.randint(VOCAB, (BATCH, OUT), generator=rng)
    return noise(STACK, BATCH, OUT), Target(answers, noise(BATCH, OUT), noise(BATCH, OUT))


def loop(logits, target, of_row):
    """Apply a function of (row, answer, row on, row off) to every output, mean over outputs."""
    out = torch.zeros(STACK, BATCH, dtype=torch.float64)
    for s in range(STACK):
        for b in range(BATCH):
            parts = [
                of_row(
                    logits[s, b, o].tolist(),
                    int(target.answers[b, o]),
                    target.logits_on[b, o].tolist(),
                    target.logits_off[b, o].tolist(),
                )
                for o in range(OUT)
            ]
            out[s, b] = sum(parts) / OUT
    return out


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_log_probability(case):
    expected = loop(*case, lambda row, a, on, off: math.log(softmax(row)[a]))
    assert_close(answer_log_prob(*case), expected, 1e-12)
    assert (answer_log_prob(*case) <= 0).all()


def test_logit_difference_has_the_foil_of_the_run_without_prefix(case):
    def of_row(row, a, on, off):
        foil = max((x, i) for i, x in enumerate(off) if i != a)[1]
        return row[a] - row[foil]

    assert_close(logit_difference(*case), loop(*case, of_row), 1e-12)
    # Linear in the logits, since the foil does not depend on them.
    logits, target = case
    twice = logit_difference(2 * logits + 1, target)
    assert_close(twice, 2 * logit_difference(logits, target), 1e-12)


def among(target, n=3):
    """The same comparison, with some of the wrong tokens as foils of each answer."""
    foils = (target.answers[..., None] + torch.arange(1, n + 1)) % VOCAB
    foils[0, 0, 1:] = -100  # the first has one
    return target._replace(foils=foils)


def test_logit_difference_has_a_foil_of_those_that_are_named(case):
    logits, target = case[0], among(case[1])
    expected = torch.zeros(STACK, BATCH, dtype=torch.float64)
    for b, o in itertools.product(range(BATCH), range(OUT)):
        named = [x for x in target.foils[b, o].tolist() if x >= 0]
        foil = max((float(target.logits_off[b, o, i]), i) for i in named)[1]
        rows = logits[:, b, o]
        expected[:, b] += (rows[:, target.answers[b, o]] - rows[:, foil]) / OUT
    assert_close(logit_difference(logits, target), expected, 1e-12)
    assert not torch.equal(logit_difference(logits, target), logit_difference(*case))
    # With all other tokens named it is the metric without names.
    everyone = target._replace(foils=all_others(target))
    assert torch.equal(logit_difference(logits, everyone), logit_difference(*case))


def all_others(target):
    return (target.answers[..., None] + torch.arange(1, VOCAB)) % VOCAB


def test_a_choice_is_right_if_each_answer_beats_its_foils(case):
    logits, target = case[0], among(case[1], 1)
    expected = [
        [
            all(
                logits[s, b, o, target.answers[b, o]] > logits[s, b, o, target.foils[b, o, 0]]
                for o in range(OUT)
            )
            for b in range(BATCH)
        ]
        for s in range(STACK)
    ]
    assert choice(logits, target).tolist() == expected and 0 < choice(logits, target).mean() < 1
    right = torch.nn.functional.one_hot(target.answers, VOCAB).double()
    everyone = target._replace(foils=all_others(target))
    for each in (logits, right):
        assert torch.equal(choice(each, everyone), exact_match(each, case[1]))
        assert torch.equal(choice(each, case[1]), exact_match(each, case[1]))


def test_kl(case):
    def of_row(row, a, on, off):
        p, q = softmax(on), softmax(row)
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))

    assert_close(kl_to_prefixed(*case), loop(*case, of_row), 1e-12)
    _, target = case
    assert kl_to_prefixed(target.logits_on, target).abs().max() < 1e-15


def test_exact_match_needs_every_output(case):
    logits, target = case
    right = torch.nn.functional.one_hot(target.answers, VOCAB).double()
    assert exact_match(right, target).tolist() == [1.0] * BATCH
    right[0, 1] = right[0, 1].roll(1)
    assert exact_match(right, target).tolist() == [0.0, *[1.0] * (BATCH - 1)]
    assert exact_match(logits, target).shape == (STACK, BATCH)


def test_recovered_is_0_off_and_1_on():
    off, on = torch.tensor(-3.0), torch.tensor(1.0)
    got = recovered(torch.tensor([[-3.0, 1.0], [-1.0, 5.0]]), off, on)
    assert got.tolist() == [[0.0, 1.0], [0.5, 2.0]]


def test_metrics_by_name_and_of_your_own():
    assert list(choose_metrics("kl")) == ["kl"]
    assert list(choose_metrics(["exact_match", "log_prob"])) == ["exact_match", "log_prob"]
    assert choose_metrics(METRICS) == METRICS
    mine = {"first": lambda logits, target: logits[..., 0, 0]}
    assert choose_metrics(mine) == mine
    with pytest.raises(pi.PrefixInterpError, match="did you mean 'log_prob'"):
        choose_metrics(["logprob"])
    with pytest.raises(pi.PrefixInterpError, match="is empty"):
        choose_metrics([])


def test_one_metric_is_one():
    mine = {"mine": lambda logits, _: logits.sum((-1, -2))}
    assert choose_metric("kl") == {"kl": METRICS["kl"]} and choose_metric(mine) == mine
    with pytest.raises(pi.PrefixInterpError, match=r"metric='klll' is unknown.*did you mean 'kl'"):
        choose_metric("klll")
    with pytest.raises(pi.PrefixInterpError, match="are several; give one"):
        choose_metric(METRICS)
    with pytest.raises(pi.PrefixInterpError, match="is empty"):
        choose_metric({})
