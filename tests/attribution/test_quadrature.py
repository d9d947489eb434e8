import math

import pytest
import torch

from prefix_interp.attribution.quadrature import FIRST_PIECES, NODES, integrate_path, lobatto


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_lobatto_is_exact_for_polynomials_of_its_degree(n):
    x, w = lobatto(n)
    assert float(x[0]) == 0 and float(x[-1]) == 1 and len(x) == n
    for degree in range(2 * n - 2):
        assert float((w * x**degree).sum()) == pytest.approx(1 / (degree + 1), rel=1e-12)
    assert float((w * x ** (2 * n - 2)).sum()) != pytest.approx(1 / (2 * n - 1), rel=1e-12)


def step(sharpness, calls=None):
    """Two examples and three shares: a smooth jump, somewhere else in each example."""
    centre = torch.tensor([0.3, 0.71], dtype=torch.float64)
    parts = torch.tensor([0.5, 0.75, -0.25], dtype=torch.float64)

    def evaluate(at):
        if calls is not None:
            calls.append(len(at))
        x = (at[:, None] - centre) * sharpness
        slope = sharpness / torch.cosh(x) ** 2
        return x.tanh(), parts[:, None] * slope[:, None]

    def exact(share, example):
        ends = [math.tanh((e - float(centre[example])) * sharpness) for e in (0, 1)]
        return float(parts[share]) * (ends[1] - ends[0])

    return evaluate, exact


@pytest.mark.parametrize("sharpness", [1.0, 20.0, 3000.0])
def test_a_jump_is_found_wherever_it_is(sharpness):
    evaluate, exact = step(sharpness)
    found = integrate_path(evaluate, 1e-6, 100_000, 64)
    assert found.values.shape == (3, 2)
    for share in range(3):
        for example in range(2):
            assert abs(float(found.values[share, example]) - exact(share, example)) < 2e-6
    assert found.error.max() <= 1e-6


def test_steep_paths_take_more_steps_and_smooth_ones_few():
    steps = [integrate_path(step(s)[0], 1e-4, 100_000, 64).steps for s in (1.0, 20.0, 3000.0)]
    assert steps[0] == NODES * FIRST_PIECES < steps[1] < steps[2]


def test_it_stops_and_tells_the_error_that_is_left():
    calls = []
    evaluate, exact = step(3000.0, calls)
    found = integrate_path(evaluate, 1e-6, 60, 5)
    assert found.steps == sum(calls) <= 60 and max(calls) == 5
    missed = [abs(float(found.values[:, b].sum()) - 2 * exact(0, b)) for b in range(2)]
    assert max(missed) > 1e-3
    for b in range(2):
        assert float(found.error[b]) >= missed[b] - 1e-12
