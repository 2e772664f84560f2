"""Choose evenly spaced items of a sequence, such as exemplars ordered by activation, and the lowest quarter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return ``count`` evenly spaced items in their order, including the first and the last.

    For ``count`` 1 this is the middle item (the later of two). All items are returned if there are at most ``count``.
    """
    if count >= len(items):
        return list(items)
    if count <= 1:
        return [items[len(items) // 2]] if count == 1 else []
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]


def lowest_quarter(peaks: Sequence[float]) -> float:
    """Return the highest value in the lowest quarter of ``peaks``, which has at least one; -infinity if empty.

    A neuron is called silent on windows whose peaks are at most this, because a dense neuron is never near zero.
    """
    return sorted(peaks)[max(0, math.ceil(len(peaks) / 4) - 1)] if peaks else -math.inf
