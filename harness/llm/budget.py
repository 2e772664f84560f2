"""Stop querying a method's LLM once too many of its requests fail.

A dead server, or a prompt that a model cannot answer, must not cost a night of requests.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from harness.llm.client import LLMClient, Reply, Stopped, WrappedClient
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


class BudgetedClient(WrappedClient):
    """Passes calls on until the budget is spent; then raises :class:`Stopped`.

    The cache wraps it: cached answers need neither a preflight nor a server, and still come once the budget is spent.

    Args:
        client: the client that is called.
        budget: the method's budget.
        prove: must succeed before the first call.
    """

    def __init__(self, client: LLMClient, budget: FailureBudget, prove: Callable[[], Awaitable[None]]) -> None:
        super().__init__(client)
        self._budget, self._prove = budget, prove

    async def ready(self) -> None:
        """Wait for the preflight, or raise :class:`Stopped` if the budget is spent."""
        if self._budget.spent:
            raise Stopped(self._budget.spent)
        await self._prove()

    async def _call(self, call: Callable[[LLMClient], Awaitable[Reply]]) -> Reply:
        await self.ready()
        return await call(self._client)
