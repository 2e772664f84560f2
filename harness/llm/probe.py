"""The smallest question that shows whether an LLM can do what a run will ask of it."""

from __future__ import annotations

from typing import Literal

import pydantic

from harness.errors import HarnessError
from harness.llm.asking import ask
from harness.llm.client import Backend, LLMClient, Message, Unanswered
from harness.records import Status

#: With a system turn, as every prompt of this project has one and some chat templates refuse it.
PROBE = (
    Message("system", "You answer with JSON."),
    Message("user", 'Is water wet? Reply with {"answer": "yes"} or {"answer": "no"} and nothing else.'),
)
PROBE_ANSWER = '{"answer": "yes"}'


class _Reply(pydantic.BaseModel):
    answer: Literal["yes", "no"]


async def probe(role: str, backend: Backend, client: LLMClient) -> None:
    """Ask for one tiny object that fits a schema.

    Raises:
        HarnessError: if the LLM does not answer, or cannot keep to the schema.
    """
    try:
        await ask(client, PROBE, _Reply, sampling=backend.sampling)
    except Unanswered as failure:
        if failure.status is Status.FAILED:
            raise HarnessError(
                f"the LLM of role {role!r} ({backend}) does not answer: {failure.detail}; "
                "check its address, the model's name and the key"
            ) from failure
        raise HarnessError(
            f"the LLM of role {role!r} ({backend}) cannot produce the schema ({failure.status}): {failure.detail}; "
            "take a server with structured outputs (response_format json_schema), a stronger model, or more "
            "sampling.max_tokens"
        ) from failure


async def probe_logprobs(role: str, backend: Backend, client: LLMClient) -> None:
    """Ask for the log-probabilities of a tiny prompt.

    Raises:
        HarnessError: if the LLM does not give them.
    """
    found = await client.token_logprobs(PROBE)
    if found.status is not Status.OK:
        raise HarnessError(
            f"the LLM of role {role!r} ({backend}) gives no log-probabilities of prompts: {found.detail}; "
            f"use llm@llm.{role}=vllm, or a vLLM server of your own"
        )
