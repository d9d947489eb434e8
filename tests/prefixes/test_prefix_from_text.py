import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.host import host_of
from prefix_interp.prefixes.examples import prefix_from_text
from prefix_interp.tuning.contexts import sweep
from tests.helpers import assert_close, assert_far, raw_model, tokens_for, toy
from tests.tiny_language_models import KINDS, language_model, random_tokens

TEXT = random_tokens(1, 5, seed=3)[0]
HOOKED = {
    "learned positions": {},
    "rotary": dict(positional_embedding_type="rotary", rotary_dim=4),
    "grouped": dict(positional_embedding_type="rotary", rotary_dim=4, n_key_value_heads=1),
    "ungrouped": dict(n_key_value_heads=1, ungroup_grouped_query_attention=True),
    "rms": dict(normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=2),
}


def behind(model, text, tokens):
    """The logits of the content in a plain run of the text and the content."""
    whole = torch.cat([text.expand(len(tokens), -1), tokens], dim=1)
    with torch.no_grad():
        return host_of(model).run_with_cache(whole, [])[0][:, len(text) :]


def under(model, prefix, tokens):
    with torch.no_grad(), pi.attach(model, prefix):
        return model(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_as_a_prefix_is_the_text_in_front(kind):
    model, tokens = language_model(kind, torch.float64), random_tokens()
    expected, bare = behind(model, TEXT, tokens), behind(model, TEXT[:0], tokens)
    assert_far(bare, expected, 1e-2)
    for parameterization in ("kv", "residual"):
        found = under(model, prefix_from_text(model, TEXT, parameterization), tokens)
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("kind", HOOKED)
def test_in_models_of_transformer_lens_too(kind):
    model = raw_model(**HOOKED[kind])
    tokens, text = tokens_for(model), tokens_for(model, 1, 3, seed=1)[0]
    expected = behind(model, text, tokens)
    for parameterization in ("kv", "residual"):
        found = under(model, prefix_from_text(model, text, parameterization), tokens)
        assert_close(found, expected, 1e-12)


def test_a_shorter_one_is_the_front_of_the_text_and_can_be_tuned():
    model, tokens = language_model("llama"), random_tokens()
    short = prefix_from_text(model, TEXT, n_slots=2)
    assert_close(under(model, short, tokens), behind(model, TEXT[:2], tokens), 1e-5)
    task = pi.task_from_tensors(tokens.repeat(8, 1), tokens.repeat(8, 1)[:, -1], test_share=0.5)
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)
    (fit,) = sweep(model, task, [short], [0.1], recipe=recipe, progress=False)
    assert not torch.equal(fit.prefix.keys, short.keys)


def test_words_go_through_the_tokenizer():
    model = language_model("llama")
    words, numbers = (prefix_from_text(model, x) for x in ("w4 w9", torch.tensor([4, 9])))
    assert torch.equal(words.keys, numbers.keys) and words.n_slots == 2


def test_what_is_not_possible_is_one_line():
    model = language_model("llama")
    with pytest.raises(pi.PrefixInterpError, match="give 1 to 5"):
        prefix_from_text(model, TEXT, n_slots=6)
    with pytest.raises(pi.PrefixInterpError, match="model is a toy"):
        prefix_from_text(toy(), TEXT)
    with pytest.raises(pi.PrefixInterpError, match="parameterization"):
        prefix_from_text(model, TEXT, "keys")
    with pytest.raises(pi.PrefixInterpError, match="outside the vocabulary"):
        prefix_from_text(model, torch.tensor([4, 1000]))
