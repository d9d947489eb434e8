"""Texts as a task: what is fed and asked, against offsets in the text and against single runs."""

import socket

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

import prefix_interp as pi
from prefix_interp.tasks import NO_ANSWER
from prefix_interp.tasks.encoding import _front
from prefix_interp.tasks.split import row_codes
from prefix_interp.tasks.text import as_tokens, text_task, texts_batch
from prefix_interp.tuning.evaluate import answer_logits
from tests.helpers import assert_close, raw_model
from tests.tiny_tokenizers import WORDS, bpe, word_level

TOKENIZERS = {
    f"{kind.__name__}, {side} padding{', BOS' * bos}{', EOS' * eos}": kind(
        bos=bos, eos_behind=eos, side=side
    )
    for kind in (word_level, bpe)
    for side in ("left", "right")
    for bos, eos in ((False, False), (True, False), (True, True))
}
phrases = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=5).map(" ".join)
examples = st.lists(st.tuples(phrases, phrases.map(" {}".format)), min_size=1, max_size=6)
tokenizers = st.sampled_from(list(TOKENIZERS.values()))


def by_offsets(tokenizer, prompt, answer):
    """The tokens of an example, the answer's places among them, and the answer's tokens."""
    found = tokenizer(prompt + answer, return_offsets_mapping=True)
    ids, ends = found["input_ids"], [end for _, end in found["offset_mapping"]]
    if tokenizer.bos_token and len(set(ids[-1:]) & {tokenizer.eos_token_id}):
        ids, ends = ids[:-1], ends[:-1]
    places = [i for i, end in enumerate(ends) if end > len(prompt)]
    return ids, places, [ids[i] for i in places]


@given(tokenizers, examples)
def test_what_is_fed_and_asked_against_offsets_in_the_text(tokenizer, pairs):
    batch = text_task(tokenizer, *zip(*pairs, strict=True)).data
    assert batch.skill is batch.foils is None
    for i, (prompt, answer) in enumerate(pairs):
        ids, places, wanted = by_offsets(tokenizer, prompt, answer)
        n, given = len(ids) - 1, batch.given[i]
        assert batch.tokens[i, :n].tolist() == ids[:-1]
        assert set(batch.tokens[i, n:].tolist()) <= {tokenizer.eos_token_id}
        assert batch.answers[i][given].tolist() == wanted
        assert batch.positions[i][given].tolist() == [place - 1 for place in places]
        assert int(given.sum()) == len(wanted)


@given(tokenizers, examples, st.booleans(), st.integers(0, 9))
def test_scores_of_a_padded_batch_against_texts_run_one_by_one(tokenizer, pairs, rotary, seed):
    kind = {"positional_embedding_type": "rotary", "rotary_dim": 4} if rotary else {}
    model = raw_model(seed, d_vocab=len(tokenizer), n_ctx=80, **kind)
    batch = text_task(tokenizer, *zip(*pairs, strict=True)).data
    logp = answer_logits(model, batch).log_softmax(dim=-1)
    for i, (prompt, answer) in enumerate(pairs):
        ids, places, wanted = by_offsets(tokenizer, prompt, answer)
        with torch.no_grad():
            alone = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
        expected = torch.stack(
            [alone[at - 1, token] for at, token in zip(places, wanted, strict=True)]
        )
        found = logp[i].gather(-1, batch.answers[i].clamp(min=0)[:, None])[batch.given[i], 0]
        assert_close(found, expected, 1e-9)


@given(tokenizers, st.lists(phrases, min_size=1, max_size=5), st.integers(0, 9))
def test_every_next_token_of_texts_against_texts_run_one_by_one(tokenizer, texts, seed):
    texts = [f"{text} film" for text in texts]
    model = raw_model(seed, d_vocab=len(tokenizer), n_ctx=80)
    batch = texts_batch(tokenizer, texts)
    assert torch.equal(batch.tokens, as_tokens(tokenizer, texts))
    losses = torch.nn.functional.cross_entropy(
        answer_logits(model, batch).mT, batch.answers, reduction="none"
    )
    for i, text in enumerate(texts):
        ids, _, _ = by_offsets(tokenizer, text, "")
        with torch.no_grad():
            alone = model(torch.tensor([ids]), return_type="loss", loss_per_token=True)[0]
        assert_close(losses[i][batch.given[i]], alone, 1e-9)
        assert batch.tokens[i, : len(ids)].tolist() == ids


@given(tokenizers, examples, st.floats(0.2, 0.8))
def test_equal_prompts_stay_on_one_side_whatever_their_answers(tokenizer, pairs, share):
    pairs = [
        *pairs,
        *((prompt, " bad film") for prompt, _ in pairs),
        ("the film", " is a good film"),
    ]
    task = text_task(tokenizer, *zip(*pairs, strict=True), test_share=share)
    prompts = [prompt for prompt, _ in pairs]
    sides = [{prompts[i] for i in task.rows[split].tolist()} for split in ("train", "test")]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(prompts)
    assert len(sides[1]) == round(share * len(set(prompts)))


@given(tokenizers, examples)
def test_the_hash_of_a_prompt_depends_on_nothing_else(tokenizer, pairs):
    def code(*given):
        return int(row_codes(text_task(tokenizer, *zip(*given, strict=True)).data.asked())[0])

    (prompt, _), (other, answer) = pairs[0], pairs[-1]
    long = ("the long film is a long long film", " and long and long and long")
    assert code((prompt, " film")) == code((prompt, answer), long)
    if prompt != other:
        assert code((prompt, answer)) != code((other, answer))


def test_what_was_asked_is_the_question_without_its_answers():
    tokens = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 0], [4, 0, 0, 0]])
    answers = torch.tensor([[8, 1], [9, NO_ANSWER], [3, NO_ANSWER]])
    batch = pi.Batch(tokens, answers, positions=torch.tensor([[2, 3], [1, 0], [0, 3]]))
    assert batch.asked().tolist() == [[-1, 5, 6, 7], [-1, -1, 5, 6], [-1, -1, -1, 4]]
    last = pi.Batch(tokens, answers[:, :1].repeat(1, 2))  # the last two positions predict
    assert last.asked().tolist() == [[-1, *row[:3]] for row in tokens.tolist()]


def test_a_checkpoint_knows_the_texts_the_foils_and_how_they_were_split():
    tokenizer, prompts, answers = word_level(), ["the film", "a film"], [" good", " bad"]
    task = text_task(tokenizer, prompts, answers)
    data = task.data
    plain = pi.task_from_tensors(data.tokens, data.answers, data.positions, name="text")
    foils = text_task(tokenizer, prompts, answers, foils=" long")
    names = [
        each.identity() for each in (task, text_task(tokenizer, prompts, answers), plain, foils)
    ]
    assert names[0] == names[1] and names[0] != names[2] and names[0] != names[3]


def test_begin_tokens_stand_once_and_end_tokens_nowhere():
    tokenizer = word_level(bos=True, eos_behind=True)
    assert tokenizer("the film")["input_ids"] == [2, 3, 6, 1]
    written = ["the film", "<s> the film", "<s>"]  # e.g. by a chat template
    assert as_tokens(tokenizer, written).tolist() == [[2, 3, 6], [2, 3, 6], [2, 1, 1]]
    assert as_tokens(tokenizer, "</s>").tolist() == [[2, 1]]
    assert as_tokens(word_level(eos_behind=True), "</s>").tolist() == [[1]]
    batch = text_task(tokenizer, written[:2], [" is good", " is good"]).data
    assert batch.tokens.tolist() == [[2, 3, 6, 7]] * 2 and batch.answers.tolist() == [[7, 8]] * 2


def test_padding_is_the_end_token_or_0():
    texts = ["the long film", "film"]
    assert as_tokens(word_level(), texts).tolist() == [[2, 4, 5], [5, 1, 1]]
    assert as_tokens(word_level(eos=False), texts).tolist() == [[2, 4, 5], [5, 0, 0]]
    model = raw_model()
    model.tokenizer = word_level(eos=False)
    model.tokenizer.add_tokens([f"more-{i}" for i in range(9)])
    model.tokenizer.add_special_tokens({"eos_token": "<end>"})  # as TransformerLens does
    assert model.tokenizer.eos_token_id == 18 >= model.cfg.d_vocab
    assert as_tokens(model, texts).tolist() == [[2, 4, 5], [5, 0, 0]]


def test_a_model_with_a_tokenizer_serves_in_its_place():
    model = raw_model()
    with pytest.raises(pi.PrefixInterpError, match="model has no tokenizer"):
        as_tokens(model, "the film")
    model.tokenizer = word_level()
    assert as_tokens(model, "the film").tolist() == [[2, 5]]


CHOICES = {
    "texts for all": ([" good", " bad"], [[8], [7]]),
    "others for all": ([" long", " a"], [[4, 3], [4, 3]]),
    "a text for all": (" long", [[4], [4]]),
    "a list each": ([[" bad"], [" good", " long"]], [[8, NO_ANSWER], [7, 4]]),
}


@pytest.mark.parametrize("case", CHOICES)
def test_foils_for_all_prompts_and_for_each(case):
    foils, expected = CHOICES[case]
    task = text_task(word_level(), ["the film is", "a film"], [" good", " bad"], foils=foils)
    assert task.data.foils.tolist() == [[row] for row in expected]
    assert sorted(task.sample(9, "all").foils.tolist()) == sorted(task.data.foils.tolist())


def test_every_question_takes_a_multiple_choice(monkeypatch):
    def refuse(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tokenizer = bpe(bos=True)
    # Once in each direction, so that the model has no better rule than to look.
    prompts = [f"{start} film {verb}" for start in ("the", "a", "a long") for verb in ("is", "was")]
    task = text_task(
        tokenizer, prompts, [" good"] * 3 + [" bad"] * 3, foils=[" good", " bad"], test_share=0.34
    )
    model = raw_model(d_vocab=len(tokenizer), n_ctx=40, dtype=torch.float32)
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=60, batch_size=16, lr=0.05)
    fit = pi.tune_prefix(model, task, 2, recipe=recipe, progress=False)
    start, trained = pi.Prefix.random(model, 2, seed=0), task.sample(9, "train")
    before, after = (pi.evaluate(model, trained, prefix) for prefix in (start, fit))
    assert after.loss.value < before.loss.value and after.choice.value >= before.choice.value
    pair = pi.contrast(model, fit, trained, metrics=("choice", "logit_difference"))
    assert float(pair.on["choice"].mean()) == pytest.approx(after.choice.value)
    grid = pi.patch_heads(model, fit, pair, metrics=("choice",), progress=False)
    assert grid.values["choice"].unique().tolist() in ([0], [0, 1], [1])
    pair = pi.run_pair(model, fit.prefix, as_tokens(tokenizer, ["the film is", "a film"]))
    assert pair.logits_on.isfinite().all()


PROMPTS, ANSWERS = ["the film is", "a film is"], [" good", " bad"]


def films(prompts=PROMPTS, answers=ANSWERS, tokenizer=None, **settings):
    return text_task(tokenizer or bpe(), prompts, answers, **{"test_share": 1.0} | settings)


BAD = {
    "tokenizer is a int; give a tokenizer of transformers": lambda: films(tokenizer=3),
    "tokenizer is a Tokenizer; give a": lambda: films(tokenizer=bpe().backend_tokenizer),
    "answers are 1 but prompts 2": lambda: films(answers=" good"),
    "prompts[1] is empty": lambda: films(["the", ""]),
    "prompts are none": lambda: films([], []),
    "prompts[0] is a int; give texts": lambda: films([3, "a"]),
    "prompts[0] is a NoneType; give texts": lambda: films(None, ["a"]),
    "answers[1] is empty": lambda: films(answers=[" good", ""]),
    "foils[0] is empty": lambda: films(foils=["", " good"]),
    "foils[0] is a int; give texts": lambda: films(foils=[[3], [" good"]]),
    "foils are 1 but prompts 2": lambda: films(foils=[[" long"]]),
    "prompts[1], which ends with 'a film is ', has other tokens when 'bad' follows: it ends inside "
    "a token; let the answer begin with the space": lambda: films(
        ["the film is", "a film is "], [" good", "bad"]
    ),
    "ends inside a token; begin the answer with a space if it is a word of its own": lambda: films(
        ["the fi", "a film"], ["lm", " is"]
    ),
    "answers[0] with ' ' adds no token to its prompt": lambda: films(
        answers=[" ", " "], tokenizer=word_level()
    ),
    "prompts[0]='  ' has no tokens": lambda: films(["  ", "film"], tokenizer=word_level()),
    "answers[1]=' delightfully' is 3 tokens, no single token": lambda: films(
        answers=[" good", " delightfully"], foils=" bad"
    ),
    "foils[0] with ' good film' is 2 tokens, no single": lambda: films(foils=" good film"),
    "answers[0]=' good' is among its own foils, as ' good'": lambda: films(
        foils=[[" good"], [" good"]]
    ),
    "answers[0]=' great' is among its own foils, as ' awful': both are token 0": lambda: films(
        answers=[" great", " bad"], foils=" awful", tokenizer=word_level()
    ),
    "foils leave nothing to compare answers[0]=' good' with": lambda: films(foils=" good"),
    "foils leave nothing to compare answers[1]=' bad' with": lambda: films(foils=[["a"], []]),
    "prompts[0] feeds 3 tokens, more than max_length=2": lambda: films(max_length=2),
    "texts[1] feeds 2 tokens, more than max_length=1": lambda: as_tokens(
        word_level(), ["the", "a film"], max_length=1
    ),
    "max_length=0 must be": lambda: films(max_length=0),
    "name='' must be a text": lambda: films(name=""),
    "test_share=2 must be": lambda: films(test_share=2),
    "texts[0] is a single token, so nothing": lambda: texts_batch(word_level(), "film"),
    "task='text' has tokens from 0 to 282, outside the vocabulary of 13; give 0 to 12, the model's "
    "own tokenizer": lambda: pi.evaluate(raw_model(), films(tokenizer=bpe(bos=True))),
    "task='text' has foils from 19 to 19, outside the vocabulary of 13": lambda: pi.evaluate(
        raw_model(),
        films(
            foils=" x", tokenizer=word_level("the film is good bad a " + "b c d e f g h i j k l x")
        ),
    ),
    "task='text' needs 20 content positions but the model has 16; give shorter": lambda: (
        pi.evaluate(raw_model(), films(["film " * 20], "good", word_level()))
    ),
    "tokens have 20 positions, more than the context of 16": lambda: pi.run_pair(
        raw_model(), pi.Prefix.random(raw_model(), 1), as_tokens(word_level(), "film " * 20)
    ),
    "tokens hold 6, outside the vocabulary of 4": lambda: pi.run_pair(
        raw_model(d_vocab=4),
        pi.Prefix.random(raw_model(d_vocab=4), 1),
        as_tokens(word_level(), "x is"),
    ),
}


def test_special_tokens_that_depend_on_the_text_are_refused():
    with pytest.raises(pi.PrefixInterpError, match="the same special tokens around each text"):
        _front([[5], [6]], [[2, 5], [1, 2, 6]])


@pytest.mark.parametrize("message", BAD)
def test_bad_texts_are_one_line(message, unchecked):
    with pytest.raises(pi.PrefixInterpError) as error:
        BAD[message]()
    assert message in str(error.value) and "\n" not in str(error.value)
