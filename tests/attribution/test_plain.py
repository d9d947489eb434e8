"""The model as it is beside every contrast, and positions that a prefix must not move."""

import warnings
from copy import deepcopy
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.contrast import contrast
from prefix_interp.result_values import check_fields
from tests.helpers import assert_close, raw_model

MOVED = "move the content"


def learned(**config):
    return raw_model(n_ctx=8, **config)


def batch_for(model, length=4):
    rng = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.cfg.d_vocab, (5, length), generator=rng)
    return pi.Batch(tokens, torch.randint(model.cfg.d_vocab, (5, 2), generator=rng))


def answers_log_prob(logits, batch):
    logp = logits[:, -2:].log_softmax(-1)
    return logp.gather(-1, batch.answers[..., None])[..., 0].mean(-1)


@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_shifting_alone_is_told_and_its_value_stands_beside(parameterization):
    model, n = learned(), 3
    batch = batch_for(model)
    prefix = pi.Prefix.random(model, n, parameterization=parameterization)
    with pytest.warns(UserWarning, match=f"{n} slots {MOVED}.* changes log_prob from .*plain.*off"):
        pair = contrast(model, prefix, batch)
    with torch.no_grad():
        as_it_is = model(batch.tokens)
        moved = deepcopy(model)  # its table begins where the content stands
        moved.W_pos.data[: 8 - n] = model.W_pos.data[n:].clone()
        behind = moved(batch.tokens)
    assert_close(pair.plain["log_prob"], answers_log_prob(as_it_is, batch))
    assert_close(pair.off["log_prob"], answers_log_prob(behind, batch))
    assert "plain" in repr(pair) and pi.evaluate(model, batch).loss.value == pytest.approx(
        -float(pair.plain["log_prob"].mean()), abs=1e-6
    )


def quiet(model, prefix, batch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return contrast(model, prefix, batch)


@pytest.mark.parametrize("parameterization", ["residual", "kv"])
def test_kept_positions_make_plain_and_off_equal_and_no_noise(parameterization):
    model = learned()
    batch = batch_for(model, length=8)  # as long as the context: no room for a slot
    prefix = pi.Prefix.random(model, 3, parameterization=parameterization, positions="keep")
    pair = quiet(model, prefix, batch)
    assert torch.equal(pair.plain["log_prob"], pair.off["log_prob"]) and "plain" not in repr(pair)
    assert_close(pair.off["log_prob"], answers_log_prob(model(batch.tokens).detach(), batch))
    with torch.no_grad():
        both = []
        for method in ("slots", "mixture"):
            with pi.attach(model, prefix, method):
                both.append(model(batch.tokens))
        both.append(model.run_with_hooks(batch.tokens, fwd_hooks=pi.prefix_hooks(model, prefix)))
    assert_close(both[0], both[1], 1e-12)
    assert_close(both[0], both[2], 1e-12)
    assert_close(pair.on["log_prob"], answers_log_prob(both[0], batch), 1e-12)
    dec = pi.decompose_attention(pair.runs)
    assert float(dec.residual.abs().max()) < 1e-12
    with pytest.raises(pi.PrefixInterpError, match=r"has 5; .*, or a prefix with positions='keep'"):
        quiet(model, pi.Prefix.random(model, 3), batch)


def test_a_toy_and_rotating_positions_say_nothing():
    toy = pi.to_dtype(pi.build_toy(pi.ToyConfig(n_heads=2, d_model=16)), torch.float64)
    rotary = raw_model(n_ctx=16, positional_embedding_type="rotary", rotary_dim=4)
    for model in (toy, rotary):
        batch = batch_for(model)
        pair = quiet(model, pi.Prefix.random(model, 3), batch)
        assert torch.equal(pair.plain["log_prob"], pair.off["log_prob"])
        assert_close(
            pair.plain["log_prob"].mean(),
            torch.tensor(-pi.evaluate(model, batch).loss.value).double(),
            1e-6,
        )


def test_kept_positions_are_saved_trained_and_compared(tmp_path):
    model = learned()
    prefix = pi.Prefix.random(model, 2, positions="keep")
    assert pi.Prefix.load(prefix.save(tmp_path / "own")).keeps_positions
    assert "positions='keep'" in repr(prefix) and "positions" not in repr(
        pi.Prefix.random(model, 2)
    )
    with pytest.raises(pi.PrefixInterpError, match="positions='kept' is unknown"):
        pi.Prefix.random(model, 2, positions="kept")
    model = learned(dtype=torch.float32)
    tokens = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4))
    long = torch.cat([tokens, tokens, tokens[:, :2]], dim=1)  # 8: as long as the context
    task = pi.task_from_tensors(long, tokens[:, 2])
    recipe = pi.Recipe.from_preset("smoke", "prefix", steps=3)
    fit = pi.tune_prefix(model, task, positions="keep", recipe=recipe, progress=False)
    assert fit.prefix.keeps_positions
    found = pi.head_elicitation(model, fit.prefix, task, n=4, n_random=2, progress=False)
    assert all(x.isfinite().all() for x in found.controls.values())
    with pytest.raises(pi.PrefixInterpError, match="needs 8 content positions but the model has 7"):
        pi.tune_prefix(model, task, recipe=recipe, progress=False)


def test_every_result_says_what_the_plain_model_does(tmp_path):
    model = learned()
    batch = batch_for(model)
    prefix = pi.Prefix.random(model, 3, seed=4)
    pair, quiet = contrast(model, prefix, batch), dict(progress=False)
    plain = float(pair.plain["log_prob"].mean())
    for i, result in enumerate(
        (
            pi.patch_heads(model, prefix, pair, **quiet),
            pi.attribution_patch(model, prefix, pair),
            pi.head_elicitation(model, prefix, pair, n_random=2, **quiet),
            pi.find_circuit(model, prefix, pair, n_random=2, **quiet),
        )
    ):
        assert f"{plain:.4g} plain" in result.caption()
        again = type(result).load(result.save(tmp_path / f"{i}.json"))
        assert again.caption() == result.caption()
        without = replace(result, plain=None)  # as files of older versions are read
        assert "plain" not in without.caption()
    found = pi.integrated_gradients(model, prefix, pair, tolerance=0.5, **quiet)
    assert float(found.plain.mean()) == pytest.approx(plain)


def test_results_of_older_versions_have_no_plain_value(tmp_path):
    toy = pi.load_toy("four-skills-1l4h")
    prefix = pi.load_prefixes("four-skills-1l4h")["add_one"]
    grid = pi.patch_heads(toy, prefix, "add_one", n=4, progress=False)
    fields = {f.name: getattr(grid, f.name) for f in dataclass_fields(grid) if f.name != "plain"}
    check_fields(type(grid), fields)
    assert type(grid)(**fields).plain is None
    with pytest.raises(TypeError, match="site"):
        check_fields(type(grid), {k: v for k, v in fields.items() if k != "site"})


def test_a_contrast_at_hand_is_of_these_positions_and_warns_of_each_new_metric():
    model = learned()
    batch, prefix = batch_for(model), pi.Prefix.random(model, 3)
    pair = contrast(model, prefix, batch, metrics=("exact_match",))
    with pytest.warns(UserWarning, match=f"{MOVED}.* log_prob"):
        pi.patch_heads(model, prefix, pair, metrics=("log_prob",), progress=False)
    kept = replace(prefix, positions="keep")
    with pytest.raises(pi.PrefixInterpError, match="contrast of another prefix"):
        pi.patch_heads(model, kept, pair, progress=False)
    with pytest.raises(pi.PrefixInterpError, match="give both the same"):
        pi.head_elicitation(
            model, prefix, batch, controls={"kept": kept}, n_random=2, progress=False
        )


def test_the_warning_names_the_line_that_asked():
    model = learned()
    with pytest.warns(UserWarning, match=MOVED) as told:
        pi.contrast(model, pi.Prefix.random(model, 3), batch_for(model))
    assert {Path(x.filename).name for x in told if MOVED in str(x.message)} == {"test_plain.py"}


def test_more_slots_than_the_context_holds():
    model = learned()
    prefix = pi.Prefix.random(model, 9, positions="keep")
    assert pi.evaluate(model, batch_for(model), prefix).n == 5


def test_metrics_without_a_name_or_without_floats_are_one_line(unchecked):
    model = learned()
    batch, prefix = batch_for(model), pi.Prefix.random(model, 1, positions="keep")

    def hit(logits, target):
        return (logits.argmax(-1) == target.answers).any(-1)

    for metrics, message in ((hit, "without a name"), ({"hit": hit}, "return a tensor of floats")):
        with pytest.raises(pi.PrefixInterpError, match=message):
            contrast(model, prefix, batch, metrics=metrics)
