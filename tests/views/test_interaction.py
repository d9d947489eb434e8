import numpy as np
import pytest

from prefix_interp.errors import PrefixInterpError
from prefix_interp.views.interaction import interaction_figure
from tests.views.drawn import pairs_of_inputs


def test_a_panel_shows_the_strength_of_each_pair_and_no_diagonal():
    found = {"no prefix": pairs_of_inputs(4), "tuned": pairs_of_inputs(4, seed=1)}
    figure = interaction_figure(found)
    for ax, (name, one) in zip(figure.axes, found.items(), strict=False):
        shown = np.ma.filled(ax.images[0].get_array(), np.nan)
        assert np.isnan(shown.diagonal()).all()
        off = ~np.eye(4, dtype=bool)
        assert shown[off] == pytest.approx(one.strength().numpy()[off])
        assert ax.get_title() == f"{name}\n{one.relative:.2f}"
        assert ax.images[0].get_clim() == pytest.approx((0, shown[off].max()))


def test_too_many_panels_are_refused():
    with pytest.raises(PrefixInterpError, match="found has 7 entries; give 1 to 6"):
        interaction_figure({str(i): pairs_of_inputs(3) for i in range(7)})
    with pytest.raises(PrefixInterpError, match="found has 0 entries"):
        interaction_figure({})
