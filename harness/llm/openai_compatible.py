"""Any server that speaks the OpenAI chat protocol: the OpenAI API itself, vLLM, and most others."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import openai
import pydantic.dataclasses
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import BeforeValidator, Field

from harness.errors import HarnessError
from harness.llm.asking import fits, has_open_thoughts
from harness.llm.client import (
    Backend,
    Completion,
    LLMClient,
    Message,
    OptionalPrice,
    PromptLogprobs,
    PromptToken,
    Sampling,
)
from harness.llm.concurrency import AdaptiveLimit
from harness.records import Status
from harness.validation import STRICT, Count, CountOrZero, Positive

logger = logging.getLogger(__name__)
OPENAI_API = "https://api.openai.com/v1"
NO_KEY = "none"  # the SDK insists on a key; local servers ignore it
KEEP_ALIVE_S = 2.0  # of an idle connection
CONNECT_TIMEOUT_S = 10.0  # a running host accepts at once; only the answer may take long
DETAIL_LENGTH = 300  # characters of a server's message to keep
NO_MONEY = "insufficient_quota"  # OpenAI's code on the 429 for an account without money, where no wait helps
OVERLOADED = {408, 429, 503, 504, 529}  # includes what a proxy sends if a server takes too long
REFUSALS = {"content_filter", "content_policy_violation", "refusal", "safety"}  # as codes and as finish reasons
#: Errors of the present request that are no sign of overload, such as a single status 500. Each task has its own.
_OTHER_ERRORS: ContextVar[int] = ContextVar("_OTHER_ERRORS", default=0)
#: Fields beside the content in which servers put a reasoning model's thoughts: vLLM, SGLang and DeepSeek; OpenRouter,
#: Groq and newer vLLM; Ollama.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
NO_PROBABILITY = -9999.0  # vLLM's own lower bound for a log-probability of minus infinity, which JSON cannot represent

#: The mandatory ``model`` of an LLM's config. Null is refused by :meth:`Endpoint.check`, which says what to add.
ModelName = Annotated[str, BeforeValidator(lambda name: "" if name is None else name)]


@pydantic.dataclasses.dataclass(config=STRICT, eq=False)
class Endpoint(Backend):
    """A back end that speaks the OpenAI chat protocol; ``conf/llm/openai.yaml`` explains the attributes."""

    model: ModelName
    _: KW_ONLY
    revision: str | None = None
    sampling: Sampling = Sampling()
    concurrency: Count = 64
    timeout_s: Positive
    retries: CountOrZero = 5
    price: OptionalPrice = None

    def check(self) -> None:
        """Check that there is a model.

        Raises:
            HarnessError: if there is none.
        """
        if not self.model:
            raise HarnessError(
                "an LLM role has no model: add llm.ROLE.model=NAME, such as llm.explainer.model=Qwen/Qwen3-8B"
            )


@pydantic.dataclasses.dataclass(config=STRICT, eq=False)
class OpenAICompatible(Endpoint):
    """An endpoint that speaks the OpenAI chat protocol and that the harness does not start.

    ``conf/llm/openai.yaml`` explains the options.

    Raises:
        pydantic.ValidationError: if an option is unknown or its value is out of range.
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    timeout_s: Positive = Field(default=120, kw_only=True)
    extra_body: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        """Return the model and the endpoint's address, without any password in it."""
        return f"{self.model} at {_address(self.base_url or OPENAI_API)}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name, the user's revision of it, and the further fields of each request."""
        return {"model": self.model, "revision": self.revision, "extra_body": self.extra_body}

    def check(self) -> None:
        """Check everything that can be checked without a request.

        Raises:
            HarnessError: if model, key or address is missing or malformed.
        """
        super().check()
        if self.base_url is None:
            if not os.environ.get(self.api_key_env):
                raise HarnessError(
                    f"the OpenAI API needs a key: set the environment variable {self.api_key_env}, "
                    "or give base_url for another endpoint"
                )
            return
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise HarnessError(
                f"base_url {_address(self.base_url)!r} is not a web address: it should look like http://HOST:8000/v1"
            )

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Yield a client to the endpoint; nothing is started, and nothing is written to ``logs``."""
        self.check()
        key, url = os.environ.get(self.api_key_env) or NO_KEY, self.base_url or OPENAI_API
        # OpenAI's newer models refuse the old name of the field, and other servers may not know the new one.
        limit_field = "max_completion_tokens" if self.base_url is None else "max_tokens"
        client = OpenAIClient(self, self.model, url, key, extra_body=self.extra_body, limit_field=limit_field)
        async with client.api:
            yield client


class ServerDied(openai.OpenAIError):
    """The server's process has ended, so that no request can succeed."""


class OpenAIClient(LLMClient):
    """The client of every OpenAI-compatible server; the OpenAI client repeats failed requests by its own rules.

    Args:
        endpoint: its sampling, concurrency, time-out and retries apply.
        model: the name sent with every request.
        url: address of the API.
        key: API key.
        extra_body: further fields of every request.
        limit_field: the protocol's name for the maximum length of an answer.
        death: returns why the server is dead, or an empty text while it lives; a dead server gets no more requests.
        trust_env: whether to use the proxies that the environment names.

    Attributes:
        api: the connection, which the caller closes.
        limit: the number of concurrent requests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        url: str,
        key: str,
        *,
        extra_body: Mapping[str, Any] | None = None,
        limit_field: str = "max_tokens",
        death: Callable[[], str] = str,
        trust_env: bool = True,
    ) -> None:
        self.sampling, self.model, self.limit = endpoint.sampling, model, AdaptiveLimit(endpoint.concurrency)
        self._extra_body, self._limit_field, self._death = dict(extra_body or {}), limit_field, death
        self._named_another_model = False

        async def refuse_if_dead(_: object) -> None:
            if why := death():
                raise ServerDied(why)

        async def note_error(response: Any) -> None:
            if response.is_error and response.status_code not in OVERLOADED:
                _OTHER_ERRORS.set(_OTHER_ERRORS.get() + 1)
            if response.status_code == 429 and NO_MONEY.encode() in await response.aread():
                response.headers["x-should-retry"] = "false"  # which the OpenAI client obeys

        limits = type(openai.DEFAULT_CONNECTION_LIMITS)(  # of whichever HTTP library the SDK uses
            max_connections=max(endpoint.concurrency, 100),
            max_keepalive_connections=endpoint.concurrency,
            # Less than the servers' usual five seconds (uvicorn's): a request is lost if it meets the server closing
            # its connection.
            keepalive_expiry=KEEP_ALIVE_S,
        )
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [refuse_if_dead], "response": [note_error]}
        self.api = openai.AsyncOpenAI(
            api_key=key,
            base_url=url,
            timeout=openai.Timeout(endpoint.timeout_s, connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s)),
            max_retries=endpoint.retries,
            http_client=openai.DefaultAsyncHttpxClient(limits=limits, trust_env=trust_env, event_hooks=hooks),
        )

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Answer a conversation; ``schema`` is sent as a strict ``response_format``."""
        sampling = sampling or self.sampling
        fields: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            self._limit_field: sampling.max_tokens,
        }
        if schema is not None:
            name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.get("title") or "answer"))[:64]
            json_schema = {"name": name, "schema": dict(schema), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        answer = await self._request(messages, fields, self._extra_body)
        return _completion(answer, schema) if isinstance(answer, ChatCompletion) else answer

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Read the prompt's log-probabilities, which vLLM offers as ``prompt_logprobs`` and the OpenAI API does not."""
        open_answer = bool(messages) and messages[-1].role == "assistant"
        extra_body = {
            **self._extra_body,
            "continue_final_message": open_answer,
            "add_generation_prompt": not open_answer,
            "prompt_logprobs": top,
            "return_token_ids": True,
        }
        answer = await self._request(messages, {self._limit_field: 1, "temperature": 0.0}, extra_body)
        if isinstance(answer, ChatCompletion):
            return _prompt_logprobs(answer)
        detail = answer.detail
        if re.match(r"HTTP 4(00|22)\b", detail):
            detail = f"the server refused prompt_logprobs={top}, which vLLM offers up to its max-logprobs ({detail})"
        return PromptLogprobs((), Status.FAILED, detail)

    async def _request(
        self, messages: Sequence[Message], fields: Mapping[str, Any], extra_body: Mapping[str, Any]
    ) -> ChatCompletion | Completion:
        """Send a request; return the server's answer, or a completion that says why there is none."""
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "extra_body": extra_body,
            **{name: value for name, value in fields.items() if value is not None},
        }
        status = Status.FAILED
        try:
            answer = await self._send(arguments)
        except openai.APIStatusError as error:
            status = Status.REFUSED if error.code in REFUSALS else status
            detail = f"HTTP {error.status_code}: {_message(error)}"
        except openai.APITimeoutError:
            detail = "no answer within the time-out"
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            detail = f"connection failed: {str(cause) or type(cause).__name__}"
        except (openai.OpenAIError, ValueError, TypeError) as error:
            # The SDK does not catch what its own code raises at a body that is not JSON or not UTF-8.
            detail = f"{type(error).__name__}: {error}"
        else:
            if isinstance(answer, ChatCompletion) and answer.choices and answer.choices[0].message is not None:
                self._check_name(answer.model or "")
                return answer
            return Completion("", status, "the server's answer does not follow the OpenAI chat protocol")
        detail = " ".join(detail.split())
        if self.api.api_key != NO_KEY:
            detail = detail.replace(self.api.api_key, "***")
        return Completion("", status, self._death() or detail[:DETAIL_LENGTH])

    def _check_name(self, answering: str) -> None:
        """Warn once if the server names another model: some servers answer with whatever model they have loaded."""
        asked = self.model.rpartition("/")[2].lower()
        if answering and asked not in answering.lower() and not self._named_another_model:
            self._named_another_model = True
            logger.warning(
                "%s was asked for %s and answers as %s: set llm.ROLE.model to the model that it serves, because the "
                "cache and the report name it",
                *(_address(str(self.api.base_url)).rstrip("/"), self.model, answering),
            )

    async def _send(self, arguments: Mapping[str, Any]) -> object:
        """Wait for a free slot, send a request, and adapt the number of slots to how the server copes."""
        async with self.limit.slot() as slot:
            _OTHER_ERRORS.set(0)
            try:
                raw = await self.api.chat.completions.with_raw_response.create(**arguments)
            except openai.APITimeoutError:
                slot.overloaded = True
                raise
            except openai.APIStatusError as error:
                slot.overloaded = error.status_code in OVERLOADED and error.code != NO_MONEY
                raise
            slot.overloaded = raw.retries_taken > _OTHER_ERRORS.get()
            slot.answered = True
            return raw.parse()


def _address(url: str) -> str:
    """Return a URL without the parts in which people keep passwords and keys."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else error.message


def _completion(answer: ChatCompletion, schema: Mapping[str, Any] | None) -> Completion:
    choice = answer.choices[0]
    text, refusal = _text(choice.message, schema)
    finish: str | None = choice.finish_reason
    status, detail = Status.OK, ""
    if refusal or finish in REFUSALS:
        status, detail = Status.REFUSED, refusal or "stopped by the server's content filter"
    elif finish in ("length", "max_tokens"):
        status, detail = Status.TRUNCATED, "the answer hit max_tokens"
    elif not text.strip():
        status, detail = Status.FAILED, f"the answer is empty (finish_reason {finish})"
    elif has_open_thoughts(text) and (schema is None or not fits(text, schema)):
        status, detail = Status.TRUNCATED, f"the model's thoughts do not end (finish_reason {finish})"
    usage = answer.usage
    return Completion(
        text,
        status,
        " ".join(detail.split())[:DETAIL_LENGTH],
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )


def _text(message: ChatCompletionMessage, schema: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return a model's answer, wherever the server put it, and its refusal, or an empty text.

    A server that separates a reasoning model's thoughts from its answer may put everything into the thoughts: if the
    model wrote no marks around its thoughts, or if the schema left no room for marks. So if the content does not hold
    the answer, the thoughts are put back in front of it, as a server that separates nothing would return them.
    """
    refusals = [message.refusal or ""]
    extra = message.model_extra or {}
    answers, thoughts = [], [str(extra[name]) for name in THOUGHTS if isinstance(extra.get(name), str)][:1]
    for part in _parts(message.content):
        kind = part.get("type", "text")
        if kind == "refusal":
            refusals.append(str(part.get("refusal") or ""))
        elif kind in THOUGHTS:
            thoughts += _strings(part.get(kind) or part.get("text"))
        else:
            answers += _strings(part.get("text"))
    text, thought = "".join(answers), "".join(thoughts)
    if thought.strip() and not (text.strip() if schema is None else fits(text, schema)):
        text = f"<think>{thought}</think>{text}" if schema is not None else thought.rpartition("</think>")[2]
    return text, next(filter(None, refusals), "")


def _parts(content: object) -> Iterator[Mapping[str, Any]]:
    """Yield a message's content as parts: some servers send text, some a list of parts, some the object itself."""
    if isinstance(content, Mapping):
        yield {"text": json.dumps(content)}
    elif isinstance(content, list):
        yield from (part if isinstance(part, Mapping) else {"text": str(part)} for part in content)
    elif content is not None:
        yield {"text": str(content)}


def _strings(value: object) -> list[str]:
    """Return a text, or the texts of a list of parts."""
    if isinstance(value, list):
        return [text for part in value for text in _strings(part.get("text") if isinstance(part, Mapping) else part)]
    return [value] if isinstance(value, str) else []


def _prompt_logprobs(answer: ChatCompletion) -> PromptLogprobs:
    extra = answer.model_extra or {}
    positions, token_ids = extra.get("prompt_logprobs"), extra.get("prompt_token_ids")
    if not positions or not token_ids:
        missing = "prompt_token_ids" if positions else "prompt_logprobs"
        detail = f"the server does not offer {missing} for chat requests; vLLM from 0.11 on does"
        return PromptLogprobs((), Status.FAILED, detail)
    try:
        # strict: with lists of different length, later predictions would belong to the wrong token.
        tokens = tuple(_prompt_token(token, entries) for token, entries in zip(token_ids, positions, strict=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return PromptLogprobs((), Status.FAILED, f"the server's prompt_logprobs make no sense: {error!r}")
    return PromptLogprobs(tokens, prompt_tokens=len(tokens))


def _prompt_token(token: int, entries: Mapping[str, Mapping[str, Any]] | None) -> PromptToken:
    if not entries:
        return PromptToken("", {})
    alternatives: dict[str, float] = {}
    for entry in entries.values():
        text, logprob = entry["decoded_token"] or "", _finite(entry["logprob"])
        alternatives[text] = float(np.logaddexp(alternatives[text], logprob)) if text in alternatives else logprob
    own = entries[str(token)]
    text = own["decoded_token"] or ""
    return PromptToken(text, alternatives | {text: _finite(own["logprob"])})


def _finite(logprob: float | None) -> float:
    if logprob is None or logprob == -math.inf:
        return NO_PROBABILITY
    if not math.isfinite(logprob):
        raise ValueError(f"a log-probability of {logprob}")
    return max(float(logprob), NO_PROBABILITY)
