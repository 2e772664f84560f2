"""The same request with another seed: does the answer depend on the random draw?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.llm.client import Completion, LLMClient, Message, Sampling, WrappedClient


class ReseededClient(WrappedClient):
    """Passes calls on with another seed, so that the cache holds no answer from the first time.

    At temperature 0 the seed has no effect: differences then come from the server's arithmetic. ``token_logprobs`` has
    no seed and is passed on unchanged.
    """

    def __init__(self, client: LLMClient) -> None:
        super().__init__(client)
        self.sampling = _reseeded(client.sampling)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on with another seed."""
        reseeded = self.sampling if sampling is None else _reseeded(sampling)
        return await super().generate(messages, schema=schema, sampling=reseeded)


def _reseeded(sampling: Sampling) -> Sampling:
    return dataclasses.replace(sampling, seed=(sampling.seed or 0) + 1)
