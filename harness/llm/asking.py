"""Ask an LLM for an object, and make the best of what it says."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import pydantic

from harness.llm.client import LLMClient, Message, Sampling, Unanswered
from harness.records import Status

Answer = TypeVar("Answer", bound=pydantic.BaseModel)
T = TypeVar("T")

_OBJECT_START = re.compile(r'\{\s*["}]')
SHOWN = 200  # characters of an unusable answer, in the record that tells of it


async def ask(
    client: LLMClient, messages: Sequence[Message], answer: type[Answer], *, sampling: Sampling | None = None
) -> Answer:
    """Return the LLM's answer as an ``answer`` object.

    The schema goes with the request; since not every server enforces it, the text is read tolerantly.

    Raises:
        Unanswered: if no answer came (with the completion's status), or none that fits (status unparsed).
    """
    completion = await client.generate(messages, schema=strict_schema(answer), sampling=sampling)
    if completion.status is not Status.OK:
        raise Unanswered(completion.status, completion.detail or _start(completion.text))
    return parse(completion.text, answer)


async def all_answers(questions: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all of several questions, then return their answers, or raise the first failure in their order.

    All are waited for even when one has failed: what is asked is paid for, so it should reach the cache and the count.
    """
    results = await asyncio.gather(*questions, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def parse(text: str, answer: type[Answer]) -> Answer:
    """Return the last JSON object in ``text`` that fits ``answer``.

    What follows the last ``</think>`` is searched first: a model that reasons aloud tries out answers before it gives
    one. Around the object there may be prose or a code fence; inside another object it does not count.

    Raises:
        Unanswered: with status unparsed, if there is none.
    """
    for part in (text.rpartition("</think>")[2], text):
        for candidate in reversed(list(_objects(part))):
            try:
                return answer.model_validate_json(json.dumps(candidate, allow_nan=False))
            except Exception:  # the answer's own validators may raise anything at what an LLM wrote
                continue
    raise Unanswered(Status.UNPARSED, f"no {answer.__name__} in the answer: {_start(text)}")


def strict_schema(answer: type[pydantic.BaseModel]) -> Mapping[str, Any]:
    """Return the model's JSON schema in the strict dialect: every property required, and no others allowed."""
    import openai  # takes a second, which nothing else in this module needs

    schema: Mapping[str, Any] = openai.pydantic_function_tool(answer)["function"]["parameters"]
    return schema


def holds_object(text: str, keys: Collection[str]) -> bool:
    """Tell whether a text holds a JSON object with at least these keys."""
    return any(set(keys) <= set(found) for found in _objects(text))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield every complete JSON object that is not inside another one."""
    # Not strict: some grammars let a model write a tab or line break into a string as it is.
    decoder = json.JSONDecoder(parse_constant=_no_constant, strict=False)
    end = 0
    while start := _OBJECT_START.search(text, end):
        try:
            found, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            end = start.start() + 1
        else:
            yield found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")  # NaN and Infinity, which Python would let pass


def _start(text: str) -> str:
    line = " ".join(text.split())
    return repr(line[:SHOWN] + ("..." if len(line) > SHOWN else ""))
