"""One `attach` for both kinds of context: what does not go together is one line."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.attach import stack_hooks
from tests.helpers import assert_close, forward_hooks, raw_model, tokens_for, toy

PREFIX, PROMPT = pi.Prefix.random, pi.SoftPrompt.random


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (PROMPT, {"gates": torch.ones(2, 2)}, "gates does not go with a SoftPrompt"),
        (PROMPT, {"method": "mixture"}, "method='mixture' does not go with a SoftPrompt"),
        (PREFIX, {"predict_first": True}, "predict_first=True does not go with a Prefix"),
        (PREFIX, {"method": "slot"}, "method='slot' is unknown .did you mean 'slots'"),
        (PROMPT, {"method": "slot"}, "method='slot' is unknown .did you mean 'slots'"),
        (PREFIX, {"gates": torch.ones(3)}, "gates have shape"),
        (lambda model, n: "add_one", {}, "context='add_one' holds no saved context"),
        (lambda model, n: PROMPT(model, n, position=1), {"predict_first": True}, "position=1"),
    ],
)
def test_arguments_that_do_not_go_with_a_context_are_refused(make, arguments, message):
    model, tokens = raw_model(), tokens_for(raw_model())
    before, plain = forward_hooks(model), model(tokens)
    with pytest.raises(pi.PrefixInterpError, match=message) as error:
        with pi.attach(model, make(model, 2), **arguments):
            pass
    assert "\n" not in str(error.value)
    assert forward_hooks(model) == before and torch.equal(model(tokens), plain)


@pytest.mark.parametrize("outer", [PREFIX, PROMPT])
@pytest.mark.parametrize("inner", [PREFIX, PROMPT])
def test_one_context_at_a_time(outer, inner):
    model, tokens = raw_model(), tokens_for(raw_model())
    with pi.attach(model, outer(model, 2)):
        expected = model(tokens)
        with pytest.raises(pi.PrefixInterpError, match="has one already"):
            with pi.attach(model, inner(model, 1)):
                pass
        assert torch.equal(model(tokens), expected)


@pytest.mark.parametrize(
    "kind",
    [
        lambda model, seed: PREFIX(model, 2, seed),
        lambda model, seed: PREFIX(model, 2, seed, "kv"),
        lambda model, seed: PROMPT(model, 2, seed),
        lambda model, seed: PROMPT(model, 2, seed, position=3),
        lambda model, seed: PROMPT(model, 2, seed, position=3, layers="all"),
    ],
)
def test_a_stack_predicts_as_each_of_its_contexts_alone(kind):
    model = toy()
    contexts, tokens = [kind(model, seed) for seed in (1, 2, 3)], tokens_for(model, 6, 6)
    names = contexts[0].tensors
    stack = {name: torch.stack([c.tensors[name] for c in contexts]) for name in names}
    found = model.run_with_hooks(tokens, fwd_hooks=stack_hooks(model, contexts[0], stack))
    for i, context in enumerate(contexts):
        part = slice(2 * i, 2 * i + 2)
        with pi.attach(model, context):
            # From the last slot on; rows further in front differ in number, not in value.
            assert_close(found[part][:, -4:], model(tokens[part])[:, -4:])
