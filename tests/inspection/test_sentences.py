"""Texts, tokens and tasks become sequences with answers."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.inspection.sentences import as_sentences, token_text
from prefix_interp.inspection.words import spoken
from prefix_interp.tasks.text import as_tokens
from tests.inspection.tiny import TEXTS, tiny
from tests.tiny_tokenizers import word_level


def test_texts_are_padded_on_the_right_and_answered_by_their_next_tokens():
    model, _ = tiny()
    found = as_sentences(model, TEXTS)
    assert found.name == "3 texts" and found.lengths.tolist() == [5, 2, 7]
    assert found.batch.tokens[1].tolist() == [3, 1, 0, 0, 0, 0, 0]
    assert found.batch.answers[1].tolist() == [1, -100, -100, -100, -100, -100]
    assert found.batch.positions[0].tolist() == list(range(6))
    assert found.real.sum(dim=1).tolist() == [5, 2, 7]


def test_a_chunk_has_no_column_that_is_padding_in_all_of_it():
    model, _ = tiny()
    chunks = list(as_sentences(model, TEXTS).chunks(2))
    assert [tuple(c.batch.tokens.shape) for c in chunks] == [(2, 5), (1, 7)]
    assert [tuple(c.batch.answers.shape) for c in chunks] == [(2, 4), (1, 6)]
    assert all(c.batch.check() for c in chunks)


def test_a_task_keeps_its_own_answers():
    model = pi.load_toy("sort-ascending-1l1h")
    found = as_sentences(model, "add_one", n=3)
    assert found.name == "task add_one" and found.batch.positions is None
    assert torch.equal(found.batch.tokens, pi.get_task("add_one").sample(3).tokens)


def test_words_say_which_of_them_each_answer_is():
    model, _ = tiny()
    said = spoken(model, as_sentences(model, TEXTS))
    assert said[1].words == ("c", "a") and said[1].places == (1,) and said[1].positions == (0,)
    toy = pi.load_toy("sort-ascending-1l1h")
    batch = pi.get_task("sort_ascending").sample(1)
    (own,) = spoken(toy, as_sentences(toy, batch))
    n = batch.tokens.shape[1]
    assert own.n_tokens == n and len(own.words) == n + 1  # the last answer was not fed
    assert own.places == tuple(range(10, 20)) and own.words[n] == str(int(batch.answers[0, -1]))


def test_an_answer_that_is_no_next_token_stands_behind_the_words():
    model, _ = tiny()
    batch = pi.Batch(torch.tensor([[1, 2, 3]]), torch.tensor([[5]]), positions=torch.tensor([[1]]))
    (own,) = spoken(model, as_sentences(model, batch))
    assert own.words == ("a", "b", "e") and own.places == (2,) and own.n_tokens == 2


def test_without_a_tokenizer_tokens_are_numbers():
    assert token_text(pi.load_toy("sort-ascending-1l1h"), 7) == "7"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "is empty; give at least one text"),
        (["a b", "  "], r"batch_or_texts\[1\]='  ' is empty"),
        (["a b", "c"], r"batch_or_texts\[1\] has 1 token"),
        ([1, 2], "is a list; give a list of texts"),
        (torch.tensor([[1]]), "no next token"),
        (torch.rand(2, 5), "torch.float32; give integers"),
        (torch.tensor([1, 2]), "give integers with axes batch, pos"),
    ],
)
def test_bad_texts_are_refused_in_one_line(given, says, unchecked):
    model, _ = tiny()
    with pytest.raises(pi.PrefixInterpError, match=says) as error:
        as_sentences(model, given)
    assert "\n" not in str(error.value)


def test_one_text_is_a_text_where_there_is_a_tokenizer():
    model, _ = tiny()
    one, listed = as_sentences(model, TEXTS[0]), as_sentences(model, TEXTS[:1])
    assert one.name == "1 text" and one.batch.tokens.equal(listed.batch.tokens)


def test_texts_need_a_tokenizer():
    with pytest.raises(pi.PrefixInterpError, match="has no tokenizer"):
        as_sentences(pi.load_toy("sort-ascending-1l1h"), ["a text"])


def test_texts_are_the_tokens_that_tasks_of_texts_have():
    """BOS once, and no EOS that would be scored as an answer."""
    model, _ = tiny(d_vocab=20)
    model.tokenizer = word_level(bos=True, eos_behind=True)
    for texts in (["the long film", "a film"], ["<s> the long film", "a film"]):
        found = as_sentences(model, texts)
        assert found.batch.tokens.tolist() == [[2, 3, 5, 6], [2, 4, 6, 0]]
        assert found.batch.tokens[:, :3].equal(as_tokens(model, texts)[:, :3])
        assert found.lengths.tolist() == [4, 3]
