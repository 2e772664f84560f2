"""An LLM that is never asked: it fits every schema, knows nothing, and counts what it would have cost."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.llm.client import Backend, Completion, LLMClient, Message, PromptLogprobs, PromptToken, Sampling

#: Characters of English and code that a token of today's tokenizers stands for, on average.
CHARACTERS_PER_TOKEN = 4
#: Words of an answer's text where the schema does not bound it more tightly.
WORDS = 30
#: What a server's tokenizer would at least keep apart: words, numbers, single marks, tabs and line breaks.
_PIECES = re.compile(r"[^\W\d_]+|\d+|[^\S\t\n]+|.|\n", re.DOTALL)


class DryBackend(Backend):
    """Stands in for a configured LLM while a run is planned.

    Args:
        backend: the LLM it stands in for.
    """

    def __init__(self, backend: Backend) -> None:
        self.model, self.sampling, self.concurrency = backend.model, backend.sampling, backend.concurrency
        self._identity = backend.identity
        self.client = DryClient(backend.sampling)

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of the LLM it stands in for, so that its answers would be found in the cache."""
        return self._identity

    def check(self) -> None:
        """Find nothing wrong."""

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Yield the client; nothing is started."""
        yield self.client


@dataclass
class Cost:
    """What was asked so far: calls, and estimated tokens in and out."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Add one call."""
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens


class DryClient(LLMClient):
    """Answers from the schema alone, another answer to each prompt, so that no two descriptions are the same."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.cost = Cost()
        #: Estimated tokens of the longest conversation, its longest allowed answer included.
        self.longest = 0

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Return the smallest object that fits the schema and has plausible texts."""
        import json

        drawn = sampling or self.sampling
        prompt = _tokens(messages)
        mark = hashlib.sha256(repr((messages, drawn)).encode()).hexdigest()[:6]
        text = json.dumps(filled(schema, mark)) if schema is not None else _words(mark, None)
        completion = min(drawn.max_tokens, math.ceil(len(text) / CHARACTERS_PER_TOKEN))
        self.cost.add(prompt, completion)
        self.longest = max(self.longest, prompt + drawn.max_tokens)
        return Completion(text, prompt_tokens=prompt, completion_tokens=completion)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return pieces of the prompt that expect every level of a scale alike."""
        prompt = _tokens(messages)
        self.cost.add(prompt, 1)
        self.longest = max(self.longest, prompt + 1)
        levels = {str(level): -math.log(11) for level in range(11)}
        text = "\n".join(message.content for message in messages)
        return PromptLogprobs(
            tuple(PromptToken(piece, levels) for piece in _PIECES.findall(text)), prompt_tokens=prompt
        )


def filled(schema: Mapping[str, Any], mark: str, root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that fits a JSON schema of the kind that pydantic writes: shortest lists, first choices.

    Args:
        schema: the schema, or a part of it.
        mark: goes into every free text.
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
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return filled(schema[choice][0], mark, root)
    if "allOf" in schema:
        return filled(schema["allOf"][0], mark, root)
    match schema.get("type"):
        case "object":
            return {name: filled(part, mark, root) for name, part in schema.get("properties", {}).items()}
        case "array":
            parts = schema.get("prefixItems")
            if parts is not None:
                return [filled(part, mark, root) for part in parts]
            count = max(int(schema.get("minItems", 0)), min(1, int(schema.get("maxItems", 1))))
            return [filled(schema.get("items", {}), f"{mark}{place}", root) for place in range(count)]
        case "integer" | "number":
            least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
            return least if schema["type"] == "number" else math.ceil(least)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _words(mark, schema.get("maxLength"))


def _words(mark: str, longest: int | None) -> str:
    text = " ".join([mark, *["word"] * (WORDS - 1)])
    return text[:longest]


def _tokens(messages: Sequence[Message]) -> int:
    return math.ceil(sum(len(message.content) for message in messages) / CHARACTERS_PER_TOKEN)
