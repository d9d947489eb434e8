import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import prefix_interp as pi
from prefix_interp.attribution import pair as pair_module
from prefix_interp.attribution.contrast import contrast
from prefix_interp.prefixes.baselines import masked_hooks
from tests.attribution.made_up import ARCHITECTURES, batch_for, log_prob
from tests.helpers import architectures, assert_close, forward_hooks, raw_model, tokens_for, toy

Site = pi.Site


def made(arch=None, n_slots=2, seed=0, **sizes):
    model = raw_model(seed, **(arch or {}))
    prefix = pi.Prefix.random(model, n_slots, seed, "kv")
    batch = batch_for(model, seed=seed, **sizes)
    return model, prefix, batch, contrast(model, prefix, batch)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_both_runs_are_those_of_attach_and_of_the_masked_baseline(name):
    model, prefix, batch, pair = made(ARCHITECTURES[name])
    with torch.no_grad():
        with pi.attach(model, prefix):
            on = model(batch.tokens)
        off = model.run_with_hooks(batch.tokens, fwd_hooks=masked_hooks(model, 2))
    assert_close(pair.on["log_prob"], log_prob(on, batch))
    assert_close(pair.off["log_prob"], log_prob(off, batch))
    assert pair.batch is not None and pair.n_batch == 2 and pair.model is model


@settings(max_examples=25)
@given(architectures(), st.integers(0, 99), st.integers(1, 3), st.integers(1, 6), st.data())
def test_an_intervention_that_does_nothing_changes_nothing(arch, seed, n_slots, length, data):
    """Wherever a run is resumed, on every architecture, from both runs."""
    n_out = data.draw(st.integers(1, length))
    _, _, _, pair = made(arch, n_slots, seed, length=length, n_out=n_out)
    place = dict(
        layer=data.draw(st.integers(0, arch["n_layers"] - 1)),
        first_pos=data.draw(st.integers(0, length - 1)),
        after_attention=data.draw(st.booleans()),
    )
    for base in ("on", "off"):
        got = pair.run(base, 2, lambda _: [], **place)["log_prob"]
        assert_close(got, getattr(pair, base)["log_prob"].expand(2, -1), 1e-9)
    ones = torch.ones(2, arch["n_layers"], arch["n_heads"], n_slots, dtype=torch.float64)
    place["after_attention"] = False
    kept = pair.run("on", 2, lambda _: [], **place, gates=ones)["log_prob"]
    assert_close(kept, pair.on["log_prob"].expand(2, -1), 1e-9)
    dropped = pair.run("off", 2, lambda _: [], **place, gates=ones * 0)["log_prob"]
    assert_close(dropped, pair.off["log_prob"].expand(2, -1), 1e-9)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gates_a_set_an_intervention_or_a_sequence(name):
    model, prefix, batch, pair = made(ARCHITECTURES[name])
    gates = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    gates[0, 1] = 0
    expected = []
    for own in gates:
        with torch.no_grad(), pi.attach(model, prefix, gates=own):
            expected.append(model(batch.tokens)[:, -2:])
    for base in ("on", "off"):
        got = pair.run(base, 3, lambda _: [], gates=gates)["log_prob"]
        assert_close(got, torch.stack([log_prob(x, batch) for x in expected]))
        with torch.no_grad():
            each = pair.logits(base, 2, [], gates=gates[torch.tensor([0, 1, 2, 1])])
        for row, (i, b) in zip(each.flatten(0, 1), [(0, 0), (1, 1), (2, 0), (1, 1)], strict=True):
            assert_close(row, expected[i][b])


def test_gates_behind_a_position_leave_earlier_positions_alone():
    model, prefix, batch, pair = made()
    gates = torch.rand(3, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double() + 0.01
    got = pair.run("on", 3, lambda _: [], first_pos=3, gates=gates / 2)["log_prob"]
    for own, value in zip(gates / 2, got, strict=True):

        def scale(scores, hook, own=own):
            scores[:, :, 2 + 3 :, :2] += own[hook.layer()].log()[:, None, :]
            return scores

        hooks = [(Site.ATTN_SCORES.at(i), scale) for i in range(2)]
        with torch.no_grad(), pi.attach(model, prefix):
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=hooks)
        assert_close(value, log_prob(logits, batch))


def test_stacks_are_cut_into_passes_without_a_trace(monkeypatch):
    pair = made()[-1]
    gates = torch.rand(5, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    slices = []

    def run():
        slices.clear()
        return pair.run("on", 5, lambda part: slices.append(part) or [], gates=gates)["log_prob"]

    whole = run()
    assert slices == [slice(0, 5)]
    monkeypatch.setattr(pair_module, "MAX_SEQUENCES", 5)  # two examples: two a pass
    assert_close(run(), whole, 1e-12)
    assert slices == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_activations_stand_on_the_content():
    _, _, batch, pair = made()
    n, length = 2, batch.tokens.shape[1]
    for state in ("on", "off"):
        pattern = pair.activation(state, Site.PATTERN, 1)
        assert pattern.shape[-2:] == (length, length)
        whole = getattr(pair.runs, state)[Site.PATTERN.at(1)]
        assert_close(pattern.sum(-1), 1 - whole[..., :n].sum(-1))
        assert pair.activation(state, Site.Z, 0).shape[1] == length
    with pytest.raises(pi.PrefixInterpError, match="state='held' is unknown"):
        pair.activation("held", Site.Z, 0)
    bare = made(dict(attn_only=True))[-1]
    with pytest.raises(pi.PrefixInterpError, match=r"MLP_OUT.* does not exist in this model"):
        bare.activation("on", Site.MLP_OUT, 0)


def test_tasks_by_name_object_and_batch():
    model = toy(n_content=19, d_vocab=10)
    prefix = pi.Prefix.random(model, 2)
    task = pi.get_task("sort_descending")
    found = [
        contrast(model, prefix, what, n=5, seed=3, metrics=["log_prob", "kl"]).on
        for what in ("sort_descending", task, task.sample(5, split="test", seed=3))
    ]
    for other in found[1:]:
        assert torch.equal(found[0]["log_prob"], other["log_prob"])
    assert list(found[0]) == ["log_prob", "kl"] and len(found[0]["kl"]) == 5
    other_seed = contrast(model, prefix, task, n=5, seed=4).on["log_prob"]
    assert not torch.equal(other_seed, found[0]["log_prob"])


def test_metrics_of_your_own_come_with_every_run():
    model, prefix, batch, _ = made()
    pair = contrast(model, prefix, batch, metrics={"top": lambda logits, _: logits.amax((-1, -2))})
    expected = pair.target.logits_on.amax((-1, -2))
    assert torch.equal(pair.on["top"], expected)
    assert_close(pair.run("on", 1, lambda _: [], layer=1)["top"][0], expected)


def test_nothing_is_left_behind_even_by_a_hook_that_fails():
    model, _, _, pair = made()
    before = forward_hooks(model)
    pair.run("on", 1, lambda _: [], after_attention=True)
    assert forward_hooks(model) == before

    def fail(x, hook):
        raise RuntimeError("mine")

    for after in (False, True):
        with pytest.raises(RuntimeError, match="mine"):
            pair.run("on", 1, lambda _: [(Site.Z.at(1), fail)], after_attention=after)
        assert forward_hooks(model) == before


def whole_passes(model, monkeypatch):
    """Count the runs of the model from its first layer on."""
    seen, forward = [], model.forward

    def counted(*args, start_at_layer=None, **more):
        seen.extend([1] * (start_at_layer is None))
        return forward(*args, start_at_layer=start_at_layer, **more)

    monkeypatch.setattr(model, "forward", counted)
    return seen


QUESTIONS = {
    "patch_heads": dict(progress=False),
    "patch_sites": dict(progress=False),
    "patch_slots": dict(progress=False, direction="noise"),
    "attribution_patch": dict(metrics=("kl",), direction="denoise"),
    "integrated_gradients": dict(progress=False, tolerance=0.5, over="z"),
    "head_elicitation": dict(progress=False, n_random=2, metric="logit_difference"),
    "find_circuit": dict(progress=False, n_random=1),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_several_questions_cost_one_set_of_runs(name, monkeypatch):
    model, prefix, batch, pair = made()
    ask, options = getattr(pi, name), QUESTIONS[name]
    seen = whole_passes(model, monkeypatch)
    expected = ask(model, prefix, batch, **options)
    alone = len(seen)
    seen.clear()
    found = ask(model, prefix, pair, **options)
    assert alone - len(seen) == 4, "with the prefix, without it, held, and as it is"
    assert found.to_dataframe().equals(expected.to_dataframe())


def test_a_contrast_at_hand_has_other_metrics_without_a_run(monkeypatch):
    model, prefix, batch, pair = made()
    expected = contrast(model, prefix, batch, metrics=("kl", "exact_match"))
    seen = whole_passes(model, monkeypatch)
    found = contrast(model, prefix, pair, metrics=("kl", "exact_match"))
    assert not seen and found.runs is pair.runs
    for state in ("on", "off"):
        ours, theirs = getattr(found, state), getattr(expected, state)
        assert list(ours) == ["kl", "exact_match"]
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs)
    assert list(pair.on) == ["log_prob"]


def test_a_contrast_made_without_gradients_serves_those_who_need_them():
    model, prefix, batch, _ = made()
    with torch.inference_mode():
        pair = contrast(model, prefix, batch)
    found = pi.attribution_patch(model, prefix, pair)
    assert torch.equal(found.effect(), pi.attribution_patch(model, prefix, batch).effect())


def test_a_contrast_of_something_else_is_refused():
    model, prefix, _, pair = made()
    copy = pi.Prefix("kv", keys=prefix.keys.clone(), values=prefix.values.clone())
    assert contrast(model, copy, pair).runs is pair.runs
    others = [pi.Prefix.random(model, 2, 5, "kv"), pi.Prefix.random(model, 3, 0, "kv")]
    for other in (*others, pi.Prefix.random(model, 2)):
        with pytest.raises(pi.PrefixInterpError, match="is a contrast of another prefix"):
            pi.patch_heads(model, other, pair, progress=False)
    with pytest.raises(pi.PrefixInterpError, match="task is a contrast of the model"):
        contrast(raw_model(seed=7), prefix.for_any_model(), pair)
    with torch.no_grad():
        model.W_U.mul_(2)
    with pytest.raises(pi.PrefixInterpError, match="weights unchanged"):
        contrast(model, prefix, pair)


def test_bad_input(unchecked):
    model, prefix, batch, pair = made()
    with pytest.raises(pi.PrefixInterpError, match="base='held' is unknown"):
        pair.run("held", 1, lambda _: [])
    with pytest.raises(pi.PrefixInterpError, match="n=0"):
        contrast(model, prefix, "sort_descending", n=0)
    with pytest.raises(pi.PrefixInterpError, match="metrics='loss' is unknown"):
        contrast(model, prefix, batch, metrics=["loss"])
    with pytest.raises(pi.PrefixInterpError, match="has one already"), pi.attach(model, prefix):
        contrast(model, prefix, batch)
    with pytest.raises(pi.PrefixInterpError, match="has one already"), pi.attach(model, prefix):
        pair.run("on", 1, lambda _: [])
    half = pi.to_dtype(toy(), torch.bfloat16)
    with pytest.raises(pi.PrefixInterpError, match="too coarse"):
        contrast(half, pi.Prefix.random(half, 2), batch_for(half))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (torch.zeros(1, 2).long(), "answers have shape"),
        (torch.zeros(3, 9).long(), "answers have shape"),
        (torch.zeros(3, 0).long(), "answers have shape"),
        (torch.zeros(3).long(), "answers have shape"),
        (torch.full((3, 2), 99), "the vocabulary"),
        (torch.full((3, 2), -7), "the vocabulary"),
        (torch.full((3, 2), -100), "leave out rows without an answer"),
        (torch.zeros(3, 2), "give a tensor of whole numbers"),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers, message, unchecked):
    model = raw_model(n_layers=1)
    batch = pi.Batch(tokens_for(model, 3, 5), answers, torch.zeros(3).long())
    with pytest.raises(pi.PrefixInterpError, match=message):
        contrast(model, pi.Prefix.random(model, 1), batch)


def test_what_would_be_silently_wrong_is_refused():
    model = raw_model(n_layers=1)
    prefix = pi.Prefix.random(model, 1)
    batch = pi.Batch(tokens_for(model, 3, 5), torch.zeros(3, 2).long(), torch.zeros(3).long())
    with model.hooks(fwd_hooks=[(Site.Z.at(0), lambda z, hook: z * 0)]):
        with pytest.raises(pi.PrefixInterpError, match="would apply twice"):
            contrast(model, prefix, batch)
    pair = contrast(model, prefix, batch)
    with model.hooks(fwd_hooks=[(Site.Z.at(0), lambda z, hook: z * 0)]):
        with pytest.raises(pi.PrefixInterpError, match="would apply twice"):
            pair.run("on", 1, lambda _: [])
    for shapeless in (lambda logits, _: logits.mean(), lambda logits, _: logits[..., 0, 0].mT):
        with pytest.raises(pi.PrefixInterpError, match=r"metrics\['mine'\] gives shape"):
            contrast(model, prefix, batch, metrics={"mine": shapeless})
    with torch.no_grad():
        model.blocks[0].attn.W_Q[0, 0, 0] = torch.nan
    with pytest.raises(pi.PrefixInterpError, match="NaN or infinity"):
        contrast(model, prefix.for_any_model(), batch)
