"""How many requests a server is sent at once: more while it keeps up, fewer when it does not."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

START = 16  # requests at once before anything is known of the server
DECREASE = 0.5  # what is left of the limit when the server is overrun


@dataclass
class Place:
    """One request under way.

    Attributes:
        epoch: how often the limit had been lowered when it started.
        kept_up: whether the server answered in time; set by who sent the request.
        overrun: whether the server said that it was asked for too much, or took too long; likewise.
    """

    epoch: int
    kept_up: bool = False
    overrun: bool = False


class AdaptiveLimit:
    """Additive increase, multiplicative decrease (Chiu and Jain 1989), as TCP finds what a line can carry.

    Until the server is overrun for the first time the limit grows by one with every answer, which doubles it in each
    round; from then on by one in each round. It grows only while it is what holds requests back. An overrun halves it,
    once for all requests that were under way at that time: they tell of the same event.

    Args:
        maximum: most requests at once, however well the server keeps up.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.under_way = 0
        #: Most requests at once, as things stand.
        self.limit = min(START, maximum)
        self._answers = 0  # since it last grew
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._epoch = 0

    @property
    def load(self) -> float:
        """Requests under way or waiting, as a share of the limit."""
        return (self.under_way + len(self._waiting)) / self.limit

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Place]:
        """Wait for a place in order of arrival, and give it back at the end."""
        await self._enter()
        place = Place(self._epoch)
        try:
            yield place
        finally:
            self._leave(place)

    async def _enter(self) -> None:
        if not self._waiting and self.under_way < self.limit:
            self.under_way += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # the place came in the same moment: pass it on
                self.under_way -= 1
            else:
                self._waiting.remove(turn)
            self._call()
            raise

    def _leave(self, place: Place) -> None:
        held_back = bool(self._waiting) or self.under_way >= self.limit
        self.under_way -= 1
        if place.overrun:
            if place.epoch == self._epoch:
                self.limit = max(1, int(self.limit * DECREASE))
                self._epoch += 1
                self._answers = 0
        elif place.kept_up and held_back and self.limit < self.maximum:
            self._answers += 1
            if not self._epoch or self._answers >= self.limit:
                self.limit += 1
                self._answers = 0
        self._call()

    def _call(self) -> None:
        while self._waiting and self.under_way < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.under_way += 1
                turn.set_result(None)
