"""Where the labels of vertical lines go, so that none covers another label and, if it can be helped, no line.

Called by the reports that draw. Pure geometry: it draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

from gpuplan.reports._svg import text_width

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAP = 5.0
"""Least distance in px between a label and a line or another label."""
_OVERLAP, _CROSSING = 1000, 10
"""Costs, against 1 for each lane a label moves away: an overlap is worse than any crossing, and that than any lane."""


@dataclass(frozen=True)
class Placed:
    """A label beside its line: the line, at x, runs through the lanes up to the label's own."""

    text: str
    x: float
    lane: int
    """0 is nearest to where all lines begin."""
    left: float
    width: float

    @property
    def right(self) -> float:
        """Where the label ends."""
        return self.left + self.width

    @property
    def anchor(self) -> dict[str, str | float]:
        """SVG's x and text-anchor: the text keeps its distance to the line in a narrower font, too."""
        if self.right <= self.x:
            return {"x": self.right, "text_anchor": "end"}
        return {"x": self.left, "text_anchor": "start"}


def place(
    labels: Sequence[tuple[float, str]],
    size: float,
    *,
    lanes: int,
    bounds: tuple[float, float],
    obstacles: Sequence[float] = (),
) -> list[Placed]:
    """Return a place for each label (x of its line in px, text), in order: the cheapest of all combinations.

    With as many lanes as labels, each narrower than a third of the bounds less two gaps, none overlaps and none is
    crossed by another's line: a label can then always go to the outer side of the lines below its lane. `obstacles`
    are lines through all lanes.
    The work grows as (2 lanes) to the power of the labels: it is meant for three.
    """
    choices = [list(_candidates(x, text, size, lanes, bounds)) for x, text in labels]
    best = min(product(*choices), key=lambda chosen: _cost(chosen, obstacles))
    return list(best)


def _candidates(x: float, text: str, size: float, lanes: int, bounds: tuple[float, float]) -> Iterator[Placed]:
    width = text_width(text, size)
    low, high = bounds
    sides = [x + GAP, x - GAP - width]
    inside = [left for left in sides if low <= left and left + width <= high]
    for lane, left in product(range(lanes), inside or [max(low, min(x + GAP, high - width))]):
        yield Placed(text, x, lane, left, width)


def _cost(chosen: Sequence[Placed], obstacles: Sequence[float]) -> int:
    total = sum(label.lane for label in chosen)
    total += _CROSSING * sum(_crosses(x, label) for label, x in product(chosen, obstacles))
    for one, other in combinations(chosen, 2):
        if one.lane == other.lane and one.left < other.right + GAP and other.left < one.right + GAP:
            total += _OVERLAP
        total += _CROSSING * (_stem_crosses(one, other) + _stem_crosses(other, one))
    return total


def _stem_crosses(one: Placed, other: Placed) -> bool:
    """Tell whether the line of one label runs through another label on its way up."""
    return other.lane <= one.lane and _crosses(one.x, other)


def _crosses(x: float, label: Placed) -> bool:
    # A little less than the gap, so that a label is not crossed by its own line when that is an obstacle.
    return label.left - 0.9 * GAP < x < label.right + 0.9 * GAP
