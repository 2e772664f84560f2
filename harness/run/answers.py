"""Run describers and judges on many items at once, and record each answer or failure as soon as it is there."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from harness.errors import HarnessError
from harness.folder import Answer, Journal
from harness.llm.budget import BudgetedClient, FailureBudget
from harness.llm.client import LLMClient, NotCached, Price, ReseededClient, Stopped
from harness.llm.metering import MeteredClient
from harness.llm.serving import Serving
from harness.methods import Method, outcome
from harness.records import Description, PlantedAnswer, Score, Status, Usage, Verdict
from harness.run.progress import progress
from harness.run.setup import Setup

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items in progress at once, to bound memory. The LLM client bounds its requests itself.
IN_PROGRESS = 256


class Clients(dict[str, LLMClient]):
    """The LLMs of one method by role, with their token prices and the method's failure budget."""

    def __init__(
        self, clients: Mapping[str, LLMClient], prices: Mapping[str, Price | None], budget: FailureBudget
    ) -> None:
        super().__init__(clients)
        self.prices, self.budget = dict(prices), budget

    def reseeded(self, step: int) -> Clients:
        """Return the LLMs with another seed, ``step`` above theirs."""
        return Clients({role: ReseededClient(llm, step) for role, llm in self.items()}, self.prices, self.budget)


async def attempt(
    llms: Clients, work: Callable[[Mapping[str, LLMClient]], Awaitable[Result]]
) -> tuple[Result | None, Status, str, Usage]:
    """Run one item with metered LLMs, and return its result (None after a failure), status, details and usage.

    An exception of the method fails the item, not the run. Only a HarnessError, which the user can fix, is raised.

    Raises:
        NotCached: if an answer is not stored and no LLM may be called, even if the method catches that exception.
    """
    start = time.monotonic()
    meters = {role: MeteredClient(llm, llms.prices.get(role)) for role, llm in llms.items()}
    result, status, detail = await outcome(work(meters))
    stopped = False
    for error in (meter.not_asked for meter in meters.values()):
        if isinstance(error, NotCached):
            raise error
        if error is not None:  # even if the method returned a partial result: it would never be completed
            result, status, detail, stopped = None, Status.FAILED, error.detail, True
    roles = {role: meter.usage for role, meter in meters.items() if meter.usage.calls}
    usage = Usage.of(roles, time.monotonic() - start)
    # Stored answers, as at the start of a resumed run, say nothing about the LLM's present state.
    if not stopped and any(used.calls > used.cached_calls for used in roles.values()):
        llms.budget.count(status, detail)
    return result, status, detail, usage


def clients_of(
    name: str, method: Method, setup: Setup, serving: Serving, budget: FailureBudget | None = None
) -> Clients:
    """Return the LLM of each role that the method uses and the run has.

    A managed server starts, and is checked, at the first request without a stored answer. The default budget is that of
    the config.
    """
    budget = budget or serving.budget(name)
    proof = functools.partial(prove, name, method, setup, serving)
    clients = {
        role: serving.cached(role, BudgetedClient(client, budget, proof, serving.limit, setup.backends[role].price))
        for role, client in _plain_clients(method, setup, serving).items()
    }
    return Clients(clients, {role: setup.backends[role].price for role in clients}, budget)


def _plain_clients(method: Method, setup: Setup, serving: Serving) -> dict[str, LLMClient]:
    """Return the LLM of each role that the method uses and the run has, without cache and failure budget."""
    roles = {role: needs for role, needs in method.roles.items() if role in setup.backends}
    return {role: serving.client(role, needs_logprobs=needs) for role, needs in roles.items()}


async def prove(name: str, method: Method, setup: Setup, serving: Serving) -> None:
    """Check once per run that the LLMs of a method can do what it needs, and log the findings.

    Raises:
        HarnessError: if they cannot.
    """

    async def proof() -> None:
        llms = _plain_clients(method, setup, serving)
        if not llms:
            return
        try:
            found = await method.preflight(llms)
        except HarnessError as error:
            raise HarnessError(f"{name}: {error}") from error
        if found:
            logger.info("%s: %s", name, found)

    await serving.once(name, proof)


async def answer_all(
    title: str,
    unit: str,
    items: Sequence[Item],
    answer: Callable[[Item], Awaitable[Answer]],
    journal: Journal[Answer],
) -> None:
    """Answer all items, many at once, and append each answer to the journal when it is there.

    An item keeps its present record if it has no stored answer and no LLM may be called, or if the failure budget is
    spent.
    """
    slots = asyncio.Semaphore(IN_PROGRESS)
    failures: list[Answer] = []

    async def one(item: Item, advance: Callable[[int], None]) -> None:
        async with slots:
            try:
                record = await answer(item)
            except NotCached:
                advance(1)
                return
        known = journal.latest(record)
        if known is not None and record.status is Status.FAILED and Stopped.caused(_reason(record)):
            record = dataclasses.replace(known, usage=record.usage)
        journal.append(record)
        if record.status is not Status.OK:
            failures.append(record)
        advance(1)

    with progress(title, len(items), unit) as bar:
        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item, bar))
        except BaseExceptionGroup as errors:
            user_errors, others = errors.split(HarnessError)
            if user_errors is None or others is not None:
                raise
            raise HarnessError(str(user_errors.exceptions[0])) from errors
    if failures:
        logger.warning("%s: %d of %d failed, for example: %s", title, len(failures), len(items), _reason(failures[-1]))


def _reason(record: Description | Verdict | Score | PlantedAnswer) -> str:
    return record.reason if isinstance(record, Verdict) else record.detail
