"""Stop querying LLMs: a method's once too many of its requests fail, and all once the run has spent what it may.

A dead server, or a prompt that a model cannot answer, must not cost a night of requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from harness.llm.client import Completion, LLMClient, Price, Reply, Stopped, WrappedClient
from harness.records import Status

logger = logging.getLogger(__name__)


class FailureBudget:
    """The fraction of a method's answers that may fail before its LLM is called no more.

    Only items that called an LLM in this run count: a neuron without evidence fails at no cost, and cached answers say
    nothing about the state of the LLM.

    Args:
        name: the method's name.
        fraction: fraction of the answers that may fail; None for no limit.
        minimum: number of answers before the fraction is checked.
    """

    def __init__(self, name: str, fraction: float | None, minimum: int) -> None:
        self._name, self._fraction, self._minimum = name, fraction, minimum
        self._answers = self._failures = 0
        self._last_failure = ""
        #: Why no more requests are sent; empty while the budget lasts.
        self.spent = ""

    def count(self, status: Status, detail: str) -> None:
        """Count an answer."""
        self._answers += 1
        if status is not Status.OK:
            self._failures += 1
            self._last_failure = detail
        if self.spent or self._fraction is None or self._answers < self._minimum:
            return
        if self._failures > self._fraction * self._answers:
            self.spent = (
                f"{self._failures} of the first {self._answers} answers to {self._name} failed, more than "
                f"serving.failure_budget={self._fraction:g} allows"
            )
            logger.warning(
                "%s ends early: %s; the rest count as failed, and are asked when the run is started again. Last: %s",
                *(self._name, self.spent, self._last_failure),
            )


class SpendingLimit:
    """The number of calls, and the cost, after which a run calls no LLM any more.

    The cost of a call is known when its answer comes. So a call is sent only if it and those under way would not exceed
    the limit if each cost as much as the most expensive one so far; otherwise it waits for answers. Cached answers and
    the checks of servers do not count.

    Args:
        max_calls: number of calls; None for no limit.
        max_cost: cost by ``llm.ROLE.price``; None for no limit.
        calls: calls that the run has sent before.
        cost: what it has paid before.
    """

    def __init__(
        self, max_calls: int | None = None, max_cost: float | None = None, calls: int = 0, cost: float = 0.0
    ) -> None:
        self._max_calls, self._max_cost, self._calls, self._cost = max_calls, max_cost, calls, cost
        self._under_way = 0
        #: Cost of the most expensive answer; None before the first.
        self._highest: float | None = None
        self._changed = asyncio.Condition()
        #: Why no more requests are sent; empty while the limit is not reached.
        self.spent = ""

    async def send(self, call: Callable[[], Awaitable[Reply]], price: Price | None) -> Reply:
        """Return the answer to a call, which is sent if the limit allows it.

        Raises:
            Stopped: if it does not.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._reached() or price is None or self._fits())
            if self.spent:
                raise Stopped(self.spent)
            self._calls += 1
            self._under_way += 1
        cost = 0.0
        try:
            reply = await call()
            if price is not None:
                tokens = reply.completion_tokens if isinstance(reply, Completion) else 0
                cost = price.cost(reply.prompt_tokens, tokens)
        finally:
            async with self._changed:
                self._under_way -= 1
                self._cost += cost
                if price is not None:
                    self._highest = max(self._highest or 0.0, cost)
                self._changed.notify_all()
        return reply

    def _fits(self) -> bool:
        if self._max_cost is None or not self._under_way:
            return True
        return self._highest is not None and self._cost + (self._under_way + 1) * self._highest <= self._max_cost

    def _affords(self) -> bool:
        assert self._max_cost is not None
        return self._cost < self._max_cost and self._cost + (self._highest or 0.0) <= self._max_cost

    def _reached(self) -> bool:
        if self.spent:
            return True
        if self._max_calls is not None and self._calls >= self._max_calls:
            self.spent = f"the run has sent {self._calls} LLM calls, and serving.max_calls={self._max_calls} is reached"
        elif self._max_cost is not None and not self._under_way and not self._affords():
            self.spent = f"the run has paid {self._cost:,.4g}, and serving.max_cost={self._max_cost:g} is reached"
        if self.spent:
            logger.warning(
                "%s; the rest count as failed, and are asked when the run is started again with a higher limit",
                self.spent,
            )
        return bool(self.spent)


class BudgetedClient(WrappedClient):
    """Passes calls on until the budget or the run's limit is spent; then raises :class:`Stopped`.

    The cache wraps it: cached answers need neither a preflight nor a server, and still come once the budget is spent.

    Args:
        client: the client that is called.
        budget: the method's budget.
        prove: must succeed before the first call.
        limit: the run's limit.
        price: price of the client's tokens, if known.
    """

    def __init__(
        self,
        client: LLMClient,
        budget: FailureBudget,
        prove: Callable[[], Awaitable[None]],
        limit: SpendingLimit | None = None,
        price: Price | None = None,
    ) -> None:
        super().__init__(client)
        self._budget, self._prove, self._limit, self._price = budget, prove, limit or SpendingLimit(), price

    async def ready(self) -> None:
        """Wait for the preflight, or raise :class:`Stopped` if the budget is spent."""
        if self._budget.spent:
            raise Stopped(self._budget.spent)
        await self._prove()

    async def _call(self, call: Callable[[LLMClient], Awaitable[Reply]]) -> Reply:
        await self.ready()
        return await self._limit.send(lambda: call(self._client), self._price)
