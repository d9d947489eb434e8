"""Text as data: prompts with their answers as a task, and plain texts as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prefix_interp.errors import PrefixInterpError, check_number, check_positive
from prefix_interp.tasks.batch import NO_ANSWER, Batch
from prefix_interp.tasks.encoding import Encoder, encoder_of
from prefix_interp.tasks.own import TensorTask, checked_name
from prefix_interp.words import counted

Texts = str | Iterable[str]


def text_task(
    tokenizer: Any,
    prompts: Texts,
    answers: Texts,
    *,
    foils: Texts | Iterable[Iterable[str]] | None = None,
    test_share: float = 0.25,
    max_length: int | None = None,
    name: str = "text",
) -> TensorTask:
    """Return a task made of prompts and the texts that should follow them.

    Each prompt is split into tokens alone and together with its answer. What the answer adds are
    its tokens, one or several; all but the last are fed behind the prompt (teacher forcing). Texts
    may differ in length: they are padded on the right, where a causal model does not see it from
    an earlier position. Tokens that the tokenizer itself puts in front (BOS) stand once before the
    prompt; what it would put behind (EOS) is left out.

    Equal prompts stay on one side of the split, whatever their answers.

    Args:
        tokenizer: of the model, from transformers, or the model itself if it has one.
        prompts: one text per example.
        answers: what follows each prompt, with the space in front if there is one: ``" Paris"``.
        foils: for a multiple choice the wrong answers: texts for all prompts, of which each prompt
            takes those that are not its answer, or a list of texts per prompt. Then answers and
            foils must be single tokens. `evaluate` also returns ``choice``, and the metrics
            ``"choice"`` and ``"logit_difference"`` compare with these foils alone.
        test_share: share of the different prompts that are kept for the test, 0 to 1.
        max_length: most tokens to feed per example; None: the model says if it is too long.
        name: what results and messages call it.

    Raises:
        PrefixInterpError: no tokenizer, another number of answers than of prompts, a text that is
            empty or too long, a prompt that ends inside a token, an answer without tokens or, with
            foils, of several, an answer among its own foils.

    Example:
        >>> prompts = ["the film is", "the long film is"]
        >>> films = text_task(tokenizer, prompts, [" good", " bad"], foils=[" good", " bad"])
        >>> films.data.positions.tolist(), films.data.answers.tolist(), films.data.foils.tolist()
        ([[2], [3]], [[7], [8]], [[[8]], [[7]]])
    """
    check_number("test_share", test_share, 0.0, 1.0)
    encoder, asked, wanted = encoder_of(tokenizer), _texts("prompts", prompts), [*_list(answers)]
    _check_as_many("answers", len(wanted), len(asked))
    wanted = _texts("answers", wanted)
    starts = encoder.ids("prompts", asked)
    pairs = zip(asked, wanted, strict=True)
    ends = _behind(encoder, "answers", asked, starts, pairs, range(len(asked)))
    choices = None if foils is None else _choices(encoder, asked, starts, wanted, ends, foils)
    fed = [start + end[:-1] for start, end in zip(starts, ends, strict=True)]
    _check_length("prompts", fed, max_length)
    places = [range(len(start) - 1, len(whole)) for start, whole in zip(starts, fed, strict=True)]
    batch = Batch(
        tokens=_padded(fed, encoder.pad),
        answers=_padded(ends, NO_ANSWER),
        positions=_padded(places, 0),
        foils=None if choices is None else _padded(choices, NO_ANSWER)[:, None],
    )
    return TensorTask(checked_name(name), batch.check(), test_share, split_by="asked")


def texts_batch(tokenizer: Any, texts: Texts, *, max_length: int | None = None) -> Batch:
    """Return texts as a batch whose answers are the next tokens at every position.

    Its log-probabilities are those of the texts, token by token: all tokens but the first are
    answers, and position i predicts token i + 1.

    Args:
        tokenizer: of the model, from transformers, or the model itself if it has one.
        texts: one per row, of any lengths; see `as_tokens`.
        max_length: most tokens per text; None: the model says if it is too long.

    Raises:
        PrefixInterpError: as `as_tokens`, or a text of one token, in which nothing is predicted.

    Example:
        >>> batch = texts_batch(tokenizer, ["the film is good", "a film"])
        >>> batch.answers.tolist()
        [[5, 6, 7], [5, -100, -100]]
    """
    encoder, rows = _encoded(tokenizer, texts, max_length)
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise PrefixInterpError(
                f"texts[{i}] is a single token, so nothing in it is predicted; give a longer text"
            )
    return Batch(
        tokens=_padded(rows, encoder.pad),
        answers=_padded([row[1:] for row in rows], NO_ANSWER),
        positions=_padded([range(len(row) - 1) for row in rows], 0),
    ).check()


def as_tokens(
    tokenizer: Any, texts: Texts, *, max_length: int | None = None
) -> Int[Tensor, "batch pos"]:
    """Return texts as tokens, padded on the right to one length.

    What the tokenizer itself puts in front (BOS) is kept, what it would put behind is left out.
    The padding is its end token, or 0 if it has none; `texts_batch` also says where texts end.

    Args:
        tokenizer: of the model, from transformers, or the model itself if it has one.
        texts: one per row, of any lengths.
        max_length: most tokens per text; None: the model says if it is too long.

    Raises:
        PrefixInterpError: no tokenizer, no texts, or a text that is empty or too long.

    Example:
        >>> as_tokens(tokenizer, ["the film is good", "a film"]).tolist()
        [[2, 5, 6, 7], [3, 5, 1, 1]]
    """
    return padded_tokens(tokenizer, texts, max_length=max_length)[0]


def padded_tokens(
    tokenizer: Any, texts: Texts, *, max_length: int | None = None
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    """Return what `as_tokens` returns, and how many tokens of each row are no padding.

    Args:
        tokenizer: of the model, from transformers, or the model itself if it has one.
        texts: one per row, of any lengths.
        max_length: most tokens per text; None: the model says if it is too long.

    Raises:
        PrefixInterpError: as `as_tokens`.

    Example:
        >>> padded_tokens(tokenizer, ["the film is good", "a film"])[1].tolist()
        [4, 2]
    """
    encoder, rows = _encoded(tokenizer, texts, max_length)
    return _padded(rows, encoder.pad), torch.tensor([len(row) for row in rows])


def _encoded(tokenizer: Any, texts: Texts, max_length: int | None) -> tuple[Encoder, list]:
    encoder = encoder_of(tokenizer)
    rows = encoder.ids("texts", _texts("texts", texts))
    _check_length("texts", rows, max_length)
    return encoder, rows


def _choices(
    encoder: Encoder,
    asked: Sequence[str],
    starts: Sequence[list[int]],
    wanted: Sequence[str],
    ends: Sequence[list[int]],
    foils: Texts | Iterable[Iterable[str]],
) -> list[list[int]]:
    """Return the tokens of each prompt's foils."""
    for i, end in enumerate(ends):
        _check_single(f"answers[{i}]={wanted[i]!r}", end)
    given = _list(foils)
    if all(isinstance(foil, str) for foil in given):
        each = [[foil for foil in given if foil != answer] for answer in wanted]
    else:
        each = [_list(own) for own in given]
        _check_as_many("foils", len(each), len(asked))
    for i, own in enumerate(each):
        if not own:
            raise PrefixInterpError(
                f"foils leave nothing to compare answers[{i}]={wanted[i]!r} with; give at least "
                "one wrong answer"
            )
    texts = [(i, foil) for i, own in enumerate(each) for foil in own]
    _texts("foils", [foil for _, foil in texts])
    rows = [i for i, _ in texts]
    pairs = [(asked[i], foil) for i, foil in texts]
    tokens = _behind(encoder, "foils", asked, starts, pairs, rows)
    found: list[list[int]] = [[] for _ in asked]
    for (i, foil), token in zip(texts, tokens, strict=True):
        _check_single(f"foils[{i}] with {foil!r}", token)
        if token == ends[i]:
            raise PrefixInterpError(
                f"answers[{i}]={wanted[i]!r} is among its own foils, as {foil!r}: both are token "
                f"{token[0]}; give other foils"
            )
        found[i] += token
    return found


def _behind(
    encoder: Encoder,
    what: str,
    asked: Sequence[str],
    starts: Sequence[list[int]],
    pairs: Iterable[tuple[str, str]],
    rows: Sequence[int],
) -> list[list[int]]:
    """Return the tokens that each text adds to its prompt."""
    pairs = list(pairs)
    found = []
    wholes = encoder.ids(what, [prompt + text for prompt, text in pairs])
    for i, (_, text), whole in zip(rows, pairs, wholes, strict=True):
        n = len(starts[i])
        if whole[:n] != starts[i]:
            remedy = (
                "let the answer begin with the space that the prompt ends with"
                if asked[i][-1].isspace()
                else "begin the answer with a space if it is a word of its own"
            )
            raise PrefixInterpError(
                f"prompts[{i}], which ends with {asked[i][-20:]!r}, has other tokens when {text!r} "
                f"follows: it ends inside a token; {remedy}"
            )
        if len(whole) == n:
            raise PrefixInterpError(
                f"{what}[{i}] with {text!r} adds no token to its prompt; give text that the "
                "tokenizer does not drop"
            )
        found.append(whole[n:])
    return found


def _list(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [given]
    return list(given) if isinstance(given, Iterable) else [given]


def _texts(what: str, given: Any) -> list[str]:
    """Return what was given as texts, at least one and none of them empty."""
    texts = _list(given)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise PrefixInterpError(f"{what}[{i}] is a {type(text).__name__}; give texts")
        if not text:
            raise PrefixInterpError(f"{what}[{i}] is empty; leave it out, or give text")
    if not texts:
        raise PrefixInterpError(f"{what} are none; give at least one text")
    return texts


def _check_as_many(what: str, n: int, n_prompts: int) -> None:
    if n != n_prompts:
        raise PrefixInterpError(
            f"{what} are {n:,} but prompts {n_prompts:,}; give one for each prompt"
        )


def _check_single(what: str, tokens: Sequence[int]) -> None:
    if len(tokens) > 1:
        raise PrefixInterpError(
            f"{what} is {counted(len(tokens), 'token')}, no single token, which a choice among "
            "foils asks for; give one token each, or leave out foils"
        )


def _check_length(what: str, rows: Sequence[Sequence[int]], max_length: int | None) -> None:
    if max_length is None:
        return
    check_positive("max_length", max_length)
    for i, row in enumerate(rows):
        if len(row) > max_length:
            raise PrefixInterpError(
                f"{what}[{i}] feeds {counted(len(row), 'token')}, more than max_length="
                f"{max_length}; shorten it, or allow more if the model's context does"
            )


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Int[Tensor, "batch pos"]:
    """Return rows of different lengths as one tensor, filled up on the right."""
    found = torch.full((len(rows), max(map(len, rows))), pad)
    for i, row in enumerate(rows):
        found[i, : len(row)] = torch.tensor(row)
    return found
