import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.model import clone, model_id
from prefix_interp.tuning.edits import EditFit, tune_edit
from prefix_interp.tuning.evaluate import answer_logits
from prefix_interp.tuning.recipes import Recipe
from tests.helpers import assert_close, assert_far, forward_hooks, toy
from tests.tiny_language_models import language_model, random_tokens

SHORT = Recipe(steps=12, lr=3e-2, batch_size=8, weight_decay=0.0, precision="float32")
CONFIG = dict(n_layers=2, n_heads=2, d_model=16, n_content=19, d_vocab=11, dtype=torch.float32)


@pytest.fixture(scope="module")
def model():
    return toy(**CONFIG)


@pytest.fixture(scope="module")
def fits(model):
    kinds = ("offset", "offset_and_scale", "low_rank")
    return {kind: tune(model, kind, rank=3) for kind in kinds}


def tune(model, kind, **settings):
    return tune_edit(model, "add_one", kind, **{"recipe": SHORT, "progress": False, **settings})


def logits_of(model, batch):
    with torch.no_grad():
        return answer_logits(model, batch)


def folded(model, fit):
    """The same function without hooks: z is only read by W_O, so v W_O joins its bias."""
    own = clone(model)
    with torch.no_grad():
        for layer, block in enumerate(own.blocks):
            v, W_O = fit.tensors["offset"][layer], block.attn.W_O
            block.attn.b_O += torch.einsum("hd,hdm->m", v, W_O)
            if "scale" in fit.tensors:
                block.attn.W_O *= fit.tensors["scale"][layer][:, None, None]
    return own


@pytest.mark.parametrize("kind", ["offset", "offset_and_scale"])
def test_edits_of_heads_are_changes_of_the_weights_behind_them(kind, model, fits):
    batch = pi.get_task("add_one").sample(8, seed=3)
    with fits[kind].on(model):
        found = logits_of(model, batch)
    assert_close(found, logits_of(folded(model, fits[kind]), batch), 1e-5)
    assert_far(found, logits_of(model, batch))


def test_a_low_rank_edit_adds_up_down_x_to_the_residual_stream(model, fits):
    fit, tokens = fits["low_rank"], pi.get_task("add_one").sample(4, seed=3).tokens
    names = [f"blocks.0.hook_{x}" for x in ("resid_mid", "mlp_out", "resid_post")]
    with torch.no_grad():
        _, off = model.run_with_cache(tokens, names_filter=names)
        with fit.on(model):
            _, on = model.run_with_cache(tokens, names_filter=names)
    x = off["blocks.0.hook_resid_mid"]  # of layer 0, in which nothing has changed before
    down, up = fit.tensors["down"][0], fit.tensors["up"][0]
    edited = x + torch.stack([up @ (down @ row) for row in x.flatten(0, 1)]).view_as(x)
    carried = on["blocks.0.hook_resid_post"] - on["blocks.0.hook_mlp_out"]
    assert_close(carried, edited, 1e-5)
    assert_far(carried, x)


def test_they_start_as_no_edit(model):
    nothing = Recipe(1, 1e-30, 4, weight_decay=0.0, precision="float32")
    bare = pi.evaluate(model, "add_one")
    for kind in ("offset", "offset_and_scale", "low_rank"):
        fit = tune(model, kind, recipe=nothing)
        assert fit.evaluation.loss.value == pytest.approx(bare.loss.value, rel=1e-5)


def test_sizes_are_those_of_the_tensors(fits, model):
    sizes = {kind: fit.n_parameters for kind, fit in fits.items()}
    assert sizes == {"offset": 2 * 16, "offset_and_scale": 2 * (16 + 2), "low_rank": 2 * 2 * 3 * 16}
    assert fits["low_rank"].site == "RESID_MID" and fits["offset"].site == "Z"


def test_they_learn_and_are_scored_as_evaluate_scores(fits, model):
    before, hooks = model_id(model), forward_hooks(model)
    bare = pi.evaluate(model, "add_one").loss
    for fit in fits.values():
        assert fit.evaluation.loss < bare and fit.train_loss < fit.history["loss"].iloc[0]
        with fit.on(model):
            assert pi.evaluate(model, "add_one") == fit.evaluation
    assert model_id(model) == before and forward_hooks(model) == hooks
    assert all(p.requires_grad for n, p in model.named_parameters() if "b_U" not in n)


def test_seeds_and_killed_tunings_repeat_to_the_bit(fits, model, tmp_path, monkeypatch):
    loop = pi.tuning.loop
    calls, before = [], loop._log

    def dies(*args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return before(*args)

    monkeypatch.setattr(loop, "_log", dies)
    with pytest.raises(KeyboardInterrupt):
        tune(model, "low_rank", rank=3, checkpoint=tmp_path / "c")
    monkeypatch.setattr(loop, "_log", before)
    again = tune(model, "low_rank", rank=3, checkpoint=tmp_path / "c")
    whole = fits["low_rank"]
    assert all(torch.equal(x, again.tensors[name]) for name, x in whole.tensors.items())
    assert again.history.equals(whole.history) and again.evaluation == whole.evaluation
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        tune(model, "low_rank", rank=3, site="RESID_PRE", checkpoint=tmp_path / "c")


def test_saved_edits_come_back(fits, model, tmp_path):
    for kind, fit in fits.items():
        again = EditFit.load(fit.save(tmp_path / kind))
        assert repr(again) == repr(fit)
        with again.on(model):
            assert pi.evaluate(model, "add_one") == fit.evaluation


def refused(message, model, kind, **settings):
    with pytest.raises(pi.PrefixInterpError, match=message) as found:
        tune(model, kind, **settings)
    assert "\n" not in str(found.value)


def test_what_cannot_be_is_refused_in_one_line(model, fits):
    refused("kind='ofset' is unknown.*'offset'", model, "ofset")
    refused("rank=0 must be", model, "low_rank", rank=0)
    refused("site='RESID_MID' is unknown.*'Z'", model, "offset", site="RESID_MID")
    bare = toy(**CONFIG, attn_only=True)
    refused("site='RESID_MID' is unknown.*RESID_P", bare, "low_rank", site=pi.Site.RESID_MID)
    assert tune(bare, "low_rank").site == "RESID_PRE"
    with pytest.raises(pi.PrefixInterpError, match="give the model that it was tuned on"):
        with fits["offset"].on(bare):
            pass


def test_language_models_take_edits():
    model, tokens = language_model("llama"), random_tokens()
    fit = tune(model, "offset")
    assert (
        fit.n_parameters == 3 * 4 * 8 and fit.evaluation.loss < pi.evaluate(model, "add_one").loss
    )
    with torch.no_grad():
        before = model(tokens)
        with fit.on(model):
            assert_far(model(tokens), before)
        assert torch.equal(model(tokens), before)
