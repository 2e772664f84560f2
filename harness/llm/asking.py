"""Ask an LLM for an object, and make the best of what it says."""

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
SHOWN = 200  # characters of an unusable answer, in the record that tells of it
#: How a model declines in so many words, in English, as nearly all of them do. Strict on purpose: it must open the
#: text, in the first person, and be about helping; "I cannot tell which is better" is an answer.
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

    The schema goes with the request; since not every server enforces it, the text is read tolerantly.

    A model that declines in words of its own, be it instead of the object or, where a grammar forces it, inside one,
    has refused: no text of the object may open like "I'm sorry, but I can't help with that".

    Raises:
        Unanswered: if no answer came (with the completion's status), none that fits (unparsed), or one that declines
            (refused).
    """
    completion = await client.generate(messages, schema=strict_schema(answer), sampling=sampling)
    if completion.status is not Status.OK:
        raise Unanswered(completion.status, completion.detail or _start(completion.text))
    return parse(completion.text, answer)


def declines(text: str) -> bool:
    """Tell whether a text opens with a refusal to help; what follows, and thoughts before it, do not count."""
    return bool(_DECLINES.match(text.rpartition("</think>")[2]))


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
        Unanswered: with status refused if the text, or a text of the object, declines; else unparsed if there is no
            object that fits.
    """
    for candidate in _candidates(text):
        try:
            found = answer.model_validate_json(json.dumps(candidate, allow_nan=False))
        except Exception:  # the answer's own validators may raise anything at what an LLM wrote
            continue
        for value in candidate.values():
            if isinstance(value, str) and declines(value):
                raise Unanswered(Status.REFUSED, f"the model declined: {_start(value)}")
        return found
    if declines(text):
        raise Unanswered(Status.REFUSED, f"the model declined: {_start(text.rpartition('</think>')[2])}")
    raise Unanswered(Status.UNPARSED, f"no {answer.__name__} in the answer: {_start(text)}")


def strict_schema(answer: type[pydantic.BaseModel]) -> Mapping[str, Any]:
    """Return the model's JSON schema in the strict dialect: every property required, and no others allowed."""
    import openai  # takes a second, which nothing else in this module needs

    schema: Mapping[str, Any] = openai.pydantic_function_tool(answer)["function"]["parameters"]
    return schema


def fits(text: str, schema: Mapping[str, Any]) -> bool:
    """Tell whether a text holds a JSON object that keeps to a schema, where :func:`parse` would look for one."""
    keeps_to = _validator(json.dumps(schema))
    return any(keeps_to.is_valid(found) for found in _candidates(text))


def thinks_on(text: str) -> bool:
    """Tell whether a text opens thoughts and never closes them."""
    return "<think>" in text.rpartition("</think>")[2]


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    return jsonschema.Draft202012Validator(json.loads(schema))


def _candidates(text: str) -> Iterator[dict[str, Any]]:
    for part in dict.fromkeys((text.rpartition("</think>")[2], text)):
        yield from reversed(list(_objects(part)))


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
