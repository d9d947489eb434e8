"""Answers at any positions, a different number in each example: attribution against a loop."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.contrast import contrast
from prefix_interp.attribution.metrics import METRICS
from prefix_interp.prefixes.baselines import masked_hooks
from prefix_interp.tasks import NO_ANSWER
from tests.helpers import assert_close, raw_model, toy

Site = pi.Site
LENGTHS = (6, 4, 2)
ANSWERS = ((1, 3, 5), (3,), (0, 1))  # the positions whose logits predict them
MODELS = {
    "toy": lambda: toy(),
    "rotary, grouped, RMS": lambda: raw_model(
        n_heads=4, n_key_value_heads=2, normalization_type="RMS", n_ctx=16,
        positional_embedding_type="rotary", rotary_dim=4,
    ),
    "attention only": lambda: raw_model(attn_only=True, normalization_type=None),
}  # fmt: skip


def ragged(model, padding):
    rng = torch.Generator().manual_seed(3)
    tokens = torch.randint(model.cfg.d_vocab, (3, 6), generator=rng)
    answers = torch.full((3, 3), NO_ANSWER)
    positions = torch.zeros(3, 3, dtype=torch.int64)
    for i, (length, places) in enumerate(zip(LENGTHS, ANSWERS, strict=True)):
        tokens[i, length:] = padding
        answers[i, : len(places)] = torch.randint(model.cfg.d_vocab, (len(places),), generator=rng)
        positions[i, : len(places)] = torch.tensor(places)
    return pi.Batch(tokens, answers, positions=positions)


def one_by_one(model, prefix, batch, hooks=lambda i, tokens: []):
    """The log-probability of the answers of each example, run alone and without its padding."""
    found = []
    for i, length in enumerate(LENGTHS):
        tokens = batch.tokens[i : i + 1, :length]
        with torch.no_grad(), pi.attach(model, prefix):
            logits = model.run_with_hooks(tokens, fwd_hooks=hooks(i, tokens))[0]
        logp = logits.log_softmax(-1)
        own = [float(logp[p, batch.answers[i, j]]) for j, p in enumerate(ANSWERS[i])]
        found.append(sum(own) / len(own))
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def test_padding_is_never_seen_and_never_scored(model):
    prefix = pi.Prefix.random(model, 2, seed=1)
    pairs = [contrast(model, prefix, ragged(model, pad), metrics=METRICS) for pad in (0, 3)]
    for name in METRICS:
        for one, other in ((pairs[0].on, pairs[1].on), (pairs[0].off, pairs[1].off)):
            assert_close(one[name], other[name], 1e-12)
    assert_close(pairs[0].on["log_prob"], one_by_one(model, prefix, ragged(model, 0)), 1e-12)
    for pair in pairs:
        assert -float(pair.on["log_prob"].mean()) == pytest.approx(
            pi.evaluate(model, pair.batch, prefix).loss.value, abs=1e-6
        )


def test_patches_of_heads_against_a_loop(model):
    prefix, batch = pi.Prefix.random(model, 2, seed=1), ragged(model, 0)
    grid = pi.patch_heads(model, prefix, batch, direction="noise", progress=False)
    off = [plain_outputs(model, batch.tokens[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]
    for layer in range(2):
        for head in range(model.cfg.n_heads):

            def write(i, tokens, layer=layer, head=head):
                def replace(z, hook):
                    z = z.clone()
                    z[:, -tokens.shape[1] :, head] = off[i][layer][:, :, head]
                    return z

                return [(Site.Z.at(layer), replace)]

            expected = one_by_one(model, prefix, batch, write)
            assert_close(grid.values["log_prob"][layer, head], expected, 1e-10)


def plain_outputs(model, tokens):
    """The heads' outputs of each layer in the masked run of one sequence."""
    seen = {}

    def keep(z, hook):
        seen[hook.layer()] = z[:, -tokens.shape[1] :]

    readers = [(Site.Z.at(i), keep) for i in range(2)]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*masked_hooks(model, 2), *readers])
    return seen


def test_every_question_is_answered(model):
    prefix, batch = pi.Prefix.random(model, 2, seed=1), ragged(model, 0)
    found = pi.head_elicitation(model, prefix, batch, n_random=2, progress=False)
    assert_close(found.effect, found.gate + found.bias + found.propagated, 1e-9)
    grid = pi.integrated_gradients(model, prefix, batch, over="z", tolerance=0.05, progress=False)
    assert grid.completeness < 0.06 * float((grid.end - grid.start).abs().max())
    circuit = pi.find_circuit(model, prefix, batch, n_random=2, progress=False)
    assert circuit.nodes and circuit.to_dataframe() is not None
    flat = pi.attribution_patch(model, prefix, batch)
    assert flat.values["log_prob"].isfinite().all()


def test_tuning_on_ragged_answers_lowers_their_loss(model):
    if model.W_E.dtype != torch.float32:
        model = pi.to_dtype(model, torch.float32)
    batch = ragged(model, 0)
    task = pi.task_from_tensors(batch.tokens, batch.answers, batch.positions, test_share=0.34)
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=60, batch_size=16, lr=0.05)
    fit = pi.tune_prefix(model, task, 2, recipe=recipe, progress=False)
    start, trained = pi.Prefix.random(model, 2, seed=0), task.sample(9, "train")
    losses = [pi.evaluate(model, trained, prefix).loss.value for prefix in (start, fit)]
    assert losses[1] < losses[0]


def test_a_model_without_a_causal_mask_would_see_the_padding():
    model = raw_model(attention_dir="bidirectional")
    with pytest.raises(pi.PrefixInterpError, match="no causal mask; give rows of one length"):
        pi.evaluate(model, ragged(model, 0))
