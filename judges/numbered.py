"""Answers about several numbered items: a schema with one required field per item, so that no item is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, create_model

from harness.llm.asking import all_answers, ask
from harness.llm.client import LLMClient, Message
from harness.llm.prompts import Prompt

T = TypeVar("T")

REASON = Field(description="one or two sentences", max_length=600)
#: A text that an LLM writes for the subject to read, and the tokens reserved for it.
Sentence = Annotated[str, Field(min_length=1, max_length=300)]
SENTENCE_TOKENS = 80
_FRAME_TOKENS = 256  # for a reason, and for the JSON around the items


def levels(highest: int, lowest: int = 0) -> Any:
    """Return the type of an integer from ``lowest`` to ``highest``, as a choice that every server can enforce."""
    return Literal[tuple(range(lowest, highest + 1))]


@lru_cache
def numbered(item: str, count: int, kind: Any, *, reason: bool) -> type[BaseModel]:
    """Return a schema with the fields ``item_1`` to ``item_count``, after a ``reason`` if it is requested."""
    fields: dict[str, Any] = {"reason": (str, REASON)} if reason else {}
    fields |= {f"{item}_{number}": (kind, ...) for number in range(1, count + 1)}
    model: type[BaseModel] = create_model(f"{item.capitalize()}s", **fields)
    return model


async def ask_numbered(
    llm: LLMClient,
    messages: list[Message],
    item: str,
    count: int,
    kind: Any,
    *,
    reason: bool = True,
    item_tokens: int = 12,
) -> list[Any]:
    """Ask for one value of each numbered item, and return the values in order; raises as :func:`ask` does.

    Args:
        llm: the LLM.
        messages: the question.
        item: name of an item.
        count: number of items.
        kind: type of a value.
        reason: whether a reason is requested first.
        item_tokens: tokens reserved for one item with its name. If the role's ``max_tokens`` is too low for all items,
            it is raised, because a truncated answer is lost.
    """
    longest = max(llm.sampling.max_tokens, item_tokens * count + _FRAME_TOKENS)
    sampling = dataclasses.replace(llm.sampling, max_tokens=longest)
    answer = await ask(llm, messages, numbered(item, count, kind, reason=reason), sampling=sampling)
    return [getattr(answer, f"{item}_{number}") for number in range(1, count + 1)]


async def in_batches(
    items: Sequence[T], size: int, answer: Callable[[Sequence[T]], Awaitable[Sequence[Any]]]
) -> list[Any]:
    """Return the answers for all items; ``answer`` gets ``size`` of them at a time, or fewer in the last batch.

    Raises:
        Unanswered: if one batch is not answered.
    """
    parts = await all_answers(answer(items[start : start + size]) for start in range(0, len(items), size))
    return [value for part in parts for value in part]


async def rate(
    llm: LLMClient, prompt: Prompt, description: str, texts: Sequence[str], *, highest: int, batch: int, item: str
) -> list[int]:
    """Have an LLM rate texts from 0 to ``highest``, ``batch`` of them in one prompt; raises as :func:`in_batches`."""

    async def answer(some: Sequence[str]) -> list[int]:
        messages = prompt.render(description=description, texts=list(some), highest=highest)
        return await ask_numbered(llm, messages, item, len(some), levels(highest))

    return await in_batches(texts, batch, answer)


async def choose(llm: LLMClient, messages: list[Message], count: int) -> int:
    """Return the number, from 1 to ``count``, that an LLM chooses; raises as :func:`ask` does."""
    (choice,) = await ask_numbered(llm, messages, "choice", 1, levels(count, 1))
    return int(choice)
