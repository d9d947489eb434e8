"""Two models and tasks that are not ours, through the public names alone, against plain loops.

Induction: two layers, eight heads, rotating positions, grouped queries, RMS norms, and sequences of
different lengths. Modular addition: attention only, learned positions, a context of three.
"""

import warnings

import matplotlib.pyplot as plt
import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

import prefix_interp as pi

SIZES = dict(n_layers=2, d_model=16, seed=0, device="cpu", dtype=torch.float64)


def induction():
    def repeated(n, rng):
        lengths = torch.randint(2, 5, (n,), generator=rng)
        first = torch.randint(7, (n, 4), generator=rng)
        tokens = torch.zeros(n, 7, dtype=torch.int64)
        answers, positions = torch.full((n, 4), -100), torch.zeros(n, 4, dtype=torch.int64)
        for k in range(2, 5):
            own = lengths == k
            tokens[own, : 2 * k - 1] = torch.cat([first[own, :k], first[own, : k - 1]], dim=1)
            answers[own, :k] = first[own, :k]
            positions[own, :k] = torch.arange(k - 1, 2 * k - 1)
        return tokens, answers, positions

    config = HookedTransformerConfig(
        n_heads=8, n_key_value_heads=2, d_head=2, d_mlp=16, n_ctx=16, act_fn="gelu", d_vocab=7,
        normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=2, **SIZES,
    )  # fmt: skip
    return HookedTransformer(config), pi.task_from_function(repeated), {}


def addition():
    a, b = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    task = pi.task_from_tensors(torch.stack([a, b, torch.full_like(a, 5)], -1), (a + b) % 5)
    config = HookedTransformerConfig(
        n_heads=4, d_head=4, n_ctx=3, d_vocab=6, attn_only=True, normalization_type=None, **SIZES
    )
    return HookedTransformer(config), task, {"positions": "keep"}


@pytest.fixture(params=[induction, addition], scope="module")
def own(request):
    """The model, its task, a tuned prefix, and what tune_prefix was told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model, task, options = request.param()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():  # larger than TransformerLens starts them
            weight.add_(0.3 * torch.randn(weight.shape, generator=rng, dtype=weight.dtype))
    recipe = pi.Recipe.from_preset("fast", "prefix", steps=40, batch_size=32)
    fit = pi.tune_prefix(model, task, 2, recipe=recipe, progress=False, **options)
    return model, task, fit


def answered(model, batch, prefix=None):
    """Each sequence's loss and whether it is all right, one at a time and without its padding."""
    losses, right = [], []
    for row in range(len(batch.tokens)):
        given = [i for i, x in enumerate(batch.answers[row].tolist()) if x != -100]
        places = range(batch.tokens.shape[1] - len(given), batch.tokens.shape[1])
        if batch.positions is not None:
            places = batch.positions[row, given].tolist()
        tokens = batch.tokens[row : row + 1, : max(places) + 1]
        with torch.no_grad():
            if prefix is None:
                logits = model(tokens)[0]
            else:
                with pi.attach(model, prefix):
                    logits = model(tokens)[0]
        answers = batch.answers[row, given].tolist()
        logp = logits.log_softmax(-1)
        losses.append(-sum(float(logp[p, a]) for p, a in zip(places, answers, strict=True)))
        losses[-1] /= len(answers)
        right.append(
            all(int(logits[p].argmax()) == a for p, a in zip(places, answers, strict=True))
        )
    return losses, right


def test_evaluation_is_that_of_a_loop(own):
    model, task, fit = own
    batch = task.sample(40)
    for prefix in (None, fit.prefix):
        losses, right = answered(model, batch, prefix)
        score = pi.evaluate(model, task, prefix, n=40)
        assert score.n == len(losses) and score.exact_match.value == pytest.approx(
            sum(right) / len(right)
        )
        assert score.loss.value == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert pi.evaluate(model, task, fit, n=40) == score


def test_tuning_lowered_the_loss_it_minimises(own):
    model, task, fit = own
    batch = task.sample(200, "train")
    start = pi.Prefix.random(model, 2, positions=fit.prefix.positions)
    before, after = (sum(answered(model, batch, p)[0]) for p in (start, fit.prefix))
    assert after < before


def test_a_contrast_is_that_of_a_loop(own):
    model, task, fit = own
    pair = pi.contrast(model, fit, task, n=9)
    for found, prefix in ((pair.on, fit.prefix), (pair.plain, None)):
        losses, _ = answered(model, pair.batch, prefix)
        assert found["log_prob"].tolist() == pytest.approx([-x for x in losses], abs=1e-9)
    assert torch.equal(pair.off["log_prob"], pair.plain["log_prob"])  # nothing moved


def test_each_question_is_one_call_and_draws_itself(own):
    model, task, fit = own
    pair = pi.contrast(model, fit, task, n=6)
    quiet = dict(progress=False)
    found = [
        pi.evaluate(model, task, fit, n=9),
        pi.patch_heads(model, fit, pair, **quiet),
        pi.head_elicitation(model, fit, pair, n_random=2, **quiet),
        pi.integrated_gradients(model, fit, pair, tolerance=0.5, **quiet),
        pi.find_circuit(model, fit, pair, n_random=2, **quiet),
        pi.decompose_attention(pair.runs),
        pi.bias_subspace(model, fit.prefix, pair.tokens, layer=1),
        fit,
    ]
    for result in found:
        assert len(result.to_dataframe())
        figure = result.plot()
        figure.canvas.draw()
        plt.close("all")
