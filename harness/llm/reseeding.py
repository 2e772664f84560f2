"""The same question asked again: whether an answer hangs on the draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.llm.client import Completion, LLMClient, Message, PromptLogprobs, Sampling


class ReseededClient(LLMClient):
    """Passes calls on to ``client`` with another seed, so that no answer of the first time is found in a cache.

    At temperature 0 the seed draws nothing, and what differs is the server's own doing. Log-probabilities have no seed.
    """

    def __init__(self, client: LLMClient) -> None:
        self._client = client
        self.sampling = _reseeded(client.sampling)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on with another seed."""
        drawn = self.sampling if sampling is None else _reseeded(sampling)
        return await self._client.generate(messages, schema=schema, sampling=drawn)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Pass the call on."""
        return await self._client.token_logprobs(messages, top=top)

    async def ready(self) -> None:
        """Pass it on."""
        await self._client.ready()


def _reseeded(sampling: Sampling) -> Sampling:
    return dataclasses.replace(sampling, seed=(sampling.seed or 0) + 1)
