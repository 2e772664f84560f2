"""LLMs that are never asked: they fit every schema, know nothing, and tell what a question would have cost."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from harness.llm.cache import ResponseCache
from harness.llm.client import Backend, Completion, LLMClient, Message, PromptLogprobs, PromptToken, Sampling
from harness.llm.serving import Serving

#: Characters of English and code that a token of today's tokenizers stands for, on average.
CHARACTERS_PER_TOKEN = 4
#: Words of a text in an answer, where the schema does not bound it more tightly: what reasons and descriptions have.
WORDS = 30
#: What a server's tokenizer would at least keep apart: words, numbers, single marks, tabs and line breaks.
_PIECES = re.compile(r"[^\W\d_]+|\d+|[^\S\t\n]+|.|\n", re.DOTALL)
#: Where a scale of levels is asked for: each is the likeliest at some token, so that no series of them stands still.
_LEVELS = [
    {str(level): math.log(0.5 if level == likeliest else 0.05) for level in range(11)} for likeliest in range(11)
]

Counter = Callable[[str], int]


def by_characters(text: str) -> int:
    """Return about how many tokens a text has."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class DryBackend(Backend):
    """Stands in for a configured LLM while a run is planned; its answers would be found in the cache as that one's.

    Args:
        backend: the LLM it stands in for.
        count: counts the tokens of a text.
    """

    def __init__(self, backend: Backend, count: Counter = by_characters) -> None:
        self.model, self.sampling, self.concurrency = backend.model, backend.sampling, backend.concurrency
        self.price = backend.price
        self._identity = backend.identity
        self.client = DryClient(backend.sampling, count)

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the LLM it stands in for."""
        return self._identity

    def check(self) -> None:
        """Find nothing wrong."""

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Yield the client; nothing is started."""
        yield self.client


class DryClient(LLMClient):
    """Answers from the schema alone; no two prompts get the same answer, so that no two descriptions are the same.

    Args:
        sampling: the role's own.
        count: counts the tokens of a text.

    Attributes:
        longest: tokens of the longest conversation, its longest allowed answer included.
    """

    def __init__(self, sampling: Sampling, count: Counter) -> None:
        self.sampling = sampling
        self.longest = 0
        self._count = count

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Return an object that fits the schema, with texts of plausible length."""
        drawn = sampling or self.sampling
        mark = hashlib.sha256(repr((messages, drawn)).encode()).hexdigest()[:6]
        text = json.dumps(filled(schema, mark)) if schema is not None else _words(mark, None)
        prompt = self._tokens(messages)
        self.longest = max(self.longest, prompt + drawn.max_tokens)
        return Completion(text, prompt_tokens=prompt, completion_tokens=min(drawn.max_tokens, self._count(text)))

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return pieces of the prompt that expect every level of a scale alike."""
        prompt = self._tokens(messages)
        self.longest = max(self.longest, prompt + 1)
        text = "\n".join(message.content for message in messages)
        pieces = ["", *_PIECES.findall(text)]
        return PromptLogprobs(tuple(PromptToken(*pair) for pair in _expecting(pieces)), prompt_tokens=prompt)

    def _tokens(self, messages: Sequence[Message]) -> int:
        return sum(self._count(message.content) for message in messages)


class DryServing(Serving):
    """Serves LLMs that have nothing to prove."""

    async def once(self, name: str, proof: Callable[[], Awaitable[None]]) -> None:
        """Prove nothing: a dry LLM can do whatever a method asks of it."""

    async def _prove(self, role: str, backend: Backend, slot: Any, needs_logprobs: bool) -> None:
        return


class CacheAbove(ResponseCache):
    """A cache of a plan's own, above the run's: it keeps dry answers in memory, and finds those paid for beneath.

    What is found here would in the run be found as well, or have been asked before.

    Args:
        beneath: the run's cache, from which is only read; none if there is none yet.

    Attributes:
        keep: whether dry answers are kept, so that a question that comes up twice is paid once: only where prompts are
            those of the run, for those made of little evidence are more alike.
    """

    def __init__(self, beneath: ResponseCache | None) -> None:
        self.asking = WeakValueDictionary()
        self._beneath, self.keep = beneath, False
        self._dry: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the answer of either."""
        found = self._dry.get(key)
        if found is None:
            return None if self._beneath is None else self._beneath.get(key)
        if "pieces" not in found:
            return found
        return {"tokens": _expecting(found["pieces"].split("\0")), "prompt_tokens": found["prompt_tokens"]}

    def put(self, key: str, answer: Mapping[str, Any]) -> Future[None]:
        """Keep an answer; of tokens with their expectations, which are all alike, the text alone."""
        if self.keep and "tokens" in answer:
            pieces = "\0".join(text for text, _ in answer["tokens"])
            self._dry[key] = {"pieces": pieces, "prompt_tokens": answer["prompt_tokens"]}
        elif self.keep:
            self._dry[key] = dict(answer)
        return _done()

    def get_unusable(self, key: str) -> tuple[dict[str, Any] | None, int]:
        """Return the last answer that could not be used, of the run's cache: a dry one always can."""
        return (None, 0) if self._beneath is None else self._beneath.get_unusable(key)

    def put_unusable(self, key: str, answer: Mapping[str, Any]) -> Future[None]:
        """Keep nothing."""
        return _done()

    def close(self) -> None:
        """Close the run's cache."""
        if self._beneath is not None:
            self._beneath.close()


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def filled(schema: Mapping[str, Any], mark: str, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a JSON schema of the kind that pydantic writes: shortest lists, any choices.

    Args:
        schema: the schema, or a part of it.
        mark: hexadecimal digits; they go into every free text, and choose where there is a choice.
        root: the whole schema, in which references are looked up; none if ``schema`` is the whole.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for part in str(schema["$ref"]).lstrip("#/").split("/"):
            target = target[part]
        return filled(target, mark, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        # Not always the first: ratings that are all alike have nothing to tell, and some methods say so.
        return schema["enum"][int(mark, 16) % len(schema["enum"])]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return filled(schema[choice][0], mark, root)
    match schema.get("type"):
        case "object":
            parts = schema.get("properties", {})
            return {name: filled(part, f"{mark}{place}", root) for place, (name, part) in enumerate(parts.items())}
        case "array":
            fixed = schema.get("prefixItems")
            if fixed is not None:
                return [filled(part, f"{mark}{place}", root) for place, part in enumerate(fixed)]
            count = max(int(schema.get("minItems", 0)), min(1, int(schema.get("maxItems", 1))))
            return [filled(schema.get("items", {}), f"{mark}{place}", root) for place in range(count)]
        case "integer":
            return math.ceil(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
        case "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _words(mark, schema.get("maxLength"))


def _expecting(pieces: Sequence[str]) -> list[tuple[str, Mapping[str, float]]]:
    return [(piece, _LEVELS[place % len(_LEVELS)] if place else {}) for place, piece in enumerate(pieces)]


def _words(mark: str, longest: int | None) -> str:
    # A third of the room that a schema leaves is what answers take of it: it is there against runaways.
    words = WORDS if longest is None else max(1, min(WORDS, longest // 3 // len("word ")))
    return " ".join([mark, *["word"] * (words - 1)])[:longest]
