import itertools

import pandas as pd
import pytest
import torch
from transformer_lens import patching as theirs

import prefix_interp as pi
from prefix_interp.attribution.patching import (
    HEAD_SITES,
    STREAM_SITES,
    Cell,
    contrast,
    patch_cells,
    patch_heads,
    patch_sites,
    patch_slots,
)
from prefix_interp.prefixes.baselines import masked_hooks
from tests.attribution.made_up import ARCHITECTURES, batch_for, log_prob
from tests.helpers import assert_close, assert_far, raw_model

Site = pi.Site
N, POS = 2, 3
DIRECTIONS = ("denoise", "noise")


def made(name="plain", dtype=torch.float64, **settings):
    model = raw_model(seed=1, dtype=dtype, **(ARCHITECTURES[name] | settings))
    return model, pi.Prefix.random(model, N, 2, "kv"), batch_for(model, length=POS)


def one_by_one(model, prefix, batch, direction, hooks):
    """Return the log-probability of one patched run through the slots: no stacks, no resuming."""
    with torch.no_grad():
        if direction == "denoise":
            standing = masked_hooks(model, N)
            logits = model.run_with_hooks(batch.tokens, fwd_hooks=[*standing, *hooks])
        else:
            with pi.attach(model, prefix):
                logits = model.run_with_hooks(batch.tokens, fwd_hooks=hooks)
    return log_prob(logits, batch)


def overwrite(given, head, pos):
    def write(x, hook):
        x, first = x.clone(), x.shape[1] - POS  # the slots' rows
        for q in range(POS) if pos is None else [pos]:
            if head is None:
                x[:, first + q] = given[:, q]
            else:
                x[:, first + q, head] = given[:, q, head]
        return x

    return write


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_are_patched_as_one_by_one(name, direction, by_position):
    model, prefix, batch = made(name)
    pair = pi.run_pair(model, prefix, batch.tokens)
    donor = pair.on if direction == "denoise" else pair.off
    for site in ("z", "k") if by_position else ("z", "q", "k", "v"):
        place = HEAD_SITES[site]
        grid = patch_heads(
            model, prefix, batch, direction=direction, site=site, by_position=by_position,
            progress=False,
        )  # fmt: skip
        n_heads = donor[place.at(0)].shape[2]
        positions = range(POS) if by_position else [None]
        expected = [
            one_by_one(
                model, prefix, batch, direction,
                [(place.at(layer), overwrite(donor[place.at(layer)], head, pos))],
            )
            for layer, head, pos in itertools.product(range(2), range(n_heads), positions)
        ]  # fmt: skip
        got = grid.values["log_prob"]
        assert grid.axes == ("layer", "head", "pos")[: got.ndim - 1]
        assert got.shape == (2, n_heads, *[POS] * by_position, 2)
        assert_close(got.flatten(0, -2), torch.stack(expected))
        if site in ("z", "v"):  # a patch that does nothing would agree with itself
            assert_far(grid.effect(), torch.zeros_like(got) + grid.effect().mean())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pattern_is_patched_as_by_a_plain_hook(name, direction):
    """With the slots' columns; in the run without prefix the slots' values are made 0."""
    model, prefix, batch = made(name)
    pair = pi.run_pair(model, prefix, batch.tokens)
    donor = pair.on if direction == "denoise" else pair.off
    grid = patch_heads(model, prefix, batch, direction=direction, site="pattern", progress=False)

    def no_values(v, hook):
        v = v.clone()
        v[:, :N] = 0
        return v

    for layer, head in itertools.product(range(2), range(2)):

        def write(pattern, hook, layer=layer, head=head):
            pattern = pattern.clone()
            pattern[:, head, N:] = donor[Site.PATTERN.at(layer)][:, head]
            return pattern

        hooks = [(Site.PATTERN.at(layer), write)]
        if direction == "denoise":
            hooks.append((Site.V.at(layer), no_values))
        expected = one_by_one(model, prefix, batch, direction, hooks)
        assert_close(grid.values["log_prob"][layer, head], expected)


def test_a_pattern_without_values_is_the_gate_without_the_bias():
    model, prefix, batch = made("attention-only", n_layers=1)
    pair = contrast(model, prefix, batch)
    parts = pi.decompose_attention(pair.runs)
    grid = patch_heads(model, prefix, batch, site="pattern", progress=False)
    for head in range(2):
        given = parts.scaled_base[0].transpose(1, 2)
        hook = Site.Z.at(0), overwrite(given, head, None)
        expected = one_by_one(model, prefix, batch, "denoise", [hook])
        assert_close(grid.values["log_prob"][0, head], expected)


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_streams_are_patched_as_one_by_one(name, direction, by_position):
    model, prefix, batch = made(name)
    pair = pi.run_pair(model, prefix, batch.tokens)
    donor = pair.on if direction == "denoise" else pair.off
    grid = patch_sites(
        model, prefix, batch, direction=direction, by_position=by_position, progress=False
    )
    sites = grid.labels["site"]
    missing = {"parallel": {"resid_mid"}, "attention-only": {"resid_mid", "mlp_out"}}
    assert set(sites) == set(STREAM_SITES) - missing.get(name, set())
    positions = range(POS) if by_position else [None]
    expected = [
        one_by_one(
            model, prefix, batch, direction,
            [(STREAM_SITES[s].at(i), overwrite(donor[STREAM_SITES[s].at(i)], None, pos))],
        )
        for s, i, pos in itertools.product(sites, range(2), positions)
    ]  # fmt: skip
    assert_close(grid.values["log_prob"].flatten(0, -2), torch.stack(expected))
    if not by_position:  # the last residual stream is all there is
        end = pair.logits_on if direction == "denoise" else pair.logits_off
        last = grid.values["log_prob"][sites.index("resid_post"), 1]
        assert_close(last, log_prob(end, batch))


@pytest.mark.parametrize("axes", [("layer", "head", "slot"), ("layer", "head"), ("layer",)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["plain", "rotary-grouped", "bidirectional"])
def test_slots_are_kept_and_dropped_as_by_attach(name, direction, axes):
    model, prefix, batch = made(name, n_layers=3)
    grid = patch_slots(model, prefix, batch, direction=direction, axes=axes, progress=False)
    sizes = {"layer": 3, "head": 2, "slot": N}
    assert grid.values["log_prob"].shape == (*(sizes[a] for a in axes), 2)
    for at in itertools.product(*(range(sizes[a]) for a in axes)):
        gates = torch.zeros(3, 2, N, dtype=torch.float64)
        gates[at] = 1
        gates = gates if direction == "denoise" else 1 - gates
        with torch.no_grad(), pi.attach(model, prefix, gates=gates):
            expected = log_prob(model(batch.tokens), batch)
        assert_close(grid.values["log_prob"][at], expected)


def test_a_slot_in_all_heads_of_a_layer():
    model, prefix, batch = made()
    grid = patch_slots(model, prefix, batch, axes=("layer", "slot"), progress=False)
    gates = torch.zeros(2, 2, N, dtype=torch.float64)
    gates[1, :, 0] = 1
    with torch.no_grad(), pi.attach(model, prefix, gates=gates):
        expected = log_prob(model(batch.tokens), batch)
    assert_close(grid.values["log_prob"][1, 0], expected)
    assert grid.axes == ("layer", "slot")


def test_patches_of_all_sorts_in_one_call_come_back_in_order():
    model, prefix, batch = made(n_layers=3)
    pair = contrast(model, prefix, batch)
    cells = [
        Cell(Site.Z, 1, 0), Cell(Site.Q, 1, 1), Cell(Site.MLP_OUT, 0, None, 2),
        Cell(Site.Z, 0, 1, 2), Cell(Site.K, 1, 0), Cell(Site.RESID_POST, 2), Cell(Site.Z, 1, 1),
        Cell(Site.V, 0, 0, 2), Cell(Site.RESID_PRE, 1),
    ]  # fmt: skip
    whole = patch_cells(pair, cells, "noise", progress=False)["log_prob"]
    for cell, value in zip(cells, whole, strict=True):
        given = pair.runs.off[cell.site.at(cell.layer)]
        hook = cell.site.at(cell.layer), overwrite(given, cell.head, cell.pos)
        assert_close(value, one_by_one(model, prefix, batch, "noise", [hook]))


def their_sweep(helper, model, prefix, batch, direction, positions=False, heads=None):
    """Run one of TransformerLens's own sweeps on the prefixed model and on the masked one."""
    with torch.no_grad():
        with pi.attach(model, prefix):
            on = model.run_with_cache(batch.tokens)[1]
        with model.hooks(fwd_hooks=masked_hooks(model, N)):
            off = model.run_with_cache(batch.tokens)[1]
    index = {}
    if positions:  # theirs counts from the first row, which is a slot
        ranges = [range(2), range(N, N + POS)] + [range(h) for h in ([heads] if heads else [])]
        frame = pd.DataFrame(itertools.product(*ranges))
        index = dict(index_axis_names=None, index_df=frame)

    def metric(logits):
        return log_prob(logits, batch).mean()

    with torch.no_grad():
        if direction == "denoise":
            with model.hooks(fwd_hooks=masked_hooks(model, N)):
                return helper(model, batch.tokens, on, metric, **index)
        with pi.attach(model, prefix):
            return helper(model, batch.tokens, off, metric, **index)


def close_in_float32(ours, found):
    assert ours.dtype == found.dtype == torch.float32 and ours.shape == found.shape
    assert (ours - found).abs().max() <= 1e-6
    assert found.max() - found.min() > 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["plain", "rotary-grouped"])
def test_the_sweeps_of_transformer_lens(name, direction):
    """Its helpers take the prefixed model as it is, and agree with ours to 1e-6 in float32."""
    model, prefix, batch = made(name, torch.float32, gain=1.0)
    case = model, prefix, batch, direction

    def ours(sweep, **options):
        grid = sweep(model, prefix, batch, direction=direction, progress=False, **options)
        return grid.values["log_prob"].mean(-1)

    if name == "rotary-grouped":  # keys stand in one head of two
        k = their_sweep(theirs.get_act_patch_attn_head_k_by_pos, *case, positions=True, heads=1)
        own = ours(patch_heads, site="k", by_position=True)
        close_in_float32(own.transpose(1, 2).flatten(), k)
    z = their_sweep(theirs.get_act_patch_attn_head_out_all_pos, *case)
    close_in_float32(ours(patch_heads), z)
    q = their_sweep(theirs.get_act_patch_attn_head_q_all_pos, *case)
    close_in_float32(ours(patch_heads, site="q"), q)
    streams = {
        "resid_pre": theirs.get_act_patch_resid_pre,
        "attn_out": theirs.get_act_patch_attn_out,
        "mlp_out": theirs.get_act_patch_mlp_out,
    }
    found = ours(patch_sites, sites=list(streams))
    for own, helper in zip(found, streams.values(), strict=True):
        close_in_float32(own.flatten(), their_sweep(helper, *case, positions=True))
    by_position = {
        "q": theirs.get_act_patch_attn_head_q_by_pos,
        "v": theirs.get_act_patch_attn_head_v_by_pos,
    }
    for site, helper in by_position.items():
        own = ours(patch_heads, site=site, by_position=True)  # layer head pos
        own = own.transpose(1, 2)  # theirs is layer pos head
        found = their_sweep(helper, *case, positions=True, heads=own.shape[2])
        close_in_float32(own.flatten(), found)


def test_several_metrics_come_from_one_sweep():
    model, prefix, batch = made()
    names = ["log_prob", "logit_difference", "kl", "exact_match"]
    both = patch_heads(model, prefix, batch, metrics=names, progress=False)
    for name in names:
        alone = patch_heads(model, prefix, batch, metrics=[name], progress=False)
        assert torch.equal(both.values[name], alone.values[name])
    assert list(both.values) == list(both.on) == list(both.off) == names


def test_silent_when_asked(capsys):
    model, prefix, batch = made("attention-only", n_layers=1)
    for sweep in (patch_heads, patch_sites, patch_slots):
        sweep(model, prefix, batch, progress=False)
        assert capsys.readouterr() == ("", "")
        sweep(model, prefix, batch)
        assert "patching" in capsys.readouterr().err


def test_bad_input(unchecked):
    model, prefix, batch = made()
    for sweep in (patch_heads, patch_sites, patch_slots):
        with pytest.raises(pi.PrefixInterpError, match="did you mean 'denoise'"):
            sweep(model, prefix, batch, direction="denoising", progress=False)
    with pytest.raises(pi.PrefixInterpError, match="site='out' is unknown"):
        patch_heads(model, prefix, batch, site="out", progress=False)
    with pytest.raises(pi.PrefixInterpError, match="names a site twice"):
        patch_sites(model, prefix, batch, sites=["attn_out", "attn_out"], progress=False)
    with pytest.raises(pi.PrefixInterpError, match="sites='z' is unknown"):
        patch_sites(model, prefix, batch, sites=["z"], progress=False)
    with pytest.raises(pi.PrefixInterpError, match="axes="):
        patch_slots(model, prefix, batch, axes=("head",), progress=False)
    bare, own, other = made("attention-only")
    with pytest.raises(pi.PrefixInterpError, match=r"MLP_OUT.* does not exist"):
        patch_sites(bare, own, other, sites=["mlp_out"], progress=False)
    with pytest.raises(pi.PrefixInterpError, match=r"prefix\.keys has shape"):
        patch_heads(raw_model(n_layers=1), prefix, batch, progress=False)
