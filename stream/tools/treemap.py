"""Areas in proportion to sizes, as close to squares as they get.

Bruls, Huizing and van Wijk, "Squarified Treemaps". Knows only numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Area(NamedTuple):
    """A rectangle: its left upper corner, its width and its height."""

    x: float
    y: float
    width: float
    height: float


def squarify(sizes: Sequence[int], area: Area) -> list[Area]:
    """Return the part of `area` for each of `sizes`, which are positive and in descending order."""
    areas: list[Area] = []
    total = sum(sizes)
    start = 0
    while start < len(sizes):
        short = min(area.width, area.height)
        scale = area.width * area.height / total
        end, row = start + 1, sizes[start]
        largest = row * scale
        worst = _worst(largest, largest, row * scale, short)
        while end < len(sizes):
            longer = row + sizes[end]
            ratio = _worst(largest, sizes[end] * scale, longer * scale, short)
            if ratio > worst:
                break
            end, row, worst = end + 1, longer, ratio
        area = _lay_row(sizes[start:end], row, row / total, area, areas)
        start, total = end, total - row
    return areas


def _worst(largest: float, smallest: float, row: float, short: float) -> float:
    """Return the worst ratio of sides in a row of the area `row` along the `short` side."""
    thickness = row / short
    return max(largest / thickness**2, thickness**2 / smallest)


def _lay_row(sizes: Sequence[int], row: int, share: float, area: Area, areas: list[Area]) -> Area:
    """Append the areas of a row, which takes `share` of `area`; return what is left of that."""
    at = 0.0
    x, y, width, height = area
    for size in sizes:
        part = size / row
        if width < height:
            areas.append(Area(x + at * width, y, part * width, share * height))
        else:
            areas.append(Area(x, y + at * height, share * width, part * height))
        at += part
    if width < height:
        return Area(x, y + share * height, width, (1 - share) * height)
    return Area(x + share * width, y, (1 - share) * width, height)
