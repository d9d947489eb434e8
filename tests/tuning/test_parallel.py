import pytest
import torch

import prefix_interp as pi
from prefix_interp.tuning.parallel import run_parallel


def square(x, plus=0):
    return x * x + plus


def trained(seed):
    cfg = pi.ToyConfig(n_heads=1, d_model=16)
    return pi.pretrain(cfg, "add_one", preset="smoke", seed=seed, progress=False).model.W_U.detach()


def test_order_and_arguments():
    assert run_parallel(square, [3, 1, 2], n_jobs=2, plus=1, progress=False) == [10, 2, 5]
    with pytest.raises(pi.PrefixInterpError, match="n_jobs=0"):
        run_parallel(square, [1], n_jobs=0)


@pytest.mark.slow
def test_the_number_of_jobs_does_not_change_a_bit():
    here = [trained(seed) for seed in (0, 1)]
    apart = run_parallel(trained, [0, 1], n_jobs=2, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(here, apart, strict=True))
