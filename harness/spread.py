"""Some of many, evenly spread: how describers and judges choose among what is ordered by activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return ``count`` items at equal distances, in their order.

    The first and the last are among them; of a single one it is the middle, the later of two. All, if there are no
    more; none, if ``count`` is not above 0.
    """
    if count >= len(items):
        return list(items)
    if count <= 1:
        return [items[len(items) // 2]] if count == 1 else []
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
