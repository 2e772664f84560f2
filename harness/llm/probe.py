"""A small request that checks whether an LLM can do what a run needs."""

from __future__ import annotations

import logging
from typing import Literal

import pydantic

from harness.errors import HarnessError
from harness.llm.asking import ask
from harness.llm.client import Backend, LLMClient, Message, Unanswered
from harness.records import Status

logger = logging.getLogger(__name__)

#: Has a system turn because every prompt of this project has one, and some chat templates refuse it.
PROBE = (
    Message("system", "You answer with JSON."),
    Message("user", 'Is water wet? Reply with {"answer": "yes"} or {"answer": "no"} and nothing else.'),
)
PROBE_ANSWER = '{"answer": "yes"}'


class _Reply(pydantic.BaseModel):
    answer: Literal["yes", "no"]


async def probe(role: str, backend: Backend, client: LLMClient) -> None:
    """Ask for a small object that fits a schema.

    Raises:
        HarnessError: if the LLM does not answer, or its answer does not fit the schema.
    """
    try:
        await ask(client, PROBE, _Reply, sampling=backend.sampling)
    except Unanswered as failure:
        problem, cure = "does not answer", "check its address, the model's name and the key"
        if failure.status is not Status.FAILED:
            problem = f"cannot produce the schema ({failure.status})"
            cure = (
                "use a server with structured outputs (response_format json_schema), a stronger model, or more "
                "sampling.max_tokens"
            )
        raise HarnessError(f"the LLM of role {role!r} ({backend}) {problem}: {failure.detail}; {cure}") from failure
    logger.info("llm.%s: %s answers, in JSON that fits a schema", role, backend)


async def probe_logprobs(role: str, backend: Backend, client: LLMClient) -> None:
    """Ask for the log-probabilities of a small prompt.

    Raises:
        HarnessError: if the LLM does not return them.
    """
    logprobs = await client.token_logprobs(PROBE)
    if logprobs.status is not Status.OK:
        raise HarnessError(
            f"the LLM of role {role!r} ({backend}) gives no log-probabilities of prompts: {logprobs.detail}; "
            f"use llm@llm.{role}=vllm, or a vLLM server of your own"
        )
    logger.info("llm.%s: %s gives the log-probabilities of prompts", role, backend)
