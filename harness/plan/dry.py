"""A scripted LLM and a read-only cache for the trial: prompts are rendered and counted, but no LLM is called."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import operator
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from harness.llm.cache import ResponseCache
from harness.llm.client import Backend, Completion, PromptLogprobs, PromptToken
from harness.llm.scripted import Request, ScriptedBackend
from harness.llm.serving import Serving

#: Typical characters per token of English text and code.
CHARACTERS_PER_TOKEN = 4
#: Words of a free text in an answer, unless the schema allows fewer: typical of reasons and descriptions.
WORDS = 30
#: Pieces that any tokenizer keeps apart: words, numbers, punctuation marks, tabs and line breaks.
_PIECES = re.compile(r"[^\W\d_]+|\d+|[^\S\t\n]+|.|\n", re.DOTALL)
#: Log-probabilities of the levels 0 to 10. The likeliest level changes from token to token, so that no series of levels
#: is constant.
_LEVELS = [
    {str(level): math.log(0.5 if level == likeliest else 0.05) for level in range(11)} for likeliest in range(11)
]


def _tokens(text: str) -> int:
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


class DryBackend(ScriptedBackend):
    """A scripted LLM that replaces a configured one and finds its answers in the cache.

    Different prompts get different answers, so that no two descriptions are equal.

    ``longest`` is the number of tokens of the longest conversation, including its longest allowed answer.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__(
            self._complete,
            self._logprobs,
            model=backend.model,
            sampling=backend.sampling,
            concurrency=backend.concurrency,
        )
        self.price, self.longest = backend.price, 0
        self._identity = backend.identity

    @property
    def identity(self) -> Mapping[str, Any]:
        """The identity of the replaced LLM."""
        return self._identity

    def _complete(self, request: Request) -> Completion:
        sampling = request.sampling or self.sampling
        seed = hashlib.sha256(repr((request.messages, sampling)).encode()).hexdigest()[:6]
        text = _words(seed, None) if request.schema is None else json.dumps(filled(request.schema, seed))
        prompt_tokens = self._prompt_tokens(request, sampling.max_tokens)
        return Completion(text, prompt_tokens=prompt_tokens, completion_tokens=min(sampling.max_tokens, _tokens(text)))

    def _logprobs(self, request: Request) -> PromptLogprobs:
        pieces = _PIECES.findall(request.text)
        tokens = [PromptToken(piece, _LEVELS[index % len(_LEVELS)]) for index, piece in enumerate(pieces)]
        return PromptLogprobs((PromptToken("", {}), *tokens), prompt_tokens=self._prompt_tokens(request, 1))

    def _prompt_tokens(self, request: Request, max_tokens: int) -> int:
        count = sum(_tokens(message.content) for message in request.messages)
        self.longest = max(self.longest, count + max_tokens)
        return count


class DryServing(Serving):
    """Serves scripted LLMs, which need no proof of what they can do."""

    async def once(self, name: str, proof: Callable[[], Awaitable[None]]) -> None:
        """Do nothing."""


class DryCache(ResponseCache):
    """A cache of scripted answers in a temporary folder, on top of the run's cache, which is only read."""

    def __init__(self, folder: Path, run_cache: ResponseCache) -> None:
        super().__init__(folder)
        self._run_cache = run_cache

    def get(self, key: str) -> tuple[dict[str, Any] | None, int]:
        """Return the answer from either cache."""
        answer, draws = super().get(key)
        return self._run_cache.get(key) if answer is None else (answer, draws)


def filled(schema: Mapping[str, Any], seed: str, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a JSON schema of the kind that pydantic writes, with the shortest lists.

    Args:
        schema: the schema, or a part of it.
        seed: hexadecimal digits. They are part of every free text, and select a value of each enum.
        root: the whole schema, in which references are looked up; None if ``schema`` is the whole.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target = functools.reduce(operator.getitem, schema["$ref"].lstrip("#/").split("/"), root)
        return filled(target, seed, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        # Not always the first value: some methods refuse ratings that are all equal.
        return schema["enum"][int(seed, 16) % len(schema["enum"])]
    for choice in schema.keys() & {"anyOf", "oneOf", "allOf"}:
        return filled(schema[choice][0], seed, root)
    match schema.get("type"):
        case "object":
            parts = schema.get("properties", {})
            return {name: filled(part, f"{seed}{index}", root) for index, (name, part) in enumerate(parts.items())}
        case "array":
            count = max(schema.get("minItems", 0), min(1, schema.get("maxItems", 1)))
            items = schema.get("prefixItems", [schema.get("items", {})] * count)
            return [filled(part, f"{seed}{index}", root) for index, part in enumerate(items)]
        case "integer" | "number":
            return math.ceil(schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1))
        case "boolean" | "null" as kind:
            return True if kind == "boolean" else None
    return _words(seed, schema.get("maxLength"))


def _words(seed: str, max_length: int | None) -> str:
    # Schemas limit lengths against runaway answers; a typical answer takes a third of the limit.
    words = WORDS if max_length is None else max(1, min(WORDS, max_length // 3 // len("word ")))
    # Different words, because a text that repeats itself counts as degenerate.
    return " ".join([seed, *(f"w{index:03}" for index in range(1, words))])[:max_length]
