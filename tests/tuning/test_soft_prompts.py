import pytest
import torch

import prefix_interp as pi
from prefix_interp.prefixes.examples import examples_prompt
from prefix_interp.tuning.hard_prompts import prompt_losses, search_hard_prompt
from prefix_interp.tuning.soft_prompts import sweep_soft_prompts, tune_soft_prompt
from tests.helpers import assert_close, raw_model, toy

TASK = pi.Task("tiny", ("sort_ascending",), length=2, n_digits=3)


@pytest.fixture(scope="module")
def model():
    cfg = pi.ToyConfig(n_heads=2, d_model=16, n_content=3, d_vocab=5)
    return pi.pretrain(cfg, TASK, preset="smoke", progress=False).model


@pytest.mark.parametrize(("after", "level"), [(0, "embedding"), (2, "embedding"), (2, "layers")])
def test_tuning_lowers_the_loss_of_the_outputs_and_moves_the_prompt_alone(after, level):
    model = toy(dtype=torch.float32, d_model=16, n_content=3, d_vocab=5)
    weights = {n: p.clone() for n, p in model.named_parameters()}
    fit = tune_soft_prompt(
        model, TASK, 2, after=after, level=level, preset="smoke", steps=60, lr=0.1, progress=False
    )
    start = pi.SoftPrompt.random(model, 2, after=after, level=level)
    before = pi.evaluate(model, TASK, start, n=200).loss
    assert float(fit.evaluation.loss) < float(before) - 0.1
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert fit.prompt.metadata["task"] == "tiny" and fit.prompt.model_id is not None


def test_the_training_loss_is_that_of_the_attached_prompt(model):
    # One step at no rate to speak of: the loss is the start's on the first batch.
    (fit,) = sweep_soft_prompts(
        model, TASK, 2, [1e-12], after=2, preset="smoke", steps=1, progress=False
    )
    from prefix_interp.seeds import derive_generator

    batch = TASK.sample_from(derive_generator(0, "batches", "tiny", 0), 16 * 50, "train")
    tokens, answers = batch.tokens[:16], batch.answers[:16]
    with pi.attach_soft(model, pi.SoftPrompt.random(model, 2, after=2)):
        logits = model(tokens)[:, -2:]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), answers)
    assert_close(torch.tensor(fit.train_loss), loss, 2e-2)  # trained in bfloat16 where it is fast


def test_a_sweep_is_resumed_with_the_same_bits(model, tmp_path):
    how = dict(after=2, preset="smoke", restarts=2, progress=False)
    whole = sweep_soft_prompts(model, TASK, 1, [0.01, 0.1], steps=6, **how)
    file = tmp_path / "c.safetensors"
    first = sweep_soft_prompts(model, TASK, 1, [0.01, 0.1], steps=6, checkpoint=file, **how)
    again = sweep_soft_prompts(model, TASK, 1, [0.01, 0.1], steps=6, checkpoint=file, **how)
    for fits in zip(whole, first, again, strict=True):
        assert len({fit.prompt.vectors.numpy().tobytes() for fit in fits}) == 1
    assert [fit.start for fit in whole] == [0, 0, 1, 1]


def test_slots_among_the_outputs_are_refused(model):
    with pytest.raises(pi.PrefixInterpError, match="after=3 must be between 0 and 2"):
        tune_soft_prompt(model, TASK, after=3, preset="smoke")
    with pytest.raises(pi.PrefixInterpError, match="lrs="):
        sweep_soft_prompts(model, TASK, 1, [], preset="smoke")


def test_losses_of_hard_prompts_are_those_of_plain_runs(model):
    # The oracle: real tokens in front, at the reserved position, in a model called as it is.
    batch = TASK.sample(5, split="train")
    found = prompt_losses(model, TASK, torch.arange(5)[:, None], batch)
    for token in range(5):
        whole = torch.cat([torch.full((5, 1), token), batch.tokens], dim=1)
        logits = model(whole)[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.answers)
        assert_close(found[token], loss, 1e-5)


def test_an_exhaustive_search_finds_the_best_and_a_greedy_one_no_better(model):
    batch = TASK.sample(16, split="train", seed=0)
    every = torch.cartesian_prod(*[torch.arange(5)] * 2)
    losses = prompt_losses(model, TASK, every, batch)
    best = search_hard_prompt(model, TASK, 2, n=16)
    assert best.search == "exhaustive" and best.n_tried == 25
    assert best.tokens == tuple(every[losses.argmin()].tolist())
    greedy = search_hard_prompt(model, TASK, 2, n=16, max_exhaustive=1)
    assert greedy.search == "coordinate" and greedy.train_loss >= best.train_loss
    for i in range(2):  # no change of one token helps
        changed = torch.tensor(greedy.tokens).repeat(5, 1)
        changed[:, i] = torch.arange(5)
        assert float(prompt_losses(model, TASK, changed, batch).min()) >= greedy.train_loss - 1e-9


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
    with pi.attach_soft(model, examples_prompt(model, whole)):
        found = model(content)
    assert_close(found, model(torch.cat([whole.flatten()[None], content], dim=1))[:, 8:])


def test_rates_that_look_alike_keep_their_own_history(model):
    fits = sweep_soft_prompts(
        model, TASK, 1, [0.1, 0.1000001], preset="smoke", steps=4, progress=False
    )
    assert [len(fit.history) for fit in fits] == [4, 4]


def test_what_does_not_fit_the_context_is_refused():
    full = raw_model(n_ctx=3, dtype=torch.float32)
    with pytest.raises(pi.PrefixInterpError, match="needs 3 content positions"):
        tune_soft_prompt(full, TASK, 1, preset="smoke", progress=False)
    with pytest.raises(pi.PrefixInterpError, match="needs 3 content positions"):
        search_hard_prompt(full, TASK, 1)
    with pytest.raises(pi.PrefixInterpError, match="examples have shape"):
        examples_prompt(full, torch.ones(1, 9).long())
