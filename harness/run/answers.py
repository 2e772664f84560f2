"""How describers and judges are run: many items at once, each recorded as soon as it is there, however it ended."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from harness.errors import HarnessError
from harness.folder import Answer, Journal
from harness.llm.budget import BudgetedClient, FailureBudget
from harness.llm.client import LLMClient, NotCached, Price, Stopped
from harness.llm.metering import MeteredClient
from harness.llm.serving import Serving
from harness.methods import Method, outcome
from harness.records import Description, Score, Status, Usage, Verdict
from harness.run.progress import progress
from harness.run.setup import Setup

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items under way at once. The LLM client bounds its requests itself; this bounds memory.
UNDER_WAY = 256


class Clients(Mapping[str, LLMClient]):
    """The LLMs of one method by role, with the prices of their tokens and the method's failure budget."""

    def __init__(
        self, clients: Mapping[str, LLMClient], prices: Mapping[str, Price | None], budget: FailureBudget
    ) -> None:
        self._clients, self.prices, self.budget = dict(clients), dict(prices), budget

    def __getitem__(self, role: str) -> LLMClient:
        return self._clients[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


async def attempt(
    llms: Clients, work: Callable[[Mapping[str, LLMClient]], Awaitable[Result]]
) -> tuple[Result | None, Status, str, Usage]:
    """Run one item with the LLM of each role, metered, and tell its result or why there is none, and what it cost.

    Whatever a method raises is the item's failure, not the run's; only a HarnessError, which is the user's to mend,
    goes through.

    Raises:
        NotCached: if the item cannot be answered without asking, and nothing is to be asked, whatever the method makes
            of it.
    """
    start = time.monotonic()
    meters = {role: MeteredClient(llm, llms.prices.get(role)) for role, llm in llms.items()}
    result, status, detail = await outcome(work(meters))
    if any(meter.not_cached for meter in meters.values()):
        raise NotCached
    if stopped := next((meter.stopped for meter in meters.values() if meter.stopped), ""):
        # Whatever the method made of it: half an answer would never be completed.
        result, status, detail = None, Status.FAILED, stopped
    roles = {role: meter.usage for role, meter in meters.items() if meter.usage.calls}
    usage = Usage.of(roles, time.monotonic() - start)
    # What is only read again, as at the beginning of a run that is taken up, says nothing of the LLM as it is now.
    if any(used.calls > used.cached_calls for used in roles.values()):
        llms.budget.count(status, detail)
    return result, status, detail, usage


def clients_of(name: str, method: Method, setup: Setup, serving: Serving) -> Clients:
    """Return the LLM of each role that a method asks and the run has.

    Its server starts, and has to prove what it can do, at the first question that has no stored answer.
    """
    budget = serving.budget(name)
    proof = functools.partial(prove, name, method, setup, serving)
    clients = {
        role: serving.cached(
            role,
            BudgetedClient(
                serving.client(role, needs_logprobs=needs_logprobs), budget, proof, setup.backends[role].concurrency
            ),
        )
        for role, needs_logprobs in method.roles.items()
        if role in setup.backends
    }
    return Clients(clients, {role: setup.backends[role].price for role in clients}, budget)


async def prove(name: str, method: Method, setup: Setup, serving: Serving) -> None:
    """Let a method prove once in this run that its LLMs can do what it asks of them, and log what it found.

    Raises:
        HarnessError: if they cannot.
    """

    async def proof() -> None:
        llms = {
            role: serving.client(role, needs_logprobs=needs_logprobs)
            for role, needs_logprobs in method.roles.items()
            if role in setup.backends
        }
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
    """Answer every item, many at once, and journal each answer when it is there.

    An item that is not to be asked and has no stored answer, or is held back by a spent budget, keeps the record that
    it has, if any.
    """
    places = asyncio.Semaphore(UNDER_WAY)
    failures: list[Answer] = []

    async def one(item: Item, advance: Callable[[int], None]) -> None:
        async with places:
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
            mistakes, others = errors.split(HarnessError)
            if mistakes is None or others is not None:
                raise
            raise HarnessError(str(mistakes.exceptions[0])) from errors
    if failures:
        logger.warning("%s: %d of %d failed, such as: %s", title, len(failures), len(items), _reason(failures[-1]))


def _reason(record: Description | Verdict | Score) -> str:
    return record.reason if isinstance(record, Verdict) else record.detail
