"""What an item's LLM calls cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.llm.client import Completion, LLMClient, Message, PromptLogprobs, Sampling
from harness.records import Usage


class MeteredClient(LLMClient):
    """Passes one item's calls on to ``client`` and adds up what they cost.

    Cached answers count like any other, so that the figures say what the method costs, not what this run paid.
    """

    def __init__(self, client: LLMClient) -> None:
        self.sampling = client.sampling
        self._client = client
        self._calls = self._prompt_tokens = self._completion_tokens = 0

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on."""
        completion = await self._client.generate(messages, schema=schema, sampling=sampling)
        self._add(completion.prompt_tokens, completion.completion_tokens)
        return completion

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Pass the call on."""
        found = await self._client.token_logprobs(messages, top=top)
        self._add(found.prompt_tokens, 0)
        return found

    @property
    def usage(self) -> Usage:
        """What the item cost so far, its wall time aside, which the caller knows."""
        return Usage(self._calls, self._prompt_tokens, self._completion_tokens)

    def _add(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._calls += 1
        self._prompt_tokens += prompt_tokens
        self._completion_tokens += completion_tokens
