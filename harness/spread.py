"""Choose evenly spaced items of a sequence, such as exemplars ordered by activation."""

from __future__ import annotations

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
