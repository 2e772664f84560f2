"""An LLM that returns the answers of a test's script, behind the same interface as every other."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from harness.llm.client import Backend, Completion, LLMClient, Message, PromptLogprobs, PromptToken, Sampling
from harness.llm.probe import PROBE, PROBE_ANSWER


@dataclass(frozen=True)
class Request:
    """One request to a scripted LLM; ``generate`` sets ``schema`` and ``sampling``, ``token_logprobs`` sets ``top``."""

    kind: Literal["generate", "token_logprobs"]
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    sampling: Sampling | None = None
    top: int | None = None

    @property
    def text(self) -> str:
        """The content of all messages, for tests that search for words."""
        return "\n".join(message.content for message in self.messages)


Output = TypeVar("Output")
Script = Callable[[Request], Output | Awaitable[Output]] | Sequence[Output]
Text = str | Completion | Exception
Logprobs = PromptLogprobs | Exception


class ScriptedBackend(Backend):
    """A back end whose answers are scripted.

    Args:
        generate: see :class:`ScriptedClient`; likewise ``token_logprobs`` and ``answers_probe``.
        model: its name and identity.
        sampling: default sampling of the role.
        concurrency: maximum number of concurrent requests.
        server: value of :attr:`Backend.server`, for tests of starting and stopping.
    """

    def __init__(
        self,
        generate: Script[Text] = (),
        token_logprobs: Script[Logprobs] = (),
        *,
        model: str = "scripted",
        sampling: Sampling | Mapping[str, Any] | None = None,
        concurrency: int = 64,
        server: Hashable = None,
        answers_probe: bool = True,
    ) -> None:
        self.model, self.concurrency, self._server = model, concurrency, server
        self.sampling = sampling if isinstance(sampling, Sampling) else Sampling(**(sampling or {}))
        self.client = ScriptedClient(generate, token_logprobs, sampling=self.sampling, answers_probe=answers_probe)
        self.requests = self.client.requests
        #: "start" and "stop", in the order in which they happened.
        self.history: list[str] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        """The name alone."""
        return {"scripted": self.model}

    @property
    def server(self) -> object | None:
        """The value given to the constructor."""
        return self._server

    def check(self) -> None:
        """Do nothing: a script is always ready."""

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Yield the client; when opened again, the script continues where it stopped."""
        self.history.append("start")
        try:
            yield self.client
        finally:
            self.history.append("stop")


class ScriptedClient(LLMClient):
    """The client of :class:`ScriptedBackend`, usable alone.

    Args:
        generate: the answers to ``generate``, in order, or a function of the request (may be async). An answer is
            a text, a whole completion, or an exception, which is raised.
        token_logprobs: the same for ``token_logprobs``.
        sampling: default sampling.
        answers_probe: whether the preflight of a run succeeds without using up an answer of the script.
    """

    def __init__(
        self,
        generate: Script[Text] = (),
        token_logprobs: Script[Logprobs] = (),
        *,
        sampling: Sampling | None = None,
        answers_probe: bool = True,
    ) -> None:
        self.sampling = sampling or Sampling()
        self.requests: list[Request] = []
        self._generate, self._token_logprobs = _player(generate), _player(token_logprobs)
        self._answers_probe = answers_probe

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Return the next answer of the script."""
        if self._answers_probe and tuple(messages) == PROBE:
            return Completion(PROBE_ANSWER)
        request = Request("generate", tuple(messages), schema, sampling or self.sampling)
        output: str | Completion = await self._play(self._generate, request)
        return Completion(output) if isinstance(output, str) else output

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return the next answer of the script."""
        if self._answers_probe and tuple(messages) == PROBE:
            return PromptLogprobs((PromptToken("", {}),))
        request = Request("token_logprobs", tuple(messages), top=top)
        return cast(PromptLogprobs, await self._play(self._token_logprobs, request))

    async def _play(self, player: Callable[[Request], Any], request: Request) -> Any:
        self.requests.append(request)
        output = player(request)
        if inspect.isawaitable(output):
            output = await output
        if isinstance(output, Exception):
            raise output
        return output


def _player(script: Script[Output]) -> Callable[[Request], Output | Awaitable[Output]]:
    if callable(script):
        return script
    outputs: Iterator[Output] = iter(script)

    def play(request: Request) -> Output:
        try:
            return next(outputs)
        except StopIteration:
            raise AssertionError(f"the script ran out of answers at {request}") from None

    return play
