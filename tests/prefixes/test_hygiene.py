"""Inside an attach block nothing is silently wrong: each trick is refused, or its answer is right.

A right answer is one that a fresh copy of the model gives in a fresh block.
"""

import copy
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import prefix_interp as pi
from prefix_interp.models.host import host_of
from prefix_interp.models.model import clone
from tests.helpers import assert_close, assert_far, forward_hooks, raw_model, tokens_for, toy

Site = pi.Site
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
KINDS = {
    "slots": lambda model, kind="residual": (pi.Prefix.random(model, 2, 1, kind), {}),
    "mixture": lambda model, kind="residual": (
        pi.Prefix.random(model, 2, 1, kind),
        {"method": "mixture"},
    ),
    "soft": lambda model: (pi.SoftPrompt.random(model, 2, 1, layers="all"), {}),
    "embedded": lambda model: (pi.SoftPrompt.random(model, 2, 1, layers="embedding"), {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
METHODS = ["slots", "mixture"]


def model_and(kind, **settings):
    model = raw_model(seed=3, **settings)
    return model, *KINDS[kind](model), tokens_for(model)


def fresh(model, context, how, tokens):
    """The answer of an independent copy with the same weights, with nothing done before."""
    with torch.no_grad(), pi.attach(copied(model), context.for_any_model(), **how) as clean:
        return clean(tokens)


def copied(model):
    other = raw_model(seed=3) if model.cfg.n_layers == 2 else copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    return other


def refused(reason):
    return pytest.raises(pi.PrefixInterpError, match=reason)


# --- compiled models ----------------------------------------------------------------------------


def compiled_before(model, tokens):
    model.compile(backend="eager")
    model(tokens)
    return model


def wrapped_before(model, tokens):
    wrapped = torch.compile(model, backend="eager")
    wrapped(tokens)
    return wrapped


def block_before(model, tokens):
    model.blocks[0].compile(backend="eager")
    model(tokens)
    return model


def attention_before(model, tokens):
    model.blocks[1].attn.compile(backend="eager")
    model(tokens)
    return model


def function_before(model, tokens):
    call = torch.compile(lambda t: model(t), backend="eager")
    call(tokens)
    return call


@pytest.mark.parametrize(
    "prepare, kind",
    [(compiled_before, kind) for kind in KINDS]
    + [(way, "slots") for way in (wrapped_before, block_before, attention_before, function_before)],
)
def test_a_compiled_model_has_the_prefix_and_is_as_before_afterwards(prepare, kind):
    torch._dynamo.reset()
    model, context, how, tokens = model_and(kind)
    with torch.no_grad():
        plain, right = model(tokens), fresh(model, context, how, tokens)
        call = prepare(model, tokens)
        before = forward_hooks(model)
        with pi.attach(model, context, **how):
            assert_close(call(tokens), right, 1e-12)
            assert_close(model(tokens), right, 1e-12)
        assert torch.equal(call(tokens), plain) and forward_hooks(model) == before


def test_what_is_compiled_inside_is_plain_afterwards():
    torch._dynamo.reset()
    model, context, how, tokens = model_and("slots")
    with torch.no_grad():
        plain, right = model(tokens), fresh(model, context, how, tokens)
        with pi.attach(model, context):
            wrapped = torch.compile(model, backend="eager")
            assert_close(wrapped(tokens), right, 1e-12)
            model.compile(backend="eager")
            assert_close(model(tokens), right, 1e-12)
        assert torch.equal(wrapped(tokens), plain) and torch.equal(model(tokens), plain)


@pytest.mark.slow
def test_attach_inside_a_compiled_function_is_refused():
    """In a process of its own, since the compiler cannot read the checks of annotations."""
    code = """
import torch
import prefix_interp as pi
model, tokens = pi.build_toy(pi.ToyConfig(2, 2, 16)), torch.ones(2, 6, dtype=torch.long)
prefix = pi.Prefix.random(model, 2)
def call(tokens):
    with pi.attach(model, prefix):
        return model(tokens)
right, plain = call(tokens), model(tokens)
try:
    torch.compile(call, backend="eager")(tokens)
except pi.PrefixInterpError as error:
    assert "cannot be called by a compiled function" in str(error)
    assert torch.equal(call(tokens), right) and torch.equal(model(tokens), plain)
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "refused\n", done.stderr


def test_overlapping_blocks_give_the_compiler_back_after_the_last_one():
    torch._dynamo.reset()
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    add = torch.compile(lambda x: x + 1, backend=backend)
    one, context, _, _ = model_and("slots")
    two = toy()
    first, second = pi.attach(one, context), pi.attach(two, pi.Prefix.random(two, 1))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    add(torch.ones(2))
    assert not calls
    second.__exit__(None, None, None)
    add(torch.ones(2))
    assert calls


@pytest.mark.parametrize("context", [True, False])
def test_a_compiled_model_is_evaluated_like_another(context):
    torch._dynamo.reset()
    model = pi.load_toy("sort-ascending-1l1h")
    prefix = pi.load_prefixes("sort-ascending-1l1h")["sort_descending"] if context else None
    task = "sort_descending" if context else "sort_ascending"
    right = pi.evaluate(model, task, prefix, n=32)
    model.compile(backend="eager")
    model(pi.get_task(task).sample(32).tokens)
    found = pi.evaluate(model, task, prefix, n=32)
    assert found.exact_match == right.exact_match and found.loss == right.loss


def test_hooks_for_a_compiled_model_are_refused():
    model, context, _, _ = model_and("slots")
    model.blocks[1].compile(backend="eager")
    with refused("model is compiled"):
        pi.prefix_hooks(model, context)


def test_a_layer_that_runs_no_python_is_noticed():
    """As a captured graph does: the module's call is replaced."""
    model, context, _, tokens = model_and("slots")
    block = model.blocks[1]
    with pi.attach(model, context):
        real = block.forward
        model.blocks[1] = torch.nn.Identity()
        model.blocks[1].forward = lambda x, **_: x.clone()
        try:
            with refused("layer 1: it was replaced, or did not run"):
                model(tokens)
        finally:
            model.blocks[1], block.forward = block, real


# --- tracing, exporting, copying ----------------------------------------------------------------


@every_kind
@pytest.mark.parametrize(
    "record",
    [
        lambda model, tokens: torch.jit.trace(model, (tokens,), check_trace=False),
        lambda model, tokens: torch.export.export(model, (tokens,), strict=False),
        lambda model, tokens: make_fx(model)(tokens),
        lambda model, tokens: make_fx(model, tracing_mode="fake")(tokens),
    ],
    ids=["jit", "export", "make_fx", "fake"],
)
def test_recording_a_run_is_refused(kind, record):
    model, context, how, tokens = model_and(kind)
    right = fresh(model, context, how, tokens)
    with torch.no_grad(), pi.attach(model, context, **how):
        with refused("traced, exported or compiled inside an attach block"):
            record(model, tokens)
        assert_close(model(tokens), right, 1e-12)


@pytest.mark.parametrize("kind", ["slots", "mixture", "soft"])
def test_recording_an_attention_is_refused(kind):
    model, context, how, _ = model_and(kind)
    rows = torch.randn(1, 4, 8, dtype=torch.float64)
    attn = model.blocks[0].attn
    with torch.no_grad(), pi.attach(model, context, **how):
        with refused("traced, exported or compiled"):
            torch.jit.trace(attn, (rows, rows, rows), check_trace=False)
        with refused("traced, exported or compiled"):
            make_fx(attn)(rows, rows, rows)


@every_kind
def test_a_copy_made_inside_is_refused_for_ever(kind):
    model, context, how, tokens = model_and(kind)
    right = fresh(model, context, how, tokens)
    with pi.attach(model, context, **how):
        copies = [copy.deepcopy(model), clone(model)]
        for each in copies:
            with refused("copy made inside"):
                each(tokens)
        assert_close(model(tokens), right, 1e-12)
        with refused("cannot be pickled"):
            pickle.dumps(model._prefix_interp_attached)
    plain = model(tokens)
    for each in copies:
        with refused("copy made inside"):
            each(tokens)
        with refused("copy made inside"):
            each.blocks[0](torch.zeros(1, 4, 8, dtype=torch.float64))
        with refused("copy made inside"):
            with pi.attach(each, context, **how):
                pass
    assert torch.equal(model(tokens), plain)


def test_an_evaluation_of_a_copy_made_inside_is_refused():
    model = pi.load_toy("sort-ascending-1l1h")
    prefix = pi.load_prefixes("sort-ascending-1l1h")["sort_descending"]
    with pi.attach(model, prefix):
        other = copy.deepcopy(model)
    for context in (None, prefix):
        with refused("copy made inside"):
            pi.evaluate(other, "sort_descending", context, n=8)


# --- threads ------------------------------------------------------------------------------------


def in_thread(function):
    """The error, or what `function` returns, in a thread of its own."""
    found = []

    def run():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


@every_kind
def test_a_block_belongs_to_its_thread(kind):
    model, context, how, tokens = model_and(kind)
    right = fresh(model, context, how, tokens)

    def attach_too():
        with pi.attach(model, context, **how):
            return model(tokens)

    rows = torch.zeros(1, 4, 8, dtype=torch.float64)
    with pi.attach(model, context, **how):
        for trick in (
            lambda: model(tokens),
            lambda: model.blocks[0](rows),
            lambda: model.forward(tokens),
            attach_too,
        ):
            error = in_thread(trick)
            assert isinstance(error, pi.PrefixInterpError), error
            assert "belongs to one thread" in str(error)
            assert_close(model(tokens), right, 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_threads_that_share_a_block_or_want_the_plain_model_get_no_wrong_answer(method):
    model, context, _, _ = model_and("slots")
    batches = [tokens_for(model, 4, 6, seed=i) for i in range(20)]
    with torch.no_grad():
        right = [fresh(model, context, {"method": method}, each) for each in batches]
        plain = [copied(model)(each) for each in batches]
    wrong, done, start = [], [], threading.Barrier(4)

    def work(inside):
        start.wait(60)
        for i in range(60):
            try:
                with torch.no_grad():
                    if inside:
                        with pi.attach(model, context, method):
                            found, expected = model(batches[i % 20]), right[i % 20]
                    else:
                        found, expected = model(batches[i % 20]), plain[i % 20]
            except pi.PrefixInterpError:
                continue
            done.append(inside)
            if not torch.allclose(found, expected, atol=1e-9):
                wrong.append((inside, i))

    threads = [threading.Thread(target=work, args=(i < 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong and True in done
    with torch.no_grad():
        assert torch.equal(model(batches[0]), plain[0])


# --- what changes inside the block --------------------------------------------------------------


def scale_weights(model, context):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "W_K" in name or "W_V" in name or "ln1" in name:
                parameter.mul_(1.5)


def scale_data(model, context):
    for name, parameter in model.named_parameters():
        if "W_K" in name or "W_V" in name or "ln1" in name:
            parameter.data *= 1.5


def change_vectors(model, context):
    for tensor in context.tensors.values():
        tensor.mul_(-1.5)


def change_vectors_data(model, context):
    for tensor in context.tensors.values():
        tensor.data *= torch.linspace(-1, 2, tensor.shape[-1])


@every_kind
@pytest.mark.parametrize("change", [scale_weights, scale_data, change_vectors, change_vectors_data])
def test_a_change_inside_the_block_counts(kind, change):
    model, context, how, tokens = model_and(kind)
    with torch.no_grad(), pi.attach(model, context, **how):
        first = model(tokens)
        change(model, context)
        found = model(tokens)
    assert_close(found, fresh(model, context, how, tokens), 1e-12)
    assert_far(found, first)


@every_kind
def test_functional_call_uses_the_weights_that_it_is_given(kind):
    model, context, how, tokens = model_and(kind)
    other = raw_model(seed=8)
    right = fresh(other, context, how, tokens) if kind else None
    with torch.no_grad(), pi.attach(model, context, **how):
        found = torch.func.functional_call(model, dict(other.named_parameters()), (tokens,))
    assert_close(found, right, 1e-12)


@pytest.mark.parametrize("kind", ["slots", "mixture"])
def test_transforms_of_torch_func(kind):
    model, context, how, tokens = model_and(kind)
    names = dict(model.named_parameters())
    stack = {k: torch.stack([v, 1.1 * v]).detach() for k, v in names.items()}

    def call(weights):
        return torch.func.functional_call(model, weights, (tokens,))

    with pi.attach(model, context, **how):
        found = torch.func.vmap(call)(stack)
        for i in range(2):
            assert_close(found[i], call({k: v[i] for k, v in stack.items()}), 1e-10)
        slopes = torch.func.grad(lambda w: call(w).square().sum())(
            {k: v.detach() for k, v in names.items()}
        )
        model(tokens).square().sum().backward()
    for name, parameter in names.items():
        if parameter.grad is not None:
            assert_close(slopes[name], parameter.grad, 1e-10)
    stack["blocks.1.attn.W_Q"] = stack["blocks.1.attn.W_Q"] * torch.nan
    with pi.attach(model, context, **how), refused("attention scores of layer 1"):
        torch.func.vmap(call)(stack)


@every_kind
def test_two_backwards_in_one_block(kind):
    model, context, how, tokens = model_and(kind)
    for tensor in context.tensors.values():
        tensor.requires_grad_()
    gradients = []
    with pi.attach(model, context, **how):
        for _ in range(2):
            for tensor in context.tensors.values():
                tensor.grad = None
            model(tokens).square().sum().backward()
            gradients.append([x.grad.clone() for x in context.tensors.values()])
    for one, two in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        assert_close(two, one, 1e-12)


@every_kind
def test_another_precision_inside_the_block_is_refused(kind):
    model, context, how, tokens = model_and(kind)
    with pi.attach(model, context, **how), refused("float32 .*the context torch.float64"):
        pi.to_dtype(model, torch.float32)
        model(tokens)


# --- checkpoints --------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("whole", [True, False])
def test_a_reentrant_checkpoint_is_refused(kind, whole):
    model, context, how, tokens = model_and(kind)
    rows = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    with pi.attach(model, context, **how), refused("use_reentrant=False"):
        if whole:
            dummy = torch.ones((), requires_grad=True)
            checkpoint(lambda t, _: model(t), tokens, dummy, use_reentrant=True)
        else:
            checkpoint(model.blocks[1], rows, use_reentrant=True)


def checkpointed(model, tokens, whole):
    if whole:
        return checkpoint(model, tokens, use_reentrant=False)
    real = [block.forward for block in model.blocks]
    calls = [
        lambda x, f=f, **more: checkpoint(lambda y: f(y, **more), x, use_reentrant=False)
        for f in real
    ]
    for block, call in zip(model.blocks, calls, strict=True):
        block.forward = call
    try:
        return model(tokens)
    finally:
        for block, forward in zip(model.blocks, real, strict=True):
            block.forward = forward


@every_kind
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("parameters", ["all", "unembed"])
@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_a_checkpoint_is_right_inside_and_an_error_outside(
    kind, whole, parameters, parameterization
):
    model, context, how, tokens = model_and(kind)
    if kind in METHODS:
        context, how = KINDS[kind](model, parameterization)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameters == "all" or parameters in name)

    def gradients(run, inside):
        model.zero_grad()
        with pi.attach(model, context, **how):
            loss = run().square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        return {k: v.grad.clone() for k, v in model.named_parameters() if v.grad is not None}

    right = gradients(lambda: model(tokens), inside=True)
    found = gradients(lambda: checkpointed(model, tokens, whole), inside=True)
    assert right.keys() == found.keys()
    for name in right:
        assert_close(found[name], right[name], 1e-10)
    try:
        outside = gradients(lambda: checkpointed(model, tokens, whole), inside=False)
    except (pi.PrefixInterpError, torch.utils.checkpoint.CheckpointError):
        return
    for name in right:
        assert_close(outside[name], right[name], 1e-10)


# --- hooks that are taken off -------------------------------------------------------------------


def take_off(model, name, which):
    handle = model.hook_dict[name].fwd_hooks.pop(which)
    handle.hook.remove()


@pytest.mark.parametrize("gated", [False, True])
@every_kind
def test_every_single_hook_that_is_taken_off_is_noticed(kind, gated):
    model, context, how, tokens = model_and(kind)
    if gated:
        if kind not in METHODS:
            pytest.skip("a soft prompt has no gates")
        how = {**how, "gates": torch.full((2, 2), 0.5, dtype=torch.float64)}
    with pi.attach(model, context, **how):
        places = [(n, i) for n, p in model.hook_dict.items() for i in range(len(p.fwd_hooks))]
    assert len(places) >= 3
    for name, which in places:
        for call in (model, model.forward):
            with pi.attach(model, context, **how):
                model(tokens)
                take_off(model, name, which)
                with refused("prefix"):
                    call(tokens)


@every_kind
def test_taking_off_torchs_own_hooks_is_noticed(kind):
    model, context, how, tokens = model_and(kind)
    with refused("prefix"), pi.attach(model, context, **how):
        for module in model.modules():
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        model(tokens)


def test_an_error_that_is_caught_does_not_spoil_the_block():
    model, context, how, tokens = model_and("slots")
    right = fresh(model, context, how, tokens)

    def fail(x, hook):
        raise ZeroDivisionError

    with pi.attach(model, context):
        for site in (Site.K, Site.Z, Site.RESID_POST):
            with pytest.raises(ZeroDivisionError):
                model.run_with_hooks(tokens, fwd_hooks=[(site.at(0), fail)])
        assert_close(model(tokens), right, 1e-12)
        with pytest.raises(ZeroDivisionError):
            model.run_with_hooks(tokens, fwd_hooks=[(Site.Z.at(0), fail)])


def test_an_embedded_prompt_cannot_enter_behind_the_embedding():
    model, context, _, _ = model_and("embedded")
    rows = torch.randn(1, 5, 8, dtype=torch.float64)
    with pi.attach(model, context), refused("start_at_layer=1"):
        model(rows, start_at_layer=1)


# --- numbers that are not finite ----------------------------------------------------------------


def large(prefix, factor):
    return pi.Prefix("kv", None, prefix.keys * factor, prefix.values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype, factor", [(torch.float16, 1e4), (torch.float32, 6e37)])
@pytest.mark.parametrize("layer", [0, 1])
def test_scores_that_overflow_are_named_with_their_layer(method, dtype, factor, layer):
    model = raw_model(seed=3, dtype=dtype)
    prefix = pi.Prefix.random(model, 2, 1, "kv")
    tokens, site = tokens_for(model), Site.Q.at(layer)
    queries = model.run_with_cache(tokens, names_filter=site)[1][site]
    prefix.keys[layer, 0] = queries[0, -1]  # one that scores above 0
    prefix.keys[layer] *= factor
    reason = f"attention scores of layer {layer}"
    with torch.no_grad():
        with refused(reason), pi.attach(model, prefix, method):
            model(tokens)
        with refused(reason), pi.attach(model, prefix, method):
            model.forward(tokens)  # at the end of the block, if not before
        with refused(reason):
            pi.run_pair(model, prefix, tokens)
        with refused(reason):
            model.run_with_hooks(tokens, fwd_hooks=pi.prefix_hooks(model, prefix))


def test_a_shipped_prefix_that_overflows_has_no_score():
    model = pi.load_toy("sort-ascending-1l1h")
    prefix = pi.load_prefixes("sort-ascending-1l1h")["sort_descending-kv-10"]
    with refused("attention scores of layer 0"):
        pi.evaluate(model, "sort_descending", large(prefix, 1e37), n=32)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("blocks.1.attn.W_Q", "attention scores of layer 1"),
        ("blocks.1.mlp.W_in", "output of layer 1"),
        ("blocks.0.attn.b_O", "output of layer 0"),
        ("unembed.W_U", "logits"),
    ],
)
def test_a_model_that_is_not_finite_has_no_score(name, reason):
    model = toy(n_content=19, n_prefix=1, dtype=torch.float32)
    tokens = pi.get_task("sort_ascending").sample(4).tokens
    prefix = pi.Prefix.random(model, 1)
    dict(model.named_parameters())[name].data.fill_(torch.nan)
    with refused(reason):
        pi.evaluate(model, "sort_ascending", n=8)
    with refused(reason):
        pi.evaluate(model, "sort_ascending", prefix, n=8)
    with refused(reason):
        pi.run_pair(model, prefix, tokens)
    for method in METHODS:
        with refused(reason), pi.attach(model, prefix, method):
            model(tokens, return_type="loss")


def test_a_row_that_nobody_reads_may_overflow():
    """The slots' own queries see the slots too; the content alone is read."""
    model, context, _, tokens = model_and("slots")

    def spoil(scores, hook):
        scores = scores.clone()
        scores[:, :, :2] = torch.nan
        return scores

    with pi.attach(model, context):
        right = model(tokens)
    model.hook_dict[Site.ATTN_SCORES.at(1)].add_hook(spoil, is_permanent=True)
    with pi.attach(model, context):
        assert_close(model(tokens), right, 1e-12)


def test_a_score_of_minus_infinity_is_no_mass():
    model, context, _, tokens = model_and("slots")

    def hide(scores, hook):
        scores = scores.clone()
        scores[..., 0] = -torch.inf
        return scores

    with pi.attach(model, context):
        found = model.run_with_hooks(tokens, fwd_hooks=[(Site.ATTN_SCORES.at(1), hide)])
    gates = torch.ones(2, 2, 2, dtype=torch.float64)
    gates[1, :, 0] = 0
    with pi.attach(model, context, gates=gates):
        assert_close(found, model(tokens), 1e-10)


def test_large_finite_scores_are_no_error():
    """Their sum overflows, each of them does not."""
    model, context, _, tokens = model_and("slots", dtype=torch.float32, n_heads=1)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.fill_(8e18)
            block.attn.W_K.zero_()
            block.attn.b_K.fill_(8e18)
        context = pi.Prefix.random(model, 2, 1)
        with pi.attach(model, context):
            assert model(tokens).isfinite().all()


def test_layers_of_a_call_are_those_that_run():
    model = raw_model(n_layers=3)
    host = host_of(model)
    for args, kwargs, layers in [
        ((None,), {}, [0, 1, 2]),
        ((None,), {"stop_at_layer": -1}, [0, 1]),
        ((None,), {"start_at_layer": -1}, [2]),
        ((None, "logits", False, None, None, 1), {"stop_at_layer": 2}, [1]),
    ]:
        assert host.layers_of_call(args, kwargs)[1] == layers


@every_kind
def test_run_with_hooks_and_forward_are_watched_like_calls(kind):
    """TransformerLens calls forward from run_with_hooks, past the model's torch-level hooks."""
    model, context, how, tokens = model_and(kind)
    other = clone(model).blocks[0]
    for call in (lambda: model.forward(tokens), lambda: model.run_with_hooks(tokens, fwd_hooks=[])):
        with pi.attach(model, context, **how):
            assert torch.equal(call(), model(tokens))
        before = model.blocks[0]
        with pytest.raises(pi.PrefixInterpError), pi.attach(model, context, **how):
            model.blocks[0] = other
            call()
        model.blocks[0] = before
    huge = [(pi.Site.Q.at(0), lambda q, hook: q * 1e308 * 1e308)]
    with pytest.raises(pi.PrefixInterpError, match="NaN or infinity"):
        with pi.attach(model, context, **how):
            model.run_with_hooks(tokens, fwd_hooks=huge)
            raise AssertionError("the scores were infinite")
    assert "forward" not in vars(model) and torch.equal(model(tokens), clone(model)(tokens))
