"""The distance to a gate and a bias of low rank, against a search in plain torch."""

import pytest
import torch

import prefix_interp as pi
from prefix_interp.theory.least_squares import least_distance, nonnegative
from prefix_interp.theory.reach_distance import ReachDistance, reach_distance


def rows(n=40, dim=5, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, dim, generator=rng, dtype=torch.float64)


def searched(t, y, rank, steps=1500, seed=0):
    """The smallest error that Adam finds over free gates and two factors."""
    rng = torch.Generator().manual_seed(seed)
    free = [torch.randn(s, generator=rng).double().requires_grad_()
            for s in ((len(t),), (len(t), rank), (rank, t.shape[1]))]  # fmt: skip
    adam = torch.optim.Adam(free, lr=0.03)
    for _ in range(steps):
        gate, left, right = free
        error = (y - (1 - gate.sigmoid()[:, None]) * t - left @ right).square().sum(1).mean()
        adam.zero_grad()
        error.backward()
        adam.step()
    return float(error.detach())


@pytest.mark.parametrize("rank", [1, 3])
def test_it_is_no_larger_than_what_a_plain_search_finds(rank):
    t, y = rows()
    found = float(reach_distance(t, y, rank).error[0])
    assert found <= min(searched(t, y, rank, seed=s) for s in range(2)) * 1.02


@pytest.mark.parametrize("rank", [1, 2])
def test_what_it_says_can_be_had_with_its_gates(rank):
    t, y = rows(seed=1)
    found = reach_distance(t, y, rank)
    rest = y - (1 - found.gates[0].double())[:, None] * t
    tail = torch.linalg.svdvals(rest)[rank:].square().sum() / len(t)
    assert 0.98 * found.error[0] < tail <= found.error[0] * (1 + 1e-5)
    assert found.gates.min() >= 0 and found.gates.max() <= 1


def test_a_planted_gate_and_bias_are_found_and_one_rank_less_is_not():
    rng = torch.Generator().manual_seed(0)
    t = torch.randn(60, 8, generator=rng).double()
    gate, left = torch.rand(60, 1, generator=rng), torch.randn(60, 2, generator=rng)
    y = (1 - gate) * t + (left @ torch.randn(2, 8, generator=rng)).double()
    found = reach_distance(t, y, (1, 2))
    assert found.share[0] > 0.02 and found.share[1] < 1e-3


def test_more_slots_are_never_worse_and_enough_of_them_reach_everything():
    t, y = rows(seed=2)
    share = reach_distance(t, y, (1, 2, 3, 5)).share
    assert (share[1:] <= share[:-1] + 1e-12).all() and share[0] < 1 and share[-1] < 1e-12


def test_it_can_be_kept_and_shown(tmp_path):
    t, y = rows()
    found = reach_distance(t, y, (1, 2))
    assert torch.equal(ReachDistance.load(found.save(tmp_path / "far")).error, found.error)
    assert found.to_dataframe()["n_slots"].tolist() == [1, 2]
    assert "with 2" in found.caption() and found.plot().axes
    assert reach_distance(t, t, 1).share.item() == 0


@pytest.mark.parametrize(
    ("n_slots", "message"), [(0, "n_slots"), ((2, 1), "rising"), ((), "rising")]
)
def test_wrong_ranks_are_named(n_slots, message):
    with pytest.raises(pi.PrefixInterpError, match=message):
        reach_distance(*rows(), n_slots)


def test_rows_that_do_not_fit_are_named(unchecked):
    t, y = rows()
    with pytest.raises(pi.PrefixInterpError, match="same two axes"):
        reach_distance(t, y[:3], 1)
    with pytest.raises(pi.PrefixInterpError, match="finite"):
        reach_distance(t, y / 0, 1)


def test_nonnegative_least_squares_meets_the_optimality_conditions():
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        matrix, right = torch.randn(8, 12, generator=rng).double(), torch.randn(8, generator=rng)
        x = nonnegative(matrix, right.double())
        gain = matrix.T @ (right.double() - matrix @ x)
        assert (x >= 0).all() and (gain <= 1e-8).all() and (gain * x).abs().max() < 1e-8


def test_the_shortest_key_meets_its_constraints_and_no_shorter_one_does():
    rng = torch.Generator().manual_seed(1)
    below, on = torch.randn(4, 6, generator=rng).double(), torch.randn(6, generator=rng).double()
    limits = torch.tensor([-3.0, -2.0, 1.0, -4.0]).double()
    key = least_distance(below, limits, on, 2.0)
    assert float(on @ key) == pytest.approx(2.0) and (below @ key <= limits + 1e-6).all()
    free = key.clone().requires_grad_()
    adam = torch.optim.Adam([free], lr=2e-3)
    for _ in range(2000):  # a penalty in place of constraints
        missed = (below @ free - limits).clamp_min(0).square().sum() + (on @ free - 2) ** 2
        (free.square().sum() + 1e4 * missed).backward()
        adam.step()
        adam.zero_grad()
    assert float(free.detach().norm()) == pytest.approx(float(key.norm()), rel=0.01)


def test_a_query_inside_the_cone_of_the_others_has_no_key():
    below = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    inside, edge = torch.tensor([1.0, 1.0]).double(), torch.tensor([1.0, -1.0]).double()
    assert least_distance(below, -torch.ones(2).double(), inside, 0.0) is None
    assert least_distance(below[1:], -torch.ones(1).double(), inside, 0.0) is not None
    assert least_distance(below[:1], -torch.ones(1).double(), edge, 0.0) is not None
