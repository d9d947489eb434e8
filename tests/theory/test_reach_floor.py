"""The floor under every prefix, against prefixes that were optimised in plain torch."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.models.sites import Site
from prefix_interp.theory.reach_floor import Floors, common_numerator_floor, unreachable
from prefix_interp.theory.reach_tables import outputs_without_prefix
from tests.helpers import assert_close, toy


def problems(n, n_in, n_keys, dim, seed):
    """Heads with one query, several contents and targets; float64."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"q": (n, dim), "k": (n, n_in, n_keys, dim), "v": (n, n_in, n_keys, dim)}
    drawn = {
        name: torch.randn(shape, generator=rng, dtype=torch.float64)
        for name, shape in (shapes | {"y": (n, n_in, dim)}).items()
    }
    return tuple(drawn.values())


def head(q, k, v):
    """The output of one query: softmax over keys, on the last axes."""
    scores = torch.einsum("...d,...kd->...k", q, k)
    return torch.einsum("...k,...kd->...d", scores.softmax(-1), v), scores.logsumexp(-1)


def optimised(q, k, v, y, n_slots, steps, seed):
    """The smallest squared error that Adam finds, over free keys and values of `n_slots` slots."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(q), n_slots, q.shape[-1])
    free = [torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for _ in "kv"]
    adam = torch.optim.Adam(free, lr=0.1)
    best = torch.full((len(q),), torch.inf, dtype=torch.float64)
    for _ in range(steps):
        slots = [x[:, None].expand(-1, y.shape[1], -1, -1) for x in free]
        keys, values = (torch.cat(pair, dim=2) for pair in zip((k, v), slots, strict=True))
        z, _ = head(q[:, None].expand(-1, y.shape[1], -1), keys, values)
        errors = (z - y).square().sum(-1).mean(-1)
        best = best.minimum(errors.detach())
        adam.zero_grad()
        errors.sum().backward()
        adam.step()
    return best


def check_floors(n, n_in, n_slots, seed, dim=3, steps=250):
    q, k, v, y = problems(n, n_in, 5, dim, seed)
    t, logs = head(q[:, None].expand(-1, n_in, -1), k, v)
    errors = optimised(q, k, v, y, n_slots, steps, seed)
    ratio = []
    for i in range(n):
        found = common_numerator_floor(t[i], logs[i], y[i])
        assert found.floor <= found.best <= found.floor * 1.002 + 1e-9
        assert found.floor <= errors[i] * (1 + 1e-12), (n_in, n_slots, seed, i)
        ratio.append(found.floor / float(errors[i]))
    return ratio


def test_no_prefix_is_below_its_floor_and_many_come_near():
    ratio = [r for n_in in (2, 4) for n_slots in (1, 3) for r in check_floors(12, n_in, n_slots, 0)]
    assert sum(r > 0.9 for r in ratio) > len(ratio) / 2  # so the floor says something


@pytest.mark.slow
@pytest.mark.parametrize("n_in", [2, 3, 4, 6])
@pytest.mark.parametrize("n_slots", [1, 2, 5, 20, 50])
def test_no_prefix_is_below_its_floor_on_a_thousand_problems(n_in, n_slots):
    check_floors(50, n_in, n_slots, seed=100 * n_in + n_slots, dim=1 + n_in % 3, steps=400)


@pytest.mark.parametrize("spread", [0.0, 1.0, 8.0])
def test_it_is_the_smallest_error_on_a_fine_grid_of_masses(spread):
    rng = torch.Generator().manual_seed(int(spread))
    mass = torch.linspace(-40, 40, 20001).double().exp()[:, None]
    for _ in range(10):
        t, y = torch.randn(2, 4, 2, generator=rng).double()
        logs = spread * torch.randn(4, generator=rng).double()
        weights = torch.rand(4, generator=rng).double() + 0.1
        w = weights / weights.sum()
        a = 1 / (logs.exp() + mass)
        b = (logs.exp() * a)[..., None] * t - y
        best_n = -torch.einsum("r,mr,mrd->md", w, a, b) / torch.einsum("r,mr->m", w, a**2)[:, None]
        error = (w * (a[..., None] * best_n[:, None] + b).square().sum(-1)).sum(-1).min()
        found = common_numerator_floor(t, logs, y, weights, tol=1e-4)
        assert found.floor <= error * (1 + 1e-9) and found.floor >= error * (1 - 3e-4)


def test_targets_of_a_prefix_have_no_floor():
    q, k, v, _ = problems(8, 5, 4, 3, seed=7)
    _, slot_k, slot_v, _ = problems(8, 5, 2, 3, seed=8)
    t, logs = head(q[:, None].expand(-1, 5, -1), k, v)
    pair = [
        torch.cat([x, s[:, :1].expand(-1, 5, -1, -1)], 2) for x, s in ((k, slot_k), (v, slot_v))
    ]
    y, _ = head(q[:, None].expand(-1, 5, -1), *pair)
    for i in range(8):
        found = common_numerator_floor(t[i], logs[i], y[i])
        assert found.best < 1e-10 and found.floor <= found.best
        mass = torch.einsum("d,sd->s", q[i], slot_k[i, 0]).logsumexp(0)
        assert found.log_mass == pytest.approx(float(mass), abs=1e-3)


def test_an_end_of_the_masses_is_named():
    t = torch.tensor([[0.0], [1.0]])
    swapped = common_numerator_floor(t, torch.zeros(2), 1 - t)
    assert swapped.log_mass == torch.inf and swapped.best == pytest.approx(0.25)
    moved = common_numerator_floor(t, torch.zeros(2), t + 1)  # a tiny mass of a huge value
    assert moved.log_mass == -torch.inf and moved.best == 0 == moved.floor


def test_a_change_of_rank_one_to_queries_and_keys_is_below_the_floor():
    """The query is shared, so a new query is a change of rank one: it alone moves the pattern."""
    rng = torch.Generator().manual_seed(3)
    q, k, v, _ = (x[0] for x in problems(1, 4, 5, 6, seed=3))
    new = q + 2 * torch.randn(6, generator=rng).double()
    y, _ = head(new.expand(4, -1), k, v)
    t, logs = head(q.expand(4, -1), k, v)
    floor = common_numerator_floor(t, logs, y).floor
    assert floor > 0.05
    assert float(optimised(q[None], k[None], v[None], y[None], 20, 300, 0)) >= floor
    # LoRA of rank 1 on the query's map, as x W with W = W_Q + a b: a along x gives any new query.
    down, up = q / q.square().sum(), torch.zeros(6, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([up], lr=0.1)
    for _ in range(600):
        z, _ = head((q + (q @ down) * up).expand(4, -1), k, v)
        loss = (z - y).square().sum(-1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss.item() < 1e-3 * floor


def test_a_model_s_cells_are_those_that_share_token_and_position():
    model = toy(0, n_layers=1, n_heads=2, d_model=8, n_prefix=1, n_content=7, d_vocab=3)
    tokens = torch.randint(3, (20, 4), generator=torch.Generator().manual_seed(0))
    targets = torch.randn(20, 4, 2, 4, generator=torch.Generator().manual_seed(1)).double()
    found = unreachable(model, tokens, targets)
    base = outputs_without_prefix(model, tokens)
    cache = pi.run_pair(model, pi.Prefix.random(model, 1), tokens).off
    assert_close(base, cache[Site.Z.at(0)], 1e-12)
    logs = cache[Site.ATTN_SCORES.at(0)].logsumexp(-1)
    assert found.cells["n"].sum() == 2 * 20 * 4
    for row in found.cells.itertuples():
        own = tokens[:, row.pos] == row.token
        one = [x[own, row.pos, row.head] for x in (base, targets)]
        again = common_numerator_floor(one[0], logs[own, row.head, row.pos], one[1])
        assert (row.n, row.floor) == (int(own.sum()), pytest.approx(again.floor, rel=1e-6))
    assert not found.cells[found.cells["pos"] > 1]["floor"].eq(0).all()
    assert 0 < found.share < 1 and "no prefix has" in found.caption() and found.plot().axes


def test_it_can_be_kept(tmp_path):
    model = toy(0, n_layers=1, n_heads=1, d_model=8, n_prefix=1, n_content=7, d_vocab=3)
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    found = unreachable(model, tokens, outputs_without_prefix(model, tokens))
    assert found.floor == 0 == found.share
    assert Floors.load(found.save(tmp_path / "floors")).cells.equals(found.cells)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(2, 3)}, "base"),
        ({"log_content": torch.zeros(3)}, "log_content"),
        ({"log_content": torch.tensor([0.0, 400.0])}, "400 nats"),
        ({"weights": torch.tensor([1.0, 0.0])}, "weights"),
        ({"base": torch.full((2, 2), torch.nan)}, "NaN"),
        ({"tol": 0.0}, "tol"),
    ],
)
def test_wrong_arguments_are_named(change, message, unchecked):
    given = {
        "base": torch.zeros(2, 2), "log_content": torch.zeros(2), "targets": torch.zeros(2, 2)
    } | change  # fmt: skip
    with pytest.raises(pi.PrefixInterpError, match=message):
        common_numerator_floor(**given)


def test_targets_of_another_shape_are_named(unchecked):
    with pytest.raises(pi.PrefixInterpError, match=r"give \(1, 3, 1, 96\)"):
        unreachable(
            pi.load_toy("sort-ascending-1l1h"), torch.zeros(1, 3).long(), torch.zeros(1, 3, 96)
        )
