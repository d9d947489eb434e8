"""What a run needs that resumes in the middle of a model, with the prefix mixed in by hooks."""

from __future__ import annotations

from collections.abc import Sequence

from prefix_interp.models.sites import Site
from prefix_interp.prefixes.layout import Hook

_READ_BY_MIXTURE = tuple(
    site.value.rsplit("}", 1)[-1] for site in (Site.RESID_PRE, Site.Q, Site.K, Site.V)
)


def around_mixture(hooks: Sequence[Hook]) -> tuple[list[Hook], list[Hook]]:
    """Return the hooks that must stand before those of the mixture, and those behind them.

    Patches of queries, keys and values come before the mixture, which reads them; patches of its
    output come after. One list would put them all on one side.
    """
    early, late = [], []
    for hook in hooks:
        (early if str(hook[0]).endswith(_READ_BY_MIXTURE) else late).append(hook)
    return early, late
