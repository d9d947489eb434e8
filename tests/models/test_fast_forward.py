"""The written-down forward pass is that of the hooked model, gradients included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.models.fast_forward import FastForward, is_written_down
from prefix_interp.models.host import host_of
from prefix_interp.models.sites import Site
from prefix_interp.prefixes.attach import stack_hooks
from prefix_interp.prefixes.layout import answer_rows_hooks, offset_hooks
from tests.helpers import assert_close, raw_model


@st.composite
def shapes(draw):
    """Fields of a `ToyConfig`."""
    heads = draw(st.integers(1, 3))
    return dict(
        n_layers=draw(st.integers(1, 3)), n_heads=heads,
        d_model=heads * draw(st.sampled_from((2, 4))), n_prefix=draw(st.integers(1, 4)),
        n_content=9, d_vocab=7, normalization=draw(st.sampled_from(("LN", "RMS", "none"))),
        attn_only=draw(st.booleans()), skip_ln1=draw(st.booleans()),
    )  # fmt: skip


def random_toy(shape, seed):
    """A toy in float64 whose every weight matters, biases and norms too."""
    cfg = pi.ToyConfig(**shape)
    toy, rng = pi.build_toy(cfg, seed).to(torch.float64), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in toy.parameters():
            p += 0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return toy


def gradients(logits, of):
    """All gradients of a weighted sum of logits, one behind the other."""
    weights = torch.linspace(-1, 2, logits.numel(), dtype=logits.dtype).view_as(logits)
    found = torch.autograd.grad((weights * logits).sum(), of, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


@settings(max_examples=25)
@given(
    shape=shapes(), kind=st.sampled_from(("kv", "residual")), stack=st.integers(1, 3),
    n_pos=st.integers(3, 9), n_rows=st.integers(1, 3), frozen=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_hooked_model_under_a_stack(shape, kind, stack, n_pos, n_rows, frozen, seed):
    toy, rng = random_toy(shape, seed), torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, (2, n_pos), generator=rng)
    toy.requires_grad_(not frozen)
    prefixes = [pi.Prefix.random(toy, shape["n_prefix"], i, kind) for i in range(stack)]
    own = {
        name: torch.stack([each.tensors[name].double() for each in prefixes]).requires_grad_()
        for name in prefixes[0].tensors
    }
    hooks = [*stack_hooks(toy, prefixes[0], own), *answer_rows_hooks(toy, n_rows)]
    with host_of(toy).hooked(hooks):
        hooked = toy(tokens.repeat(stack, 1))[:, -n_rows:]
    fast = FastForward(toy)(tokens, n_rows, host_of(toy).keys_values(own))
    assert_close(fast, hooked, 1e-10)
    of = [*own.values(), *(p for p in toy.parameters() if p.requires_grad)]
    assert_close(gradients(fast, of), gradients(hooked, of), 1e-10)


@settings(max_examples=15)
@given(shape=shapes(), n_rows=st.integers(1, 9), seed=st.integers(0, 99))
def test_without_slots_it_is_the_masked_baseline(shape, n_rows, seed):
    toy = random_toy(shape, seed)
    tokens = torch.randint(7, (2, 9), generator=torch.Generator().manual_seed(seed))
    with host_of(toy).hooked(offset_hooks(toy, shape["n_prefix"])):
        hooked = toy(tokens)[:, -n_rows:]
    fast = FastForward(toy)(tokens, n_rows)
    assert_close(fast, hooked, 1e-10)
    of = [p for p in toy.parameters() if p.requires_grad]
    assert_close(gradients(fast, of), gradients(hooked, of), 1e-10)


def changed(change):
    toy = pi.build_toy(pi.ToyConfig(d_model=8, n_heads=2))
    change(toy)
    return toy


def hooked(toy):
    toy.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 2 * x)


def scaled(toy):
    toy.cfg.attn_scale = 3.0


def patched(toy):
    toy.blocks[0].mlp.forward = lambda x: x


def replaced(toy):
    toy.blocks[0].ln1 = torch.nn.LayerNorm(8)


def rounded(toy):
    toy.double()  # the settings still say float32, to which the norms round


def compiled(toy):
    toy.compile(backend="eager")


@pytest.mark.parametrize("change", [hooked, scaled, patched, replaced, rounded, compiled])
def test_what_it_does_not_know_is_not_written_down(change):
    assert is_written_down(changed(lambda toy: None))
    assert not is_written_down(changed(change))


def test_other_models_are_not_written_down():
    assert not is_written_down(raw_model())


@pytest.mark.parametrize("kind", ["kv", "residual"])
def test_a_sweep_is_the_same_either_way(kind, monkeypatch):
    toy = pi.load_toy("four-skills-1l4h")
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=4, precision="float32")
    starts = pi.Prefix.random_starts(toy, 2, 2, 0, kind)

    def swept():
        return pi.sweep(toy, "add_one", starts, [0.01, 0.1], recipe=recipe, progress=False)

    fast = swept()
    monkeypatch.setattr("prefix_interp.tuning.objective.is_written_down", lambda model: False)
    for a, b in zip(fast, swept(), strict=True):
        for name, x in a.prefix.tensors.items():
            assert_close(x, b.prefix.tensors[name], 1e-4)
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-5)


def test_a_hook_of_ones_own_acts_while_a_prefix_is_tuned():
    toy = pi.load_toy("four-skills-1l4h")
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=2)

    def loss():
        return pi.tune_prefix(toy, "add_one", recipe=recipe, progress=False).train_loss

    plain = loss()
    toy.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 0 * x, is_permanent=True)
    assert loss() > plain + 0.1


def test_a_hook_that_is_added_between_two_steps_acts():
    toy = pi.load_toy("four-skills-1l4h")
    recipe = pi.Recipe.from_preset("smoke", "fine_tune", steps=2)

    def loss(at_step):
        fit = pi.fine_tune(toy, "add_one", recipe=recipe, at_step=at_step, progress=False)
        return fit.history["loss"].iloc[-1]

    def cut(step, model):
        model.add_hook("blocks.0.hook_mlp_out", lambda x, hook: 0 * x, is_permanent=True)

    assert loss(cut) > loss(None) + 0.1


def test_pretraining_is_the_same_either_way(monkeypatch):
    cfg = pi.ToyConfig(2, 2, 16)
    recipe = pi.Recipe.from_preset("smoke", "pretrain", steps=4, precision="float32")

    def trained():
        return pi.pretrain(cfg, "add_one", recipe=recipe, progress=False).model

    fast = trained()
    monkeypatch.setattr("prefix_interp.tuning.train.is_written_down", lambda model: False)
    slow = dict(trained().named_parameters())
    assert all(torch.allclose(x, slow[name], atol=2e-5) for name, x in fast.named_parameters())


@pytest.mark.parametrize("targets", [("q", "v"), ("k", "o", "mlp_in", "mlp_out")])
def test_lora_is_the_same_either_way(targets, monkeypatch):
    toy = pi.build_toy(pi.ToyConfig(2, 2, 16))
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=4, lr=0.01, precision="float32")

    def tuned():
        return pi.tune_lora(toy, "add_one", 2, targets, recipe=recipe, progress=False)

    fast, made = tuned(), []
    monkeypatch.setattr(
        "prefix_interp.tuning.lora.is_written_down", lambda model: made.append(model)
    )
    slow = tuned()
    assert made and slow.train_loss == pytest.approx(fast.train_loss, rel=1e-5)
    for name, x in fast.weights.items():
        assert torch.allclose(x, slow.weights[name], atol=1e-4) and (x.any() or "A" in name)


@settings(max_examples=20)
@given(
    shape=shapes(), stack=st.integers(1, 2), n_rows=st.integers(1, 3), denoise=st.booleans(),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_one_head_after_the_other_is_a_hook_on_its_output(shape, stack, n_rows, denoise, seed):
    """An oracle: the whole hooked model, one head of one prefix at a time."""
    toy, rng = random_toy(shape, seed), torch.Generator().manual_seed(seed)
    tokens = torch.randint(7, (2, 6), generator=rng)
    prefixes = [pi.Prefix.random(toy, 2, i, "kv") for i in range(stack)]
    own = {n: torch.stack([p.tensors[n].double() for p in prefixes]) for n in prefixes[0].tensors}
    slots = None if denoise else host_of(toy).keys_values(own)
    layer = seed % shape["n_layers"]
    seen = {}
    sites = Site.RESID_PRE.at(layer), Site.Z.at(layer)
    read = [(name, lambda x, hook, name=name: seen.update({name: x})) for name in sites]
    base = [] if denoise else stack_hooks(toy, prefixes[0], own)
    with torch.no_grad(), host_of(toy).hooked([*base, *read]):
        toy(tokens.repeat(1 if denoise else stack, 1))
    resid, z = (x.unflatten(0, (-1, 2)) for x in seen.values())
    given_z = torch.randn(stack, *z.shape[1:], generator=rng, dtype=z.dtype)
    found = FastForward(toy).with_each_head(layer, resid, z, given_z, n_rows, slots)
    assert found.shape == (stack, shape["n_heads"], 2, n_rows, 7)
    for i, prefix in enumerate(prefixes):
        alone = {name: x[i : i + 1] for name, x in own.items()}
        under = [] if denoise else stack_hooks(toy, prefix, alone)
        for head in range(shape["n_heads"]):

            def write(x, hook, i=i, head=head):
                x = x.clone()
                x[:, :, head] = given_z[i, :, :, head]
                return x

            with torch.no_grad(), host_of(toy).hooked([*under, (Site.Z.at(layer), write)]):
                assert_close(found[i, head], toy(tokens)[:, -n_rows:], 1e-10)
