"""Tables against actual prefixes, the search, and the prefix that is built from a table."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import prefix_interp as pi
from prefix_interp.models.sites import Site
from prefix_interp.seeds import derive_generator
from prefix_interp.theory import reachability
from prefix_interp.theory.reach_construction import extreme_cells, prefix_from_table
from prefix_interp.theory.reach_polish import polished
from prefix_interp.theory.reach_search import Groups, noise_tables
from prefix_interp.theory.reach_tables import (
    PrefixTable,
    head_rows,
    output_scores,
    row_logits,
    table_of_prefix,
)
from prefix_interp.theory.reachability import AnyLengthBound, any_length_bound
from prefix_interp.tuning.evaluate import answer_logits
from prefix_interp.tuning.objective import frozen
from tests.helpers import assert_close, toy


def small(seed=0, **settings):
    """A one-layer toy in float64, wide enough that its queries are independent."""
    shape = dict(n_layers=1, n_heads=2, d_model=16, n_prefix=1, n_content=7, d_vocab=5) | settings
    return toy(seed, **shape)


def sequences(n=12, length=4, n_out=2, d_vocab=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    tokens = torch.randint(d_vocab, (n, length), generator=rng)
    return pi.Batch(tokens, torch.randint(d_vocab, (n, n_out), generator=rng))


@pytest.mark.parametrize("kind", ["residual", "kv"])
@pytest.mark.parametrize("n_slots", [1, 5])
def test_a_prefix_is_its_table(kind, n_slots):
    model, batch = small(), sequences()
    prefix = pi.Prefix.random(model, n_slots, 3, kind)
    rows, table = head_rows(model, batch), table_of_prefix(model, prefix)
    with pi.attach(model, prefix):
        logits, cache = model.run_with_cache(batch.tokens)
    with torch.no_grad():
        z = table.outputs(rows)
        assert_close(row_logits(model, rows.resid, z), logits[:, -2:], 1e-11)
    assert_close(z, cache[Site.Z.at(0)][:, -2:], 1e-11)
    gate = cache[Site.PATTERN.at(0)][..., -2:, :n_slots].sum(-1)
    assert_close(table.gate(rows), gate.transpose(1, 2), 1e-11)


def test_scores_of_a_table_are_those_of_its_prefix_where_answers_stand_anywhere():
    model, batch = small(), sequences(n=30)
    positions = torch.tensor([[1, 3], [0, 2]]).repeat(15, 1)
    batch = pi.Batch(batch.tokens, batch.answers, positions=positions)
    prefix = pi.Prefix.random(model, 3, 0, "kv")
    right, loss = output_scores(model, batch, table_of_prefix(model, prefix).outputs)
    logits = answer_logits(model, batch, prefix)
    assert torch.equal(right, logits.argmax(-1) == batch.answers)
    oracle = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), reduction="none")
    assert_close(loss, oracle.view(30, 2).mean(1), 1e-6)


def test_a_gate_of_nothing_is_no_prefix():
    model, batch = small(), sequences()
    table = PrefixTable(
        torch.full((2, 7, 5), -torch.inf).double(), torch.zeros(2, 7, 5, 8).double()
    )
    rows = head_rows(model, batch)
    assert_close(table.outputs(rows), rows.base, 1e-15)
    assert table.gate(rows).max() == 0


def test_a_deeper_toy_is_refused():
    with pytest.raises(pi.PrefixInterpError, match="2 layers"):
        any_length_bound(small(n_layers=2), "add_one")


def recipe(**changes):
    sizes = dict(steps=30, lr=0.1, batch_size=16, precision="float32") | changes
    return pi.Recipe.from_preset("smoke", "prefix", **sizes)


def bound_of(model=None, **settings):
    sizes = dict(recipe=recipe(), starts=2, n_select=64, n=64, progress=False) | settings
    return any_length_bound(model or pi.load_toy("sort-ascending-1l1h"), "sort_descending", **sizes)


@pytest.fixture(scope="module")
def bound():
    prefixes = pi.load_prefixes("sort-ascending-1l1h")
    return bound_of(warm=[prefixes["sort_descending-kv-10"], prefixes["sort_descending-kv-1"]])


def test_it_is_at_least_as_good_as_the_prefixes_that_it_starts_from(bound):
    model, prefixes = pi.load_toy("sort-ascending-1l1h"), pi.load_prefixes("sort-ascending-1l1h")
    names = ("noise 0", "noise 1", "prefix 0", "prefix 1")
    assert bound.starts == (*names, "prefix 0 as given", "prefix 1 as given", "polished")
    # Each cell takes the best, so that on the sequences that choose it is the best of all.
    batch = pi.get_task("sort_descending").sample_from(
        derive_generator(0, "any-length", "other"), 64, "train"
    )
    _, loss = output_scores(model, batch, bound.table.outputs)
    assert loss.mean() <= bound.start_losses.min() + 1e-6
    for i, name in enumerate(("sort_descending-kv-10", "sort_descending-kv-1")):
        _, own = output_scores(model, batch, table_of_prefix(model, prefixes[name]).outputs)
        assert own.mean() == pytest.approx(float(bound.start_losses[4 + i]), rel=1e-5)


def test_scores_are_of_the_sequences_that_evaluate_takes(bound):
    model = pi.load_toy("sort-ascending-1l1h")
    batch = pi.get_task("sort_descending").sample(64, "test", 0)
    right, loss = output_scores(model, batch, bound.table.outputs)
    assert bound.evaluation.exact_match.value == right.all(-1).double().mean()
    assert bound.evaluation.loss.value == pytest.approx(float(loss.double().mean()), abs=1e-6)
    assert torch.equal(bound.by_output, right.float().mean(0))


def test_the_trace_holds_every_position_of_every_start(bound):
    runs = list(dict.fromkeys(bound.history["run"]))
    assert runs == [f"start={i} position={p}" for i, p in itertools.product(range(4), range(9, 19))]
    trace = bound.trace()
    last = trace[(trace["run"] == "prefix 0") & (trace["step"] == 30)]["loss"]
    own = bound.history[bound.history["run"].str.startswith("start=2 ")]
    assert last.item() == pytest.approx(own[own["step"] == 30]["loss"].mean())


@pytest.mark.parametrize("values", ["cell", "position", "shared", "zero"])
def test_a_polish_ends_where_the_loss_of_its_sequences_has_no_slope(values):
    """An oracle: the mean loss of whole sequences, and its gradient, by `output_scores`' way."""
    task = pi.get_task("sort_descending")
    model = toy(3, n_layers=1, n_heads=2, d_model=6, n_content=19, d_vocab=11)
    whole = task.sample(100, "train", 1)
    batch = pi.Batch(whole.tokens, whole.answers[:, -2:])
    with torch.no_grad():
        rows = head_rows(model, batch)
    (start,) = noise_tables(rows, torch.Size((2, 19, 11, 3)), 1, 0, 0.5)
    groups = Groups(values, (17, 18), 19, 11)
    with torch.no_grad():
        start = groups.table(groups.runs(0, start, 1.0), start)  # values as they may be
    with frozen(model):
        found = polished(model, batch, groups, start, 100)

    def loss_and_slope(table):
        mass, value = (x.detach().clone().requires_grad_() for x in vars(table).values())
        logits = row_logits(model, rows.resid, PrefixTable(mass, value).outputs(rows))
        loss = F.cross_entropy(logits.transpose(1, 2), batch.answers)
        loss.backward()
        by_value = {"cell": value.grad, "position": value.grad.sum(2),
                    "shared": value.grad.sum((1, 2)), "zero": torch.zeros(1)}[values]  # fmt: skip
        slope = torch.cat([mass.grad.flatten(), by_value.flatten()])
        return loss.item(), slope.norm().item()

    assert not any(x.requires_grad for x in vars(found).values())
    (before, steep), (after, flat) = loss_and_slope(start), loss_and_slope(found)
    assert after < before and flat < 0.05 * steep
    unread = torch.arange(19) < 17
    assert torch.equal(found.log_mass[:, unread], start.log_mass[:, unread])


def test_no_two_outputs_share_a_cell(bound):
    assert (bound.n_cell.sum(1) == torch.tensor([0] * 9 + [64] * 10)).all()


def test_it_says_that_it_is_no_proof_and_can_be_kept(bound, tmp_path):
    assert "no proof" in bound.caption() and "no proof" in AnyLengthBound.__doc__
    again = AnyLengthBound.load(bound.save(tmp_path / "bound"))
    assert torch.equal(again.mean_value, bound.mean_value) and again.caption() == bound.caption()
    assert len(bound.plot().axes[0].lines) == 4
    assert bound.to_dataframe()["output"].tolist() == list(range(1, 11))


def test_position_by_position_is_what_adam_does_on_that_position_alone():
    """An oracle in plain torch: one position's table, by Adam on its own loss."""
    model, n_steps = pi.load_toy("sort-ascending-1l1h"), 4
    found = bound_of(model, recipe=recipe(steps=n_steps, schedule="constant"), starts=1, polish=0)
    start = bound_of(
        model, recipe=recipe(steps=1, lr=1e-12, schedule="constant"), starts=1, polish=0
    )
    task = pi.get_task("sort_descending")
    drawn = task.sample_from(derive_generator(0, "batches", task.name, 0), 16 * 50, "train")
    mass = start.log_mass[:, 12].clone().requires_grad_()
    value = start.mean_value[:, 12].clone().requires_grad_()
    adam = torch.optim.AdamW([mass, value], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(n_steps):
        part = drawn.part(slice(16 * step, 16 * step + 16))
        cache = pi.run_pair(model, pi.Prefix.random(model, 1), part.tokens).off
        token = part.tokens[:, 12]
        logs = cache[Site.ATTN_SCORES.at(0)][:, :, 12].logsumexp(-1)
        gate = (mass[:, token].T - logs).sigmoid()[..., None]
        z = (1 - gate) * cache[Site.Z.at(0)][:, 12] + gate * value[:, token].transpose(0, 1)
        mid = cache[Site.RESID_PRE.at(0)][:, 12] + model.blocks[0].attn.b_O
        mid = mid + torch.einsum("bhd,hdm->bm", z, model.blocks[0].attn.W_O)
        post = mid + model.blocks[0].mlp(model.blocks[0].ln2(mid[:, None]))[:, 0]
        logits = model.unembed(model.ln_final(post[:, None]))[:, 0]
        adam.zero_grad()
        F.cross_entropy(logits, part.answers[:, 3]).backward()
        torch.nn.utils.clip_grad_norm_([mass, value], 1.0)
        adam.step()
    seen = found.n_cell[12] > 0
    assert_close(found.log_mass[:, 12][:, seen], mass[:, seen], 1e-4)
    assert_close(found.mean_value[:, 12][:, seen], value[:, seen], 1e-4)


@pytest.mark.parametrize("values", ["position", "shared", "zero"])
def test_restricted_tables_hold_what_they_may(values):
    found = bound_of(values=values)
    value = found.mean_value[0]
    read = value[9:]
    if values == "zero":
        assert (read == 0).all()
    elif values == "shared":
        assert (read == read[0, 0]).all() and (read != 0).any()
    else:
        assert (read == read[:, :1]).all() and not torch.equal(read[0], read[1])
    assert found.log_mass[0, 9:].unique().numel() > 10
    with pytest.raises(pi.PrefixInterpError, match="do not go with values"):
        bound_of(values=values, warm=[pi.Prefix.random(pi.load_toy("sort-ascending-1l1h"), 1)])


def test_a_search_that_was_cut_off_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = bound_of(recipe=recipe(steps=20))
    file = tmp_path / "search"
    real, calls = reachability.group_losses, []

    def cut(*args):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(reachability, "group_losses", cut)
    with pytest.raises(KeyboardInterrupt):
        bound_of(recipe=recipe(steps=20), checkpoint=file)
    monkeypatch.setattr(reachability, "group_losses", real)
    again = bound_of(recipe=recipe(steps=20), checkpoint=file)
    assert torch.equal(again.mean_value, whole.mean_value)
    assert again.history.equals(whole.history) and again.evaluation == whole.evaluation
    with pytest.raises(pi.PrefixInterpError, match="belongs to another training"):
        bound_of(recipe=recipe(steps=20), checkpoint=file, values="position")


def test_a_built_prefix_does_what_the_table_says():
    model = pi.load_toy("sort-ascending-1l1h")
    bound = bound_of(recipe=recipe(steps=3), starts=1, n_select=4000)
    built = prefix_from_table(model, bound)
    assert built.prefix.n_slots == int((bound.n_cell > 0).sum()) == len(built.cells)
    assert built.mass_error.max() < 1e-3 and built.value_error.max() < 1e-3
    assert extreme_cells(model, bound.n_cell).all()
    scores = pi.evaluate(model, "sort_descending", built.prefix, n=64)
    assert abs(scores.exact_match.value - bound.evaluation.exact_match.value) <= 2 / 64
    assert scores.loss.value == pytest.approx(bound.evaluation.loss.value, rel=0.01)
    assert "slots, one for each cell" in built.caption() and built.plot().axes
    coarse = prefix_from_table(model, bound, leak=0.1)
    assert coarse.mass_error.max() > 10 * built.mass_error.max()


def test_a_cell_that_no_key_reaches_alone_is_named():
    """One-dimensional queries: at most two cells are at an edge."""
    task = pi.get_task("add_one")
    model = toy(0, n_layers=1, n_heads=1, d_model=2, n_content=19, d_vocab=11, dtype=torch.float32)
    found = any_length_bound(
        model, task, recipe=recipe(steps=1), starts=1, n_select=64, n=64, progress=False
    )
    with pytest.raises(pi.PrefixInterpError, match=r"cannot be built at position \d+, token"):
        prefix_from_table(model, found)
    assert not extreme_cells(model, found.n_cell).all()


def test_a_bound_of_another_model_is_refused(bound):
    other = pi.load_toy("sort-descending-1l1h-fine-tuned")
    with pytest.raises(pi.PrefixInterpError, match="is not this model's"):
        prefix_from_table(other, bound)


@pytest.mark.parametrize(
    "wrong", [{"values": "cel"}, {"starts": 0}, {"n_select": 0}, {"polish": -1}]
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(pi.PrefixInterpError, match=next(iter(wrong))):
        bound_of(**wrong)
