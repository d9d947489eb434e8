"""The paper that a figure is drawn on: its size, and what makes text fit into it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator

from prefix_interp.errors import PrefixInterpError, check_choice
from prefix_interp.figure_files import WIDTHS, Size, Width
from prefix_interp.views.style import POINTS, look

_SMALLEST, _LARGEST = 1.0, 100.0  # inches
_FEWEST_POINTS = 7.0
_GAP = 0.35  # between two labels, as a share of the size of their text
_PASSES = 6


class Sheet:
    """Room for one figure, and how large text on it is.

    Attributes:
        width: inches that the caller asked for; None if the figure has its own size.
        height: as `width`.
        points: size of the text.
    """

    def __init__(self, figsize: Size | None, width: Width | str | None) -> None:
        self.width, self.height = _asked(figsize, width)
        self.points = POINTS
        if self.width is not None:
            side = min(self.width, 1.6 * (self.height or self.width))
            self.points = min(POINTS, max(_FEWEST_POINTS, 5.0 + 0.75 * side))
        self.figures: list[Figure] = []

    def columns(self, n: int, each: float, extra: float = 0.5, own: float = math.inf) -> int:
        """Return how many of `n` panels stand side by side, at least one.

        Args:
            n: number of panels.
            each: smallest width of a panel, in inches.
            extra: width of what stands beside them.
            own: width that a figure of its own size may have.
        """
        room = own if self.width is None else self.width
        return n if room == math.inf else min(n, max(1, int((room - extra) / each)))

    def figure(self, width: float, height: float) -> Figure:
        """Return an empty figure; its own size is `width` x `height` inches.

        Where the caller gave a width alone, the height follows the size of the text.
        """
        if self.width is not None:
            width, height = self.width, self.height or height * self.points / POINTS
        self.figures.append(Figure(figsize=(width, height), layout="constrained"))
        return self.figures[-1]


@contextmanager
def sheet(figsize: Size | None = None, width: Width | str | None = None) -> Iterator[Sheet]:
    """Give the room for a figure in the package's style; on leaving, its text is made to fit.

    Args:
        figsize: width and height in inches, each 1 to 100.
        width: ``"column"`` (3.25 inches) or ``"page"`` (6.75) in place of `figsize`; the height
            follows from what is drawn.

    Raises:
        PrefixInterpError: both, or a size that is not possible.
    """
    found = Sheet(figsize, width)
    with look(found.points):
        yield found
        for figure in found.figures:
            fit(figure)


def _asked(
    figsize: Size | None, width: Width | str | None
) -> tuple[float, float] | tuple[float, None] | tuple[None, None]:
    if width is not None:
        if figsize is not None:
            raise PrefixInterpError(
                f"figsize={figsize!r} and width={width!r} exclude each other; give one"
            )
        check_choice("width", width, tuple(WIDTHS))
        return WIDTHS[width], None
    if figsize is None:
        return None, None
    try:
        wide, high = map(float, figsize)
    except (TypeError, ValueError):
        wide = high = math.nan
    if not (_SMALLEST <= wide <= _LARGEST and _SMALLEST <= high <= _LARGEST):
        raise PrefixInterpError(
            f"figsize={figsize!r} must be a width and a height of {_SMALLEST:g} to {_LARGEST:g} "
            'inches; or give width="column"'
        )
    return wide, high


def fit(figure: Figure) -> None:
    """Wrap titles and labels that are too long, and thin tick labels that overlap.

    What changes makes other room for the rest, so it is looked at again after each pass.
    """
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    for axis in axes:
        _thinned_at_sight(axis)
    for _ in range(_PASSES):
        figure.draw_without_rendering()
        changed = [_thinned(axis) for axis in axes]
        changed += [_wrapped(text, room) for text, room in _long_texts(figure)]
        if not any(changed):
            return
    figure.draw_without_rendering()


def _thinned_at_sight(axis: Axis) -> None:
    """Leave out labels of which no line of text could hold as many: each costs time."""
    locator, figure = axis.get_major_locator(), axis.get_figure(root=True)
    if not isinstance(locator, FixedLocator) or figure is None:
        return
    inches = figure.get_figwidth() if isinstance(axis, XAxis) else figure.get_figheight()
    names = [label.get_text() for label in axis.get_majorticklabels()]
    step = math.ceil(len(names) * 0.5 * _FEWEST_POINTS / (72 * inches))
    if step > 1:
        step = _even(step, names)
        axis.set_ticks(list(axis.get_majorticklocs())[::step], names[::step])


def _thinned(axis: Axis) -> bool:
    """Leave out every second, third, ... label if neighbours overlap; return whether it did."""
    labels = _shown(axis)
    step = _step(labels, axis)
    if step == 1:
        return False
    locator = axis.get_major_locator()
    if isinstance(locator, FixedLocator):
        names = [label.get_text() for label in axis.get_majorticklabels()]
        if isinstance(axis, XAxis) and _words(names) and not labels[0].get_rotation():
            axis.set_tick_params(rotation=90)
            return True
        at = list(axis.get_majorticklocs())
        step = _even(step, names)
        axis.set_ticks(at[::step], names[::step])
    elif isinstance(locator, LogLocator):
        axis.set_major_locator(LogLocator(numticks=max(2, len(labels) // step)))
    else:
        whole = all(_whole(label.get_text()) for label in labels)
        axis.set_major_locator(MaxNLocator(max(1, (len(labels) - 1) // step), integer=whole))
    return True


def _shown(axis: Axis) -> list[Text]:
    low, high = sorted(axis.get_view_interval())
    slack = 1e-9 * (high - low)
    return [
        tick.label1
        for tick in axis.get_major_ticks()
        if tick.label1.get_visible()
        and tick.label1.get_text()
        and low - slack <= tick.get_loc() <= high + slack
    ]


def _step(labels: Sequence[Text], axis: Axis) -> int:
    """Return the smallest step at which no label overlaps the next."""
    across = isinstance(axis, XAxis)
    boxes = [label.get_window_extent() for label in labels]
    ends = sorted((b.x0, b.x1) if across else (b.y0, b.y1) for b in boxes)
    if not labels:
        return 1
    gap = _GAP * labels[0].get_fontsize() * labels[0].get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    for step in range(1, len(ends)):
        kept = ends[::step]
        if all(a[1] + gap <= b[0] for a, b in pairwise(kept)):
            return step
    return max(1, len(ends))


def _even(step: int, names: Sequence[str]) -> int:
    """Return a step, at least `step`, that lands on the first head of each layer if it can."""
    group = sum(name.rpartition(".")[0] == names[0].rpartition(".")[0] for name in names)
    if not 1 < group < len(names):
        return step
    return next(k for k in range(step, step * group + group) if group % k == 0 or k % group == 0)


def _words(names: Sequence[str]) -> bool:
    found = [name for name in names if name]
    letters = [name for name in found if any(x.isalpha() for x in name)]
    return 2 * len(letters) > len(found) and max(map(len, letters)) > 2


def _whole(text: str) -> bool:
    return "." not in text and "$" not in text


def _long_texts(figure: Figure) -> Iterator[tuple[Text, float]]:
    """Yield titles and labels with the pixels that each may be long."""
    if (title := figure._suptitle) is not None:  # type: ignore[attr-defined]
        yield title, figure.bbox.width
    for ax in figure.axes:
        wide, high = _room(ax, figure)
        # All three titles of a panel: only those with text matter.
        for text in (ax.title, ax._left_title, ax.xaxis.label):  # type: ignore[attr-defined]
            yield text, wide
        yield ax.yaxis.label, high


def _room(ax: Axes, figure: Figure) -> tuple[float, float]:
    """Return how long a text across and a text along the side of a panel may be.

    A panel that has the whole width or height of the figure may use it, as far as a text in its
    middle can.
    """
    box, whole = ax.bbox, figure.bbox
    spec = ax.get_subplotspec()
    rows, columns = (1, 1) if spec is None else spec.get_gridspec().get_geometry()
    wide, high = box.width, box.height
    if columns == 1 and spec is not None:
        wide = 2 * min((box.x0 + box.x1) / 2, whole.width - (box.x0 + box.x1) / 2)
    if rows == 1:
        high = 2 * min((box.y0 + box.y1) / 2, whole.height - (box.y0 + box.y1) / 2)
    return 0.94 * wide, 0.94 * high  # letters of a PDF are up to a twentieth wider


def _wrapped(text: Text, room: float) -> bool:
    """Break a text into lines that fit, or make it smaller; return whether it was too long."""
    words = text.get_text()
    if not words or not text.get_visible():
        return False
    box = text.get_window_extent()
    length = box.width if text.get_rotation() % 180 == 0 else box.height
    if length <= room:
        return False
    longest = max(map(len, words.split("\n")))
    letters = int(longest * room / length)
    if "$" not in words and letters >= max(map(len, words.split())):
        text.set_text(textwrap.fill(" ".join(words.split()), min(letters, longest - 1)))
        return True
    smallest = 0.6 * POINTS * 0.7
    points = float(text.get_fontsize())
    if points <= smallest:
        return False
    text.set_fontsize(max(smallest, points * max(0.8, 0.98 * room / length)))
    return True
