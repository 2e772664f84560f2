"""Calls, tokens, time and cost of one item's LLM requests."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from harness.llm.client import Completion, LLMClient, NotCached, Price, Reply, Stopped, WrappedClient
from harness.records import RoleUsage


class MeteredClient(WrappedClient):
    """Passes one item's calls on to ``client`` and adds up their usage.

    Cached answers count like any other, so that the totals are the method's cost; they are also counted separately.

    Args:
        client: the client that is called.
        price: price of tokens, if known.

    Attributes:
        not_asked: why a request was not sent, even if the method caught the error; None if all were sent.
    """

    def __init__(self, client: LLMClient, price: Price | None = None) -> None:
        super().__init__(client)
        self.not_asked: NotCached | Stopped | None = None
        self._price = price
        self._seconds = 0.0
        #: Calls, prompt tokens and completion tokens: in total, and of cached answers.
        self._all, self._cached = [0, 0, 0], [0, 0, 0]

    async def ready(self) -> None:
        """Wait until the wrapped client is ready."""
        with self._noted():
            await super().ready()

    @property
    def usage(self) -> RoleUsage:
        """The item's usage so far."""
        cost = paid = None
        if self._price is not None:
            cost, cached = self._price.cost(*self._all[1:]), self._price.cost(*self._cached[1:])
            cost, paid = round(cost, 9), round(cost - cached, 9)
        (calls, prompt, completion), (cached_calls, cached_prompt, cached_completion) = self._all, self._cached
        seconds = round(self._seconds, 3)
        return RoleUsage(calls, prompt, completion, seconds, cost, cached_calls, cached_prompt, cached_completion, paid)

    async def _call(self, call: Callable[[LLMClient], Awaitable[Reply]]) -> Reply:
        start = time.monotonic()
        with self._noted():
            try:
                reply = await call(self._client)
            finally:
                self._seconds += time.monotonic() - start
        completion_tokens = reply.completion_tokens if isinstance(reply, Completion) else 0
        for totals in [self._all, self._cached] if reply.cached else [self._all]:
            totals[0] += 1
            totals[1] += reply.prompt_tokens
            totals[2] += completion_tokens
        return reply

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except (NotCached, Stopped) as error:
            self.not_asked = error
            raise
