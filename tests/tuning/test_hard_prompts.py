import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.examples import examples_prompt
from prefix_interp.tasks import DigitTask
from prefix_interp.tuning.hard_prompts import prompt_losses, search_hard_prompt
from tests.helpers import assert_close, raw_model

TASK = DigitTask("tiny", ("sort_ascending",), length=2, n_digits=3)


@pytest.fixture(scope="module")
def model():
    cfg = pi.ToyConfig(n_heads=2, d_model=16, n_content=3, d_vocab=5)
    return pi.pretrain(cfg, TASK, preset="smoke", progress=False).model


def test_losses_of_hard_prompts_are_those_of_plain_runs(model):
    # The oracle: real tokens in front, at the reserved position, in a model called as it is.
    batch = TASK.sample(5, split="train")
    found = prompt_losses(model, torch.arange(5)[:, None], batch)
    for token in range(5):
        whole = torch.cat([torch.full((5, 1), token), batch.tokens], dim=1)
        logits = model(whole)[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.answers)
        assert_close(found[token], loss, 1e-5)


def test_a_prompt_behind_the_input_is_searched_there(model):
    # The oracle: all prompts, evaluated one by one where the search is to put them.
    batch = TASK.sample(16, split="train", seed=0)
    best = search_hard_prompt(model, TASK, 1, position=2, n=16)
    losses = []
    for token in range(5):
        with pi.attach(model, pi.SoftPrompt.from_tokens(model, torch.tensor([token]), 2)):
            logits = model(batch.tokens)[:, -2:]
        losses.append(torch.nn.functional.cross_entropy(logits.mT, batch.answers).item())
    assert best.prompt.position == 2 and best.tokens == (losses.index(min(losses)),)
    assert best.train_loss == pytest.approx(min(losses), rel=1e-5)


def test_an_exhaustive_search_finds_the_best_and_a_greedy_one_no_better(model):
    batch = TASK.sample(16, split="train", seed=0)
    every = torch.cartesian_prod(*[torch.arange(5)] * 2)
    losses = prompt_losses(model, every, batch)
    best = search_hard_prompt(model, TASK, 2, n=16)
    assert best.search == "exhaustive" and best.n_tried == 25
    assert best.tokens == tuple(every[losses.argmin()].tolist())
    greedy = search_hard_prompt(model, TASK, 2, n=16, max_exhaustive=1)
    assert greedy.search == "coordinate" and greedy.train_loss >= best.train_loss
    for i in range(2):  # no change of one token helps
        changed = torch.tensor(greedy.tokens).repeat(5, 1)
        changed[:, i] = torch.arange(5)
        assert float(prompt_losses(model, changed, batch).min()) >= greedy.train_loss - 1e-9


def test_examples_stand_where_the_content_was_trained(model):
    examples = TASK.sample(2, split="train")
    whole = torch.cat([examples.tokens, examples.answers[:, -1:]], dim=1)
    prompt = examples_prompt(model, whole)
    assert prompt.n_slots == 8
    rows = prompt.vectors[0].unflatten(0, (2, 4)) + model.W_pos[0]
    assert_close(rows[1, 2], (model.W_E[whole[1, 2]] + model.W_pos[3]).detach(), 1e-5)
    assert_close(rows[1, 3], (model.W_E[whole[1, 3]] + model.W_pos[3]).detach(), 1e-5)


def test_examples_are_plain_tokens_where_positions_are_counted_through():
    model = raw_model()
    examples = TASK.sample(2, split="train")
    whole = torch.cat([examples.tokens, examples.answers[:, -1:]], dim=1)
    content = torch.tensor([[1, 2, 0]])
    with pi.attach(model, examples_prompt(model, whole)):
        found = model(content)
    assert_close(found, model(torch.cat([whole.flatten()[None], content], dim=1))[:, 8:])


def test_what_does_not_fit_the_context_is_refused():
    full = raw_model(n_ctx=3, dtype=torch.float32)
    with pytest.raises(pi.PrefixInterpError, match="needs 3 content positions"):
        search_hard_prompt(full, TASK, 1)
    with pytest.raises(pi.PrefixInterpError, match="position=3 must be between 0 and 2"):
        search_hard_prompt(raw_model(), TASK, 1, position=3)
    with pytest.raises(pi.PrefixInterpError, match="examples have shape"):
        examples_prompt(full, torch.ones(1, 9).long())
