"""What an item's LLM calls cost."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from harness.llm.client import Completion, LLMClient, Message, NotCached, Price, PromptLogprobs, Sampling, Stopped
from harness.records import RoleUsage

Reply = TypeVar("Reply", Completion, PromptLogprobs)


class MeteredClient(LLMClient):
    """Passes one item's calls on to ``client`` and adds up what they cost.

    Cached answers count like any other, so that the figures say what the method costs; those of them stand beside.

    Args:
        client: who is asked.
        price: what tokens cost, if that is known.

    Attributes:
        unasked: whether a question was not asked and its answer not stored, whatever the method made of that.
        stopped: why a question was not asked any more, likewise; empty if none was held back.
    """

    def __init__(self, client: LLMClient, price: Price | None = None) -> None:
        self.sampling = client.sampling
        self.unasked, self.stopped = False, ""
        self._client, self._price = client, price
        self._seconds = 0.0
        #: Calls, tokens in and tokens out: asked for, and from the cache.
        self._all, self._cached = [0, 0, 0], [0, 0, 0]

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on."""
        completion = await self._timed(self._client.generate(messages, schema=schema, sampling=sampling))
        self._add(completion.prompt_tokens, completion.completion_tokens, completion.cached)
        return completion

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Pass the call on."""
        found = await self._timed(self._client.token_logprobs(messages, top=top))
        self._add(found.prompt_tokens, 0, found.cached)
        return found

    async def ready(self) -> None:
        """Pass it on."""
        with self._noted():
            await self._client.ready()

    @property
    def usage(self) -> RoleUsage:
        """What the item cost so far."""
        cost = paid = None
        if self._price is not None:
            cost, cached = self._price.cost(*self._all[1:]), self._price.cost(*self._cached[1:])
            cost, paid = round(cost, 9), round(cost - cached, 9)
        (calls, prompt, completion), (cached_calls, cached_prompt, cached_completion) = self._all, self._cached
        seconds = round(self._seconds, 3)
        return RoleUsage(calls, prompt, completion, seconds, cost, cached_calls, cached_prompt, cached_completion, paid)

    async def _timed(self, call: Awaitable[Reply]) -> Reply:
        start = time.monotonic()
        try:
            with self._noted():
                return await call
        finally:
            self._seconds += time.monotonic() - start

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except NotCached:
            self.unasked = True
            raise
        except Stopped as error:
            self.stopped = error.detail
            raise

    def _add(self, prompt_tokens: int, completion_tokens: int, cached: bool) -> None:
        for sums in [self._all, *([self._cached] if cached else [])]:
            sums[0] += 1
            sums[1] += prompt_tokens
            sums[2] += completion_tokens
