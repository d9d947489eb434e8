import pandas as pd
import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.copying import copying_figure


def test_copying_points_are_filled_where_elicited():
    heads = pd.DataFrame(
        {"tuned_on": ["x", "x", "y"], "copy": [0.1, 0.9, 0.5], "gate_first": [1.0, 0.0, 0.3],
         "elicited": [True, False, True]}
    )  # fmt: skip
    figure = copying_figure(heads)
    assert [ax.get_title() for ax in figure.axes] == ["x", "y"]
    filled, empty = figure.axes[0].lines
    assert filled.get_xdata().tolist() == [0.1] and empty.get_xdata().tolist() == [0.9]
    with pytest.raises(PrefixInterpError, match="heads is empty"):
        copying_figure(heads[:0])
