"""Remembers the latest results of slow computations that several descriptions or judges share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Identity(Generic[T]):
    """A part of a key that is compared by identity, because it takes long to compare, and kept alive."""

    def __init__(self, value: T) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Remembered(Generic[T]):
    """The latest results by key.

    Args:
        size: number of results that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the result for a key, computed unless it is known."""
        if key not in self._known:
            self._known[key] = compute()
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return self._known[key]
