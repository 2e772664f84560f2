"""How describers and judges are run: many items at once, each recorded as soon as it is there, however it ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from harness.errors import HarnessError
from harness.folder import Answer, Journal
from harness.llm.client import LLMClient, Unanswered
from harness.llm.metering import MeteredClient
from harness.llm.serving import Serving
from harness.methods import Method
from harness.records import Status, Usage
from harness.run.progress import progress
from harness.run.setup import Setup

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Items under way at once. The LLM client bounds its requests itself; this bounds memory.
UNDER_WAY = 256


async def attempt(
    llms: Mapping[str, LLMClient], work: Callable[[Mapping[str, LLMClient]], Awaitable[Result]]
) -> tuple[Result | None, Status, str, Usage]:
    """Run one item with the LLM of each role, metered, and tell its result or why there is none, and what it cost.

    Whatever a method raises is the item's failure, not the run's; only a HarnessError, which is the user's to mend,
    goes through.
    """
    start = time.monotonic()
    meters = {role: MeteredClient(llm) for role, llm in llms.items()}

    def usage() -> Usage:
        spent = [meter.usage for meter in meters.values()]
        return Usage(
            sum(one.calls for one in spent),
            sum(one.prompt_tokens for one in spent),
            sum(one.completion_tokens for one in spent),
            round(time.monotonic() - start, 3),
        )

    try:
        result = await work(meters)
    except HarnessError:
        raise
    except Unanswered as error:
        return None, error.status, error.detail, usage()
    except Exception as error:
        logger.debug("an item failed", exc_info=True)
        return None, Status.FAILED, f"{type(error).__name__}: {error}", usage()
    return result, Status.OK, "", usage()


def clients_of(method: Method, setup: Setup, serving: Serving) -> dict[str, LLMClient]:
    """Return the LLM of each role that a method asks and the run has; its server starts at the first question."""
    return {
        role: serving.lazily(role, needs_logprobs=needs_logprobs)
        for role, needs_logprobs in method.roles.items()
        if role in setup.backends
    }


async def answer_all(
    title: str,
    unit: str,
    items: Sequence[Item],
    answer: Callable[[Item], Awaitable[Answer]],
    journal: Journal[Answer],
) -> None:
    """Answer every item, many at once, and journal each answer when it is there."""
    places = asyncio.Semaphore(UNDER_WAY)
    failures = 0

    async def one(item: Item, advance: Callable[[int], None]) -> None:
        nonlocal failures
        async with places:
            record = await answer(item)
        journal.append(record)
        failures += record.status is not Status.OK
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
        example = next(record for record in reversed(journal.records()) if record.status is not Status.OK)
        reason = getattr(example, "detail", None) or getattr(example, "reason", "")
        logger.warning("%s: %d of %d failed, such as: %s", title, failures, len(items), reason)
