from dataclasses import replace

import pandas as pd
import pytest
import torch

from prefix_interp.errors import PrefixInterpError
from prefix_interp.estimates import Estimate
from prefix_interp.tuning.evaluate import Evaluation
from prefix_interp.views.fits import history_figure, scores_figure, search_figure


def test_scores_are_bars_with_intervals():
    exact, token = Estimate(0.2, 0.1, 0.4), Estimate(0.9, 0.8, 0.95)
    evaluation = Evaluation("add_one", 100, exact, token, Estimate(1.5, 1.25, 1.75))
    left, right = scores_figure(evaluation).axes
    assert [p.get_width() for p in left.patches] == [0.2, 0.9]
    assert [t.get_text() for t in left.get_yticklabels()] == ["exact match", "token accuracy"]
    spans = [segment[:, 0].tolist() for segment in left.collections[0].get_segments()]
    assert spans == [pytest.approx([0.1, 0.4]), pytest.approx([0.8, 0.95])]
    assert [p.get_width() for p in right.patches] == [1.5] and right.get_xlim()[0] == 0
    assert right.get_xlabel() == "nats per output"
    choice = replace(evaluation, choice=Estimate(0.7, 0.6, 0.8))
    left, _ = scores_figure(choice).axes
    assert [p.get_width() for p in left.patches] == [0.2, 0.9, 0.7]


def test_each_run_of_a_history_is_a_line():
    history = pd.DataFrame(
        {"step": [10, 10, 20, 20], "run": ["a", "b"] * 2, "loss": [3.0, 4.0, 1.0, 2.0]}
    )
    (ax,) = history_figure(history).axes
    assert [line.get_label() for line in ax.lines] == ["a", "b"]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[3, 1], [4, 2]]
    assert [line.get_xdata().tolist() for line in ax.lines] == [[10, 20], [10, 20]]
    with pytest.raises(PrefixInterpError, match="history has 0 runs"):
        history_figure(history[:0])


def test_targets_stand_in_rising_order_and_say_what_is_reached():
    losses = torch.tensor([0.5, 0.1, 2.0, 0.3])
    reached = torch.tensor([True, True, False, False])
    (ax,) = search_figure(losses, reached).axes
    points = {
        line.get_label(): list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for line in ax.lines
    }
    assert points == {
        "reached": [(1, pytest.approx(0.1)), (3, pytest.approx(0.5))],
        "not reached": [(2, pytest.approx(0.3)), (4, 2.0)],
    }
