"""The interface through which every LLM is called, whichever server runs it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic.dataclasses
from pydantic import BeforeValidator

from harness.records import Status
from harness.validation import STRICT, Count, Fraction, NonNegative, Whole


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Sampling:
    """How an answer is sampled.

    Attributes:
        temperature: 0 is greedy; None leaves it to the server (some reasoning models accept no other value).
        top_p: nucleus sampling; None leaves it to the server.
        max_tokens: longest answer, in tokens.
        seed: for servers that use one; None sends none.
    """

    temperature: NonNegative | None = 0.0
    top_p: Fraction | None = 1.0
    max_tokens: Count = 512
    seed: Whole | None = 0


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Price:
    """Price of a million tokens, in one currency of the user's choice."""

    prompt: NonNegative
    completion: NonNegative

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of a number of tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


def _none_if_empty(price: Any) -> Any:
    empty = isinstance(price, Mapping) and all(value is None for value in price.values())
    return None if empty else price


#: The ``price`` section of an LLM's config: both prices, or null for both.
OptionalPrice = Annotated[Price | None, BeforeValidator(_none_if_empty)]


@dataclass(frozen=True)
class Completion:
    """A generated answer, or why there is none.

    Attributes:
        text: the raw answer; also kept when the status is not ok, if any text came.
        status: ok, refused, truncated or failed. Whether the text parses is for the caller to find out.
        detail: why the status is not ok.
        prompt_tokens: tokens sent.
        completion_tokens: tokens received.
        cached: whether it came from the cache.
    """

    text: str
    status: Status = Status.OK
    detail: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True)
class PromptToken:
    """A token of a prompt, and the model's prediction at its position.

    Attributes:
        text: the token as text; empty for the first token, for which servers give no text.
        alternatives: natural log-probability of each of the most likely tokens at this position given all tokens before
            it; empty for the first token. That of ``text`` is the token's own; other tokens with equal text are summed.
            Tokens that are a part of a character may all have the empty text.
    """

    text: str
    alternatives: Mapping[str, float]


@dataclass(frozen=True)
class PromptLogprobs:
    """The tokens of a prompt with the model's predictions, or why there are none (status failed)."""

    tokens: tuple[PromptToken, ...]
    status: Status = Status.OK
    detail: str = ""
    prompt_tokens: int = 0
    cached: bool = False


class Unanswered(Exception):
    """An LLM gave no usable answer: raised inside describers and judges, recorded by the run as a counted failure."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


_NOT_ASKED = "not asked: "


class Stopped(Unanswered):
    """A request that was not sent: too many before it had failed, or the run has spent what it may."""

    def __init__(self, why: str) -> None:
        super().__init__(Status.FAILED, f"{_NOT_ASKED}{why}")

    @staticmethod
    def caused(detail: str) -> bool:
        """Return whether the detail of a failure comes from this exception."""
        return detail.startswith(_NOT_ASKED)


class NotCached(Exception):
    """The answer is not cached, and no LLM may be called: the item keeps the record it has."""


class LLMClient(ABC):
    """An LLM. Implementations raise only for a user's mistake; failures are returned as statuses."""

    #: The role's own sampling, used if the caller gives none.
    sampling: Sampling = Sampling()

    @abstractmethod
    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Answer a conversation; if ``schema`` (a JSON schema of an object) is given, with JSON that fits it."""

    @abstractmethod
    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return every token of a conversation, as the model's chat template renders it, with ``top`` predictions each.

        If the last message is the assistant's, it is left open: the model may continue it.
        """

    async def ready(self) -> None:  # noqa: B027  # most clients are always ready
        """Wait until the LLM can be called and has passed its preflight.

        Calls wait for it anyway. For methods whose request depends on what :meth:`Method.preflight` found.
        """


Reply = TypeVar("Reply", Completion, PromptLogprobs)


class WrappedClient(LLMClient):
    """Passes calls on to another client; subclasses override :meth:`_call` to add something to each call."""

    def __init__(self, client: LLMClient) -> None:
        self.sampling = client.sampling
        self._client = client

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on."""
        # The role's own sampling: the client at the end of the chain may be shared by roles.
        sampling = sampling or self.sampling
        return await self._call(lambda client: client.generate(messages, schema=schema, sampling=sampling))

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Pass the call on."""
        return await self._call(lambda client: client.token_logprobs(messages, top=top))

    async def ready(self) -> None:
        """Wait until the wrapped client is ready."""
        await self._client.ready()

    async def _call(self, call: Callable[[LLMClient], Awaitable[Reply]]) -> Reply:
        return await call(self._client)


class ReseededClient(WrappedClient):
    """Passes calls on with another seed, so that the cache holds no answer from the first time.

    At temperature 0 the seed has no effect: differences then come from the server's arithmetic. ``token_logprobs`` has
    no seed and is passed on unchanged.

    Args:
        client: the LLM.
        step: what is added to the seed.
    """

    def __init__(self, client: LLMClient, step: int = 1) -> None:
        super().__init__(client)
        self._step = step

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Pass the call on with another seed."""
        sampling = sampling or self.sampling
        reseeded = dataclasses.replace(sampling, seed=(sampling.seed or 0) + self._step)
        return await super().generate(messages, schema=schema, sampling=reseeded)


class Backend(ABC):
    """A configured LLM (``llm@llm.ROLE=...``): defines what its answers depend on, and opens a client to it.

    Attributes:
        model: name of the model, for reports and manifests.
        sampling: default sampling of the role.
        concurrency: maximum number of concurrent requests.
        price: price of tokens, for the cost accounts; None if unknown.
    """

    model: str
    sampling: Sampling
    concurrency: int
    price: Price | None = None

    def __str__(self) -> str:
        """Return the model and where it is served, for messages."""
        return self.model

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything about the model that changes its answers, and nothing else: no URL, time-out or concurrency."""

    @property
    def server(self) -> object | None:
        """Equal (and hashable) for back ends that one managed server can serve; None if no server is managed."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Check everything that can be checked without starting a server or sending a request.

        Raises:
            HarnessError: with the cause and the fix.
        """

    @abstractmethod
    def open(self, logs: Path) -> AbstractAsyncContextManager[LLMClient]:
        """Start a server if needed (its log goes into the folder ``logs``), yield a client, and stop the server."""
