"""Ask an LLM for an object, and read its answer tolerantly."""

from __future__ import annotations

import asyncio
import functools
import json
import re
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jsonschema
import pydantic

from harness.llm.client import LLMClient, Message, Sampling, Unanswered
from harness.records import Status

Answer = TypeVar("Answer", bound=pydantic.BaseModel)
T = TypeVar("T")

_OBJECT_START = re.compile(r'\{\s*["}]')
SHOWN = 200  # characters of an unusable answer to keep in the record
#: A refusal in English prose. Strict on purpose: it must open the text, in the first person, and be about helping;
#: "I cannot tell which is better" is an answer.
_DECLINES = re.compile(
    r"\s*(?:(?:i['’]m|i am) (?:(?:very|so|really|truly) )?sorry|sorry|i apologi[sz]e|my apologies|unfortunately)?"
    r"[\s,.;:!–—-]*(?:but )?(?:as an ai(?: language)?(?: model| assistant)?,? )?"
    r"(?:i|we) (?:can(?:no|['’])t|can not|won['’]t|will not|(?:am|are) (?:not able|unable)|must decline)"
    r"(?: to)? (?:(?:further|directly|in good conscience) )?"
    r"(?:help (?:you )?(?:with|you)|assist|comply|fulfil|engage (?:with|in)|continue with|participate|"
    r"(?:answer|respond to|complete|process|provide|do) (?:that|this|such|your))\b"
    r"|\s*(?:i['’]m|i am) (?:(?:very|so|really|truly) )?(?:not able|unable) to (?:help|assist|comply|fulfil)\b",
    re.IGNORECASE,
)


async def ask(
    client: LLMClient, messages: Sequence[Message], answer: type[Answer], *, sampling: Sampling | None = None
) -> Answer:
    """Return the LLM's answer as an ``answer`` object.

    The schema is sent with the request; not every server enforces it, so the text is read tolerantly. Prose such as
    "I'm sorry, but I can't help with that" counts as a refusal, both instead of the object and at the start of one of
    its texts, where a grammar forces an object.

    Raises:
        Unanswered: if no answer came (with the completion's status), if it does not fit (unparsed), or if the model
            refused (refused).
    """
    completion = await client.generate(messages, schema=strict_schema(answer), sampling=sampling)
    if completion.status is not Status.OK:
        raise Unanswered(completion.status, completion.detail or _start(completion.text))
    return parse(completion.text, answer)


def declines(text: str) -> bool:
    """Return whether a text, after any thoughts, opens with a refusal to help."""
    return bool(_DECLINES.match(text.rpartition("</think>")[2]))


async def all_answers(requests: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for several requests; return their answers in order, or raise the first failure in that order.

    Waits for all even if one fails: the others are paid for, so they should reach the cache and the usage counts.
    """
    results = await asyncio.gather(*requests, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def parse(text: str, answer: type[Answer]) -> Answer:
    """Return the last JSON object in ``text`` that fits ``answer``.

    The text after the last ``</think>`` is searched first, because a reasoning model tries out answers before it gives
    one. Prose or a code fence may surround the object; objects inside another object do not count.

    Raises:
        Unanswered: with status refused if the text, or a text of the object, is a refusal; with status unparsed if no
            object fits.
    """
    for candidate in _candidates(text):
        try:
            found = answer.model_validate_json(json.dumps(candidate, allow_nan=False))
        except Exception:  # the answer's own validators may raise anything
            continue
        for value in candidate.values():
            if isinstance(value, str) and declines(value):
                raise Unanswered(Status.REFUSED, f"the model declined: {_start(value)}")
        return found
    if declines(text):
        raise Unanswered(Status.REFUSED, f"the model declined: {_start(text.rpartition('</think>')[2])}")
    raise Unanswered(Status.UNPARSED, f"no {answer.__name__} in the answer: {_start(text)}")


def strict_schema(answer: type[pydantic.BaseModel]) -> Mapping[str, Any]:
    """Return the model's JSON schema in OpenAI's strict dialect: all properties required, no others allowed."""
    import openai  # imported here because it takes a second

    schema: Mapping[str, Any] = openai.pydantic_function_tool(answer)["function"]["parameters"]
    return schema


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Return whether a text contains a JSON object that fits a schema, where :func:`parse` would look for it."""
    validator = _validator(json.dumps(schema))
    return any(validator.is_valid(candidate) for candidate in _candidates(text))


def has_open_thoughts(text: str) -> bool:
    """Return whether a text opens thoughts and does not close them."""
    return "<think>" in text.rpartition("</think>")[2]


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _candidates(text: str) -> Iterator[dict[str, Any]]:
    for part in dict.fromkeys((text.rpartition("</think>")[2], text)):
        yield from reversed(list(_objects(part)))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield every complete JSON object that is not inside another one."""
    # Not strict: some grammars allow a raw tab or line break inside a string.
    decoder = json.JSONDecoder(object_pairs_hook=_consistent, parse_constant=_no_constant, strict=False)
    end = 0
    while start := _OBJECT_START.search(text, end):
        try:
            found, end = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            end = start.start() + 1
        else:
            yield found


def _consistent(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if any(found[name] != value for name, value in pairs):
        raise ValueError("an object gives a name two values")  # of which Python would take the last
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # NaN and Infinity, which Python accepts by default


def _start(text: str) -> str:
    line = " ".join(text.split())
    return repr(line[:SHOWN] + ("..." if len(line) > SHOWN else ""))
