"""Answers about several numbered things at once: a schema with a required field for each, so that none is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from harness.llm.asking import ask
from harness.llm.client import LLMClient, Message

REASON = Field(description="one or two sentences", max_length=600)
#: What an LLM writes for the subject to read: one text, not empty, not endless; and the tokens that it may take.
Sentence = Annotated[str, Field(min_length=1, max_length=300)]
SENTENCE_ROOM = 80
_FRAME = 256  # tokens for a reason, and for the rest around the items


def levels(highest: int, lowest: int = 0) -> Any:
    """Return the type of a whole number from ``lowest`` to ``highest``, as a choice that every server can enforce."""
    return Literal[tuple(range(lowest, highest + 1))]


@lru_cache
def numbered(item: str, count: int, kind: Any, *, reason: bool) -> type[BaseModel]:
    """Return an answer with fields ``item_1`` to ``item_count`` of a type; with a ``reason`` before them if so wished.

    The reason comes first, so that what is answered follows from it.
    """
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
    room: int = 12,
) -> list[Any]:
    """Ask for one value of each numbered item, and return the values in order; raises as :func:`ask` does.

    Args:
        llm: the LLM.
        messages: the question.
        item: what is numbered.
        count: how many.
        kind: type of a value.
        reason: whether a reason is asked for first.
        room: tokens that one item may take, with its name. If the role's own limit gives less it is raised, for a
            truncated answer is lost.
    """
    longest = max(llm.sampling.max_tokens, room * count + _FRAME)
    sampling = dataclasses.replace(llm.sampling, max_tokens=longest)
    answer = await ask(llm, messages, numbered(item, count, kind, reason=reason), sampling=sampling)
    return [getattr(answer, f"{item}_{number}") for number in range(1, count + 1)]


def batches(count: int, size: int) -> Iterator[range]:
    """Yield the places 0 to ``count`` - 1 in runs of ``size``, the last one shorter if it must be."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
