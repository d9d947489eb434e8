import itertools

import pytest
import torch

import prefix_interp as pi
from prefix_interp.attribution.grid import PatchGrid
from prefix_interp.estimates import bootstrap_interval
from tests.helpers import assert_close


def grid(direction, **more):
    rng = torch.Generator().manual_seed(0)

    def noise(*shape):
        return {
            m: torch.randn(*shape, generator=rng, dtype=torch.float64) for m in ("log_prob", "kl")
        }

    values, on, off = noise(2, 3, 5), noise(5), noise(5)
    return PatchGrid(direction, "z of a head", ("layer", "head"), values, on, off, **more)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_effects_are_those_of_a_loop(direction):
    g = grid(direction)
    for metric in ("log_prob", "kl"):
        on, off = g.on[metric], g.off[metric]
        for i, j in itertools.product(range(2), range(3)):
            value = g.values[metric][i, j]
            effect = [
                float(value[b] - off[b] if direction == "denoise" else on[b] - value[b])
                for b in range(5)
            ]
            assert g.effect(metric)[i, j].tolist() == effect
            share = sum(effect) / sum(float(on[b] - off[b]) for b in range(5))
            assert float(g.recovered(metric)[i, j]) == pytest.approx(share)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patching_everything_recovers_everything(direction):
    g = grid(direction)
    end = g.on if direction == "denoise" else g.off
    whole = {m: end[m].expand(1, -1) for m in end}
    all_of_it = PatchGrid(direction, "all", ("layer",), whole, g.on, g.off)
    assert_close(all_of_it.recovered("kl"), torch.ones(1), 1e-12)


def test_dataframe():
    g = grid("noise", labels={"head": ("a", "b", "c")})
    table = g.to_dataframe(level=0.9)
    assert list(table.columns) == [
        "layer", "head", "metric", "value", "effect", "low", "high", "recovered",
    ]  # fmt: skip
    assert len(table) == 2 * 3 * 2 and set(table["metric"]) == {"log_prob", "kl"}
    for row in table.to_dict("records"):
        at = row["layer"], "abc".index(row["head"])
        effect = g.effect(row["metric"])
        low, high = bootstrap_interval(effect, level=0.9)
        assert row["value"] == pytest.approx(float(g.values[row["metric"]][at].mean()))
        assert row["effect"] == pytest.approx(float(effect[at].mean()))
        assert row["recovered"] == pytest.approx(float(g.recovered(row["metric"])[at]))
        assert (row["low"], row["high"]) == (float(low[at]), float(high[at]))
        assert row["low"] < row["effect"] < row["high"]


def test_unknown_metric():
    for ask in (grid("noise").effect, grid("noise").recovered):
        with pytest.raises(pi.PrefixInterpError, match="metric='loss' is unknown"):
            ask("loss")


def test_the_first_metric_stands_for_none():
    g = grid("denoise")
    assert g.metric_names == ("log_prob", "kl")
    assert (g.effect() == g.effect("log_prob")).all()
    only = PatchGrid("denoise", "z", g.axes, {"kl": g.values["kl"]}, g.on, g.off)
    assert (only.effect() == g.effect("kl")).all()
    assert (only.recovered() == g.recovered("kl")).all()
