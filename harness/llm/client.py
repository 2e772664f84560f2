"""The one interface through which every LLM is asked, whatever serves it."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import HarnessError
from harness.records import Status


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn.

    Attributes:
        temperature: 0 is greedy; none leaves it to the server (some reasoning models accept no other).
        top_p: nucleus sampling; none leaves it to the server.
        max_tokens: longest answer, in tokens.
        seed: for servers that honour one.
    """

    temperature: float | None = 0.0
    top_p: float | None = 1.0
    max_tokens: int = 512
    seed: int | None = 0

    @classmethod
    def of(cls, options: Sampling | Mapping[str, Any] | None) -> Sampling:
        """Return sampling from what a config says of it.

        Raises:
            HarnessError: if an option is unknown.
        """
        if isinstance(options, Sampling):
            return options
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(options or {}) - set(known))
        if unknown:
            raise HarnessError(f"sampling has no option {unknown[0]!r}; it has {', '.join(known)}")
        return cls(**(options or {}))


@dataclass(frozen=True)
class Price:
    """What a million tokens cost, in one currency of the user's choice."""

    prompt: float
    completion: float

    @classmethod
    def of(cls, options: Price | Mapping[str, Any] | None) -> Price | None:
        """Return the price that a config tells, or none if it tells none.

        Raises:
            HarnessError: if only half of it is told, or it is no price.
        """
        if options is None or isinstance(options, Price):
            return options
        told = {name: value for name, value in options.items() if value is not None}
        if not told:
            return None
        if set(told) != {"prompt", "completion"} or not all(
            isinstance(value, int | float) and value >= 0 for value in told.values()
        ):
            raise HarnessError(
                f"price is {dict(options)}; give the price of a million tokens for both prompt and completion"
            )
        return cls(**told)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Completion:
    """A generated answer, or why there is none.

    Attributes:
        text: the raw answer; kept also when the status is not ok, if any came.
        status: ok, refused, truncated or failed (whether it parses is the asker's to say).
        detail: why it is not ok.
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
    """A token of a prompt, and what the model expected in its place.

    Attributes:
        text: the token as text; empty for the first token, which servers do not spell out.
        alternatives: natural log-probability of each of the most likely tokens at this position given all before it
            (the token itself among them); empty for the first token. Tokens of equal text are summed.
    """

    text: str
    alternatives: Mapping[str, float]


@dataclass(frozen=True)
class PromptLogprobs:
    """The tokens of a prompt with their expectations, or why there are none (status failed)."""

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
    """A question that was not asked because too much had failed before it."""

    def __init__(self, why: str) -> None:
        super().__init__(Status.FAILED, f"{_NOT_ASKED}{why}")

    @staticmethod
    def told_by(detail: str) -> bool:
        """Tell whether a failure's detail says that this is what became of it."""
        return detail.startswith(_NOT_ASKED)


class NotCached(Exception):
    """A question that is not to be asked now, and whose answer is not stored: the item stays as it was."""


class LLMClient(ABC):
    """An LLM that can be asked. Implementations raise only for a user's mistake; failures come back as statuses."""

    #: The role's own sampling, used where the caller gives none.
    sampling: Sampling = Sampling()

    @abstractmethod
    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Answer a conversation; if ``schema`` (a JSON schema of an object) is given, with JSON that fits it."""

    @abstractmethod
    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return every token of a conversation, as the model's chat template renders it, with the ``top`` expectations.

        If the last message is the assistant's it is left open, as an answer in the middle of being written.
        """

    async def ready(self) -> None:  # noqa: B027  # most clients always are
        """Wait until the LLM can be asked and has shown what it can do.

        Whoever asks waits for it anyway; for callers whose question depends on what :meth:`Method.preflight` finds.
        """

    def each(self) -> Sequence[LLMClient]:
        """Return a client to each server behind this one."""
        return (self,)

    def leave_out(self, why: str) -> None:  # noqa: B027  # most clients have but one server
        """Ask the servers behind this client no more, as long as there are others; a lone server stays."""


class Backend(ABC):
    """A configured LLM (``llm@llm.ROLE=...``): says what its answers depend on, and opens a client to it.

    Attributes:
        model: name of the model, for reports and manifests.
        sampling: default sampling of the role.
        concurrency: most requests under way at once.
        price: what tokens cost, for the accounts; none if that is not known.
    """

    model: str
    sampling: Sampling
    concurrency: int
    price: Price | None = None

    def __str__(self) -> str:
        """Return what a user recognises the LLM by: its model, and where it is served."""
        return self.model

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, Any]:
        """Everything about the model that changes its answers, and nothing else: no URL, time-out or concurrency."""

    @property
    def server(self) -> object | None:
        """Equal (and hashable) for back ends that one managed server can serve; none if there is none to manage."""
        return None

    @abstractmethod
    def check(self) -> None:
        """Find what can be found wrong before any time is spent.

        Raises:
            HarnessError: with the cause and the cure.
        """

    @abstractmethod
    def open(self, logs: Path) -> AbstractAsyncContextManager[LLMClient]:
        """Start what must be started (its log goes into the folder ``logs``), yield a client, and stop it again."""
