"""Number of concurrent requests to a server: more while it copes, fewer when it is overloaded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

START = 16  # concurrent requests before anything is known of the server
DECREASE = 0.5  # factor on the limit when the server is overloaded


@dataclass
class Slot:
    """One request under way. Whoever sends the request sets ``answered`` and ``overloaded``.

    Attributes:
        epoch: how often the limit had been lowered when the request started.
        answered: whether the server answered.
        overloaded: whether the server was overloaded: it refused a request for that reason, or took too long.
    """

    epoch: int
    answered: bool = False
    overloaded: bool = False


class AdaptiveLimit:
    """Additive increase, multiplicative decrease (Chiu and Jain 1989), as in TCP's congestion control.

    Until the server is overloaded for the first time, the limit grows by one with every answer, which doubles it in
    each round; from then on by one in each round. It grows only while requests wait for it. An overload halves it, once
    for all requests that were under way at that time.

    Args:
        maximum: upper bound of the limit.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.under_way = 0
        #: Current limit on concurrent requests.
        self.limit = min(START, maximum)
        self._slots = asyncio.Semaphore(self.limit)
        self._excess = 0  # slots that are taken away when they become free, because the limit fell
        self._answers = 0  # since the limit last grew
        self._epoch = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Wait for a slot, first come first served, and release it at the end."""
        await self._slots.acquire()
        self.under_way += 1
        slot = Slot(self._epoch)
        try:
            yield slot
        finally:
            self.under_way -= 1
            before = self.limit
            self._adapt(slot)
            free = 1 + self.limit - before - self._excess
            self._excess = max(0, -free)
            for _ in range(free):
                self._slots.release()

    def _adapt(self, slot: Slot) -> None:
        if slot.overloaded:
            if slot.epoch == self._epoch:
                self.limit = max(1, int(self.limit * DECREASE))
                self._epoch += 1
                self._answers = 0
        elif slot.answered and self._slots.locked() and self.limit < self.maximum:
            self._answers += 1
            if not self._epoch or self._answers >= self.limit:
                self.limit += 1
                self._answers = 0
