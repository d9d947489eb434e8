import copy
import warnings

import pytest
import torch
from einops import rearrange
from peft import LoraConfig, get_peft_model

import prefix_interp as pi
from prefix_interp.models.model import clone, model_id
from prefix_interp.models.weights import matrices, plain_copy
from prefix_interp.seeds import derive_generator
from prefix_interp.tuning.lora import LoraFit, lora_recipe, tune_lora
from prefix_interp.tuning.recipes import Recipe
from tests.helpers import assert_close, assert_far, forward_hooks, raw_model, tokens_for
from tests.tiny_language_models import hub_model, language_model, random_tokens

CONFIG = pi.ToyConfig(n_layers=2, n_heads=2, d_model=16)
ALL = ("q", "k", "v", "o", "mlp_in", "mlp_out")
SHORT = Recipe(steps=12, lr=1e-2, batch_size=8, weight_decay=0.0, precision="float32")


@pytest.fixture(scope="module")
def toy():
    return pi.build_toy(CONFIG)


@pytest.fixture(scope="module")
def fit(toy):
    return tune(toy, rank=3, targets=ALL, alpha=6.0)


def tune(model, task="add_one", **settings):
    return tune_lora(model, task, **{"recipe": SHORT, "progress": False, **settings})


def plain_weights(model, fit):
    """W + (alpha / r) (B A)^T, matrix by matrix, with loops and plain torch alone."""
    found = {name: p.detach().clone() for name, p in model.named_parameters()}
    for layer in range(model.cfg.n_layers):
        for target in fit.targets:
            A, B = (fit.weights[f"{layer}.{target}.{which}"] for which in ("A", "B"))
            part, name = ("mlp", target[4:]) if "mlp" in target else ("attn", target.upper())
            name = f"blocks.{layer}.{part}.W_{name}"
            added = torch.zeros(A.shape[1], B.shape[0])
            for r in range(fit.rank):
                added += fit.alpha / fit.rank * torch.outer(A[r], B[:, r])
            if target in ("q", "k", "v"):  # heads stand side by side in the columns
                heads = added.split(model.cfg.d_head, dim=1)
                added = torch.stack(heads)
            elif target == "o":  # and one below the other in the rows
                added = torch.stack(added.split(model.cfg.d_head, dim=0))
            found[name] += added
    return found


def test_the_tuned_model_is_the_base_with_a_low_rank_matrix_added(toy, fit):
    expected = plain_weights(toy, fit)
    for name, p in fit.model.named_parameters():
        torch.testing.assert_close(p, expected[name], atol=1e-6, rtol=1e-5)
    moved = fit.model.blocks[1].mlp.W_in - toy.blocks[1].mlp.W_in
    assert torch.linalg.matrix_rank(moved, atol=1e-6) == 3
    moved = rearrange(fit.model.W_Q[0] - toy.W_Q[0], "head d d_head -> d (head d_head)")
    assert torch.linalg.matrix_rank(moved, atol=1e-6) == 3


def test_training_is_gradient_descent_on_the_two_factors():
    """One step of AdamW, by hand on a copy whose weights are W + B A: only B moves, by the rate."""
    model, task = pi.build_toy(CONFIG), pi.get_task("add_one")
    recipe = Recipe(1, 1e-2, 8, weight_decay=0.0, schedule="constant", precision="float32")
    fit = tune(model, rank=2, targets=("mlp_in",), layers=(1,), recipe=recipe)
    A, B = fit.weights["1.mlp_in.A"], fit.weights["1.mlp_in.B"]
    start = tune(model, rank=2, targets=("mlp_in",), layers=(1,), recipe=replaced(recipe, 1e-30))
    assert_close(A, start.weights["1.mlp_in.A"], 1e-6)  # B = 0, so A has no gradient
    assert_close(B.abs(), torch.full_like(B, 1e-2), 5e-2)  # Adam's first step has the rate's size
    batch = first_batch(task, recipe)
    hand = clone(model).requires_grad_(False)
    low = torch.zeros_like(B).requires_grad_(True)
    hand.blocks[1].mlp._parameters["W_in"] = model.blocks[1].mlp.W_in.detach() + (low @ A).T
    hooks = [("hook_pos_embed", lambda x, hook: model.W_pos[1 : 1 + x.shape[1]].expand_as(x))]
    logits = batch.read(hand.run_with_hooks(batch.tokens, fwd_hooks=hooks))
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten()).backward()
    assert torch.equal(B.sign(), -low.grad.sign())


def replaced(recipe, lr):
    return Recipe(**{**recipe.to_dict(), "lr": lr})


def first_batch(task, recipe):
    rng = derive_generator(0, "batches", task.name, 0)
    return task.sample_from(rng, recipe.batch_size * 50, "train").part(slice(recipe.batch_size))


def test_the_base_is_left_alone_and_seeds_repeat_to_the_bit(toy, fit):
    before, hooks = model_id(toy), forward_hooks(toy)
    again = tune(toy, rank=3, targets=ALL, alpha=6.0)
    assert model_id(toy) == before == fit.base_id and forward_hooks(toy) == hooks
    assert all(p.requires_grad for n, p in toy.named_parameters() if "b_U" not in n)
    assert not any("parametriz" in name for name, _ in fit.model.named_modules())
    assert all(torch.equal(x, again.weights[name]) for name, x in fit.weights.items())
    assert model_id(again.model) == model_id(fit.model) != before
    other = tune(toy, rank=3, targets=ALL, alpha=6.0, seed=1)
    assert not torch.equal(other.weights["0.q.A"], fit.weights["0.q.A"])


@pytest.mark.parametrize("kind", ["toy", "llama"])
def test_a_killed_tuning_ends_with_the_same_bits(kind, toy, tmp_path, monkeypatch):
    model, loop = toy if kind == "toy" else language_model("llama"), pi.tuning.loop
    settings = dict(rank=2, targets=("o", "mlp_in"))
    whole = tune(model, **settings)
    calls, before = [], loop._log

    def dies(*args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return before(*args)

    monkeypatch.setattr(loop, "_log", dies)
    with pytest.raises(KeyboardInterrupt):
        tune(model, checkpoint=tmp_path / "c", **settings)
    monkeypatch.setattr(loop, "_log", before)
    again = tune(model, checkpoint=tmp_path / "c", **settings)
    assert all(torch.equal(x, again.weights[name]) for name, x in whole.weights.items())
    assert again.history.equals(whole.history) and again.evaluation == whole.evaluation
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        tune(model, checkpoint=tmp_path / "c", rank=2, targets=("o", "mlp_in"), alpha=5.0)


def test_the_number_of_parameters_is_that_of_the_paper():
    """4 layers, width 256, rank 1: 10,240 on the MLPs, 12,288 with the attention's output."""
    deep = pi.build_toy(pi.ToyConfig(n_layers=4, n_heads=4, d_model=256, n_prefix=12))
    none = Recipe(1, 1e-9, 1)
    mlp = tune(deep, recipe=none)
    assert mlp.n_parameters == 10_240 and mlp.targets == ("mlp_in", "mlp_out")
    published = tune(deep, recipe=none, targets=("mlp_in", "mlp_out", "o"))
    assert published.n_parameters == 12_288 == sum(x.numel() for x in published.weights.values())


def test_evaluation_patching_and_tuning_take_the_tuned_model(fit):
    assert pi.evaluate(fit.model, "add_one") == fit.evaluation
    prefix = pi.Prefix.random(fit.model, 1)
    grid = pi.patch_heads(fit.model, prefix, "add_one", progress=False)
    assert grid.effect().isfinite().all()
    pi.tune_prefix(fit.model, "add_one", recipe=SHORT, progress=False)


def test_it_learns_what_the_model_does_not_know():
    model = pi.load_toy("four-skills-1l4h")
    fit = tune(model, "double_histogram", rank=4, recipe=lora_recipe("fast", steps=30))
    assert fit.evaluation.loss < pi.evaluate(model, "double_histogram").loss / 3
    assert fit.train_loss < fit.history["loss"].iloc[0] / 3


@pytest.mark.parametrize(
    "settings",
    [
        dict(n_key_value_heads=1),
        dict(gated_mlp=True, act_fn="silu"),
        dict(positional_embedding_type="rotary", rotary_dim=4),
    ],
)
def test_every_hooked_transformer_can_have_it(settings):
    model = raw_model(dtype=torch.float32, n_ctx=19, **settings)
    gate = ("mlp_gate",) if "gated_mlp" in settings else ()
    fit = tune(model, rank=2, targets=(*ALL, *gate))
    tokens = tokens_for(model)
    assert_far(fit.model(tokens), model(tokens))
    (k,) = matrices(model, ("k",), (0,))
    assert fit.weights["0.k.B"].shape == (k.shape[0] * k.shape[2], 2)


def test_saved_fits_come_back(fit, toy, tmp_path):
    fit.save(tmp_path / "x")
    for again in (LoraFit.load(tmp_path / "x"), LoraFit.load(tmp_path / "x", toy)):
        assert model_id(again.model) == model_id(fit.model)
        assert repr(again) == repr(fit) and again.n_parameters == fit.n_parameters
    with pytest.raises(pi.PrefixInterpError, match="give the model that it was tuned on"):
        LoraFit.load(tmp_path / "x", pi.build_toy(CONFIG, seed=1))


def refused(message, model=None, **settings):
    with pytest.raises(pi.PrefixInterpError, match=message) as found:
        tune(model or pi.build_toy(CONFIG), **settings)
    assert "\n" not in str(found.value)


def test_what_cannot_be_is_refused_in_one_line(toy):
    refused("target='mlp' is unknown.*mlp_in", targets=("mlp",))
    refused("rank=0 must be a whole number of at least 1", rank=0)
    refused("alpha=-1", alpha=-1.0)
    refused("layers=2 must be between 0 and 1", layers=(2,))
    refused(r"targets=\(\) in layers", targets=())
    refused("targets='q' in layers", targets="q")
    refused("must be different words", targets=("q", "q"))
    refused("'mlp_gate', but this model has no such matrix", targets=("mlp_gate",))
    bare = pi.build_toy(pi.ToyConfig(d_model=16, attn_only=True))
    refused("'mlp_in', but this model has no such matrix; leave it out", bare)
    assert tune(bare, targets=("q",)).n_parameters == 32
    refused("'q', but this model holds it as a part of a larger matrix", language_model("gpt2"),
            targets=("q",))  # fmt: skip
    with (
        pytest.raises(pi.PrefixInterpError, match="attached"),
        pi.attach(toy, pi.Prefix.random(toy, 1)),
    ):
        tune(toy)


def test_the_presets_give_weights_a_rate_of_their_own():
    assert (lora_recipe("paper").lr, lora_recipe("paper").steps) == (5e-3, 10_000)
    assert lora_recipe("fast", steps=7).steps == 7
    with pytest.raises(pi.PrefixInterpError, match="preset='slow' is unknown"):
        lora_recipe("slow")


def test_a_language_model_gets_what_peft_computes(tmp_path):
    """The merged model against PEFT's own forward, made here from the tuned weights."""
    model = language_model("llama")
    before = model_id(model)
    fit = tune(model, rank=2, targets=("q", "v", "o", "mlp_out"), alpha=3.0, recipe=SHORT)
    assert model_id(model) == before == fit.base_id
    config = LoraConfig(
        r=2, lora_alpha=3, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(hub_model("llama"), config).eval()
    own = {n: p for n, p in theirs.named_parameters() if "lora_" in n}
    assert set(own) == set(fit.weights)
    assert fit.n_parameters == sum(p.numel() for p in own.values())
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(fit.weights[name])
    tokens = random_tokens()
    assert_far(fit.model(tokens), model(tokens), 1e-3)
    assert_close(fit.model(tokens), theirs(tokens).logits, 1e-5)
    fit.save(tmp_path / "x")
    again = LoraFit.load(tmp_path / "x", model)
    assert torch.equal(again.model(tokens), fit.model(tokens)) and repr(again) == repr(fit)
    with pytest.raises(pi.PrefixInterpError, match="holds no model, since it was no toy"):
        LoraFit.load(tmp_path / "x")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_a_plain_copy_computes_what_the_language_model_does(kind):
    model, tokens = language_model(kind), random_tokens()
    own = plain_copy(model)
    assert_close(own(tokens).logits, model(tokens), 1e-6)
    moved = copy.deepcopy(own)
    with torch.no_grad():
        next(moved.parameters()).add_(1)
    assert_far(moved(tokens).logits, model(tokens))
