"""An end to asking where too much fails: a dead server or a prompt that a model cannot answer must not cost a night."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from harness.llm.client import Completion, LLMClient, Message, PromptLogprobs, Sampling, Stopped
from harness.records import Status

logger = logging.getLogger(__name__)


class FailureBudget:
    """How many of a method's answers may fail before it is asked no further.

    Only items that asked an LLM in this run count: a neuron without evidence fails at no cost, and what a cache holds
    says nothing of how an LLM does now.

    Args:
        name: the method.
        share: share of the answers that may fail; none for all.
        minimum: answers waited for before the share is looked at.
    """

    def __init__(self, name: str, share: float | None, minimum: int) -> None:
        self._name, self._share, self._minimum = name, share, minimum
        self._asked = self._failed = 0
        self._last = ""
        #: Why nothing more is asked; empty while the budget lasts.
        self.spent = ""

    def count(self, status: Status, detail: str) -> None:
        """Count an answer."""
        self._asked += 1
        if status is not Status.OK:
            self._failed += 1
            self._last = detail
        if self.spent or self._share is None or self._asked < self._minimum:
            return
        if self._failed > self._share * self._asked:
            self.spent = (
                f"{self._failed} of the first {self._asked} answers to {self._name} failed, more than "
                f"serving.failure_budget={self._share:g} allows"
            )
            logger.warning(
                "%s ends early: %s; the rest count as failed, and are asked when the run is started again. Last: %s",
                *(self._name, self.spent, self._last),
            )


class BudgetedClient(LLMClient):
    """Passes calls on until the budget is spent; then it asks no more, and says so as a failure.

    It belongs beneath the cache: stored answers need neither a proof nor a server, and come when the budget is spent.

    Args:
        client: who is asked.
        budget: the method's.
        prove: what must succeed before the first call.
        concurrency: most calls passed on at once, so that few are under way when the budget is spent.
    """

    def __init__(
        self, client: LLMClient, budget: FailureBudget, prove: Callable[[], Awaitable[None]], concurrency: int
    ) -> None:
        self.sampling = client.sampling
        self._places = asyncio.Semaphore(concurrency)
        self._client, self._budget, self._prove = client, budget, prove

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on."""
        async with self._places:
            await self.ready()
            return await self._client.generate(messages, schema=schema, sampling=sampling)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Pass the call on."""
        async with self._places:
            await self.ready()
            return await self._client.token_logprobs(messages, top=top)

    async def ready(self) -> None:
        """Wait for the proof.

        Raises:
            Stopped: if the budget is spent.
        """
        if self._budget.spent:
            raise Stopped(self._budget.spent)
        await self._prove()
