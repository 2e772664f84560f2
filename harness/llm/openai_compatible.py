"""Any server that speaks the OpenAI chat protocol: the OpenAI API itself, vLLM, and most others."""

from __future__ import annotations

import email.utils
import json
import logging
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
)

from harness.errors import HarnessError
from harness.llm.asking import fits, thinks_on
from harness.llm.client import (
    Backend,
    Completion,
    LLMClient,
    Message,
    Price,
    PromptLogprobs,
    PromptToken,
    Sampling,
)
from harness.llm.concurrency import AdaptiveLimit
from harness.records import Status

logger = logging.getLogger(__name__)

OPENAI_API = "https://api.openai.com/v1"
NO_KEY = "none"  # the SDK insists on a key; local servers ignore it
KEEP_ALIVE_S = 2.0  # of a connection that nobody uses
CONNECT_TIMEOUT_S = 10.0  # a host that is there accepts at once; only the answer may take long
LONGEST_WAIT_S = 60.0  # of a Retry-After header, too: a run must not sleep for the hour that a quota asks for
DETAIL_LENGTH = 300  # characters of a server's message worth keeping
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # of a server that could not be reached, while others live
NO_MONEY = "insufficient_quota"  # OpenAI's code on the 429 for an account without money: no wait mends it
OVERRUN = {408, 429, 503, 504, 529}  # "too much", "later", and what a proxy says of a server that took too long
REFUSALS = {"content_filter", "content_policy_violation", "refusal", "safety"}  # as codes and as finish reasons
#: Fields beside the content in which servers put what a model thought before it answered: vLLM, SGLang and DeepSeek;
#: OpenRouter, Groq and newer vLLM; Ollama.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
NO_PROBABILITY = -9999.0  # vLLM's own floor for a log-probability of minus infinity, which JSON cannot carry


class OpenAICompatible(Backend):
    """An endpoint that speaks the OpenAI chat protocol and is run by someone else.

    Args:
        model: the model's name, as the endpoint knows it.
        base_url: address of the API, ending in ``/v1`` as a rule; several are servers of the same model, over which
            requests are spread; none means the OpenAI API.
        api_key_env: name of the environment variable that holds the key. The OpenAI API needs one; another endpoint
            is sent a placeholder if the variable is unset.
        revision: anything that tells apart two models that were served under one name, such as a date or a commit.
        sampling: default sampling of the role.
        concurrency: most requests under way at once, over all addresses; how many there are follows from how the
            servers keep up.
        timeout_s: longest wait for one answer, in seconds.
        retries: how often a request is tried again after a failure that may pass.
        extra_body: further fields of every request, beyond the OpenAI protocol; part of the model's identity.
        price: what tokens cost, for the accounts.
    """

    def __init__(
        self,
        model: str | None,
        base_url: str | Sequence[str] | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        revision: str | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        concurrency: int = 64,
        timeout_s: float = 120,
        retries: int = 5,
        extra_body: Mapping[str, Any] | None = None,
        price: Price | Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model or ""
        self.sampling = Sampling.of(sampling)
        self.concurrency = concurrency
        self.price = Price.of(price)
        self.urls = [base_url] if isinstance(base_url, str) else list(base_url or [])
        self.api_key_env, self.revision = api_key_env, revision
        self.timeout_s, self.retries = timeout_s, retries
        self.extra_body = dict(extra_body or {})

    def __str__(self) -> str:
        """Return the model and the endpoint's address, without any password in it."""
        return f"{self.model} at {', '.join(map(_address, self.urls or [OPENAI_API]))}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's name, the user's revision of it, and the further fields of each request."""
        return {"model": self.model, "revision": self.revision, "extra_body": self.extra_body}

    def check(self) -> None:
        """Check what can be checked without a request.

        Raises:
            HarnessError: if model, key or address is missing or malformed.
        """
        check_common(self)
        if not self.urls and not os.environ.get(self.api_key_env):
            raise HarnessError(
                f"the OpenAI API needs a key: set the environment variable {self.api_key_env}, "
                "or give base_url for another endpoint"
            )
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise HarnessError(
                    f"base_url {_address(url)!r} is no web address: it should look like http://HOST:8000/v1"
                )

    @asynccontextmanager
    async def open(self, logs: Path) -> AsyncIterator[LLMClient]:
        """Yield a client to the endpoint; nothing is started, and ``logs`` stays empty."""
        self.check()
        async with AsyncExitStack() as stack:
            servers = []
            for url in self.urls or [OPENAI_API]:
                api = openai.AsyncOpenAI(
                    api_key=os.environ.get(self.api_key_env) or NO_KEY,
                    base_url=url,
                    timeout=timeout(self.timeout_s),
                    max_retries=0,
                    http_client=connected(self.concurrency),
                )
                servers.append(Server(await stack.enter_async_context(api), _address(url), self.concurrency))
            yield OpenAIClient(
                servers,
                self.model,
                sampling=self.sampling,
                retries=self.retries,
                extra_body=self.extra_body,
                # OpenAI's newer models refuse the old name, and other servers may not know the new one.
                limit_field="max_tokens" if self.urls else "max_completion_tokens",
            )


class Server:
    """One of the servers that a client asks: how much it can take, and whether it is there.

    A server that cannot be reached is left alone for a while, longer each time, as long as another can be asked.

    Args:
        api: the connection, which the caller closes.
        name: what a user recognises it by.
        concurrency: most requests at once.
        epitaph: returns why the server is gone for good, or nothing while it lives; a dead server is not asked again.
    """

    def __init__(self, api: openai.AsyncOpenAI, name: str, concurrency: int, epitaph: Callable[[], str] = str) -> None:
        self.api, self.name = api, name
        self.limit = AdaptiveLimit(concurrency)
        self._epitaph, self._left_out = epitaph, ""
        self._pause, self.back_at = 0.0, 0.0

    @property
    def gone(self) -> str:
        """Why it is not to be asked any more; empty while it is."""
        return self._left_out or self._epitaph()

    def leave_out(self, why: str) -> None:
        """Ask it no more."""
        self._left_out = why

    async def send(self, arguments: Mapping[str, Any]) -> object:
        """Send one request when there is a place for it, and learn from what becomes of it."""
        async with self.limit.place() as place:
            try:
                answer: object = await self.api.chat.completions.create(**arguments)
            except openai.APITimeoutError as error:
                # By name: which HTTP library the SDK uses is its own affair.
                if type(error.__cause__).__name__ == "ConnectTimeout":
                    self._unreachable()
                place.overrun = True
                raise
            except openai.APIConnectionError:
                self._unreachable()
                raise
            except openai.APIStatusError as error:
                place.overrun = error.status_code in OVERRUN and error.code != NO_MONEY
                raise
            place.kept_up = True
        self._pause = self.back_at = 0.0
        return answer

    def _unreachable(self) -> None:
        now = time.monotonic()
        if now < self.back_at:  # requests that failed together tell of one event
            return
        self._pause = min(max(2 * self._pause, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
        self.back_at = now + self._pause


class OpenAIClient(LLMClient):
    """The client of every OpenAI-compatible server.

    Args:
        servers: where it is served; a request goes to the one with the lowest load.
        model: the name sent with every request.
        sampling: used where the caller gives none.
        retries: how often a request is tried again after a failure that may pass.
        extra_body: further fields of every request.
        limit_field: the protocol's name for the longest answer.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        model: str,
        *,
        sampling: Sampling,
        retries: int,
        extra_body: Mapping[str, Any] | None = None,
        limit_field: str = "max_tokens",
    ) -> None:
        self.sampling = sampling
        self.servers, self.model, self._retries = list(servers), model, retries
        self._extra_body, self._limit_field = dict(extra_body or {}), limit_field

    def each(self) -> Sequence[LLMClient]:
        """Return a client to each server alone."""
        return [
            OpenAIClient(
                [server],
                self.model,
                sampling=self.sampling,
                retries=self._retries,
                extra_body=self._extra_body,
                limit_field=self._limit_field,
            )
            for server in self.servers
        ]

    def leave_out(self, why: str) -> None:
        """Ask none of these servers any more, through no client."""
        for server in self.servers:
            logger.warning("%s is left out: %s", server.name, why)
            server.leave_out(why)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Answer a conversation; ``schema`` is sent as a strict ``response_format``."""
        drawn = sampling or self.sampling
        fields: dict[str, Any] = {
            "temperature": drawn.temperature,
            "top_p": drawn.top_p,
            "seed": drawn.seed,
            self._limit_field: drawn.max_tokens,
        }
        if schema is not None:
            name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.get("title") or "answer"))[:64]
            json_schema = {"name": name, "schema": dict(schema), "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        answer = await self._ask(messages, fields, self._extra_body)
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
        answer = await self._ask(messages, {self._limit_field: 1, "temperature": 0.0}, extra_body)
        if isinstance(answer, ChatCompletion):
            return _prompt_logprobs(answer)
        detail = answer.detail
        if re.match(r"HTTP 4(00|22)\b", detail):
            detail = f"the server refused prompt_logprobs={top}, which vLLM offers up to its max-logprobs ({detail})"
        return PromptLogprobs((), Status.FAILED, detail)

    async def _ask(
        self, messages: Sequence[Message], fields: Mapping[str, Any], extra_body: Mapping[str, Any]
    ) -> ChatCompletion | Completion:
        """Send a request, again if need be; return the server's answer, or a completion that says why there is none."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._may_pass),
            wait=self._wait,
            stop=stop_after_attempt(self._retries + 1),
            reraise=True,
        )
        arguments: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "extra_body": dict(extra_body),
            **{name: value for name, value in fields.items() if value is not None},
        }

        async def send() -> object:
            unreachable: list[Server] = []
            while True:
                server = self._choose(unreachable)
                try:
                    return await server.send(arguments)
                except openai.APITimeoutError:
                    raise
                except openai.APIConnectionError:
                    unreachable.append(server)
                    if not self._reachable(unreachable):
                        raise

        try:
            answer: object = await retrying(send)
        except openai.APIStatusError as error:
            status = Status.REFUSED if error.code in REFUSALS else Status.FAILED
            return Completion("", status, self._detail(f"HTTP {error.status_code}: {_message(error)}"))
        except openai.APITimeoutError:
            return Completion("", Status.FAILED, self._detail("no answer within the time-out"))
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return Completion(
                "", Status.FAILED, self._detail(f"connection failed: {str(cause) or type(cause).__name__}")
            )
        except (openai.OpenAIError, ValueError, TypeError) as error:
            # The SDK lets through what a body that is no JSON, or text that is no UTF-8, makes of its own code.
            return Completion("", Status.FAILED, self._detail(f"{type(error).__name__}: {error}"))
        if not isinstance(answer, ChatCompletion) or not answer.choices or answer.choices[0].message is None:
            return Completion("", Status.FAILED, "the server's answer is not of the OpenAI chat protocol")
        return answer

    def _reachable(self, unreachable: Sequence[Server] = ()) -> list[Server]:
        now = time.monotonic()
        return [
            server for server in self.servers if not server.gone and server.back_at <= now and server not in unreachable
        ]

    def _choose(self, unreachable: Sequence[Server]) -> Server:
        """Return the server with the lowest load of those that can be reached; if none can, the first to try again."""
        reachable = self._reachable(unreachable)
        if reachable:
            return min(reachable, key=lambda server: server.limit.load)
        living = [server for server in self.servers if not server.gone] or self.servers
        return min(living, key=lambda server: server.back_at)

    def _may_pass(self, error: BaseException) -> bool:
        if all(server.gone for server in self.servers):
            return False
        if isinstance(error, openai.APIStatusError):
            if error.code == NO_MONEY:
                return False
            return error.status_code in (408, 409, 429) or error.status_code >= 500
        return isinstance(error, openai.APIConnectionError)

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds to wait: what the server asks for, else exponentially more with jitter."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, openai.APIStatusError):
            asked = _retry_after(error.response.headers.get("retry-after"))
            if asked is not None:
                return min(asked, LONGEST_WAIT_S)
        return _backoff(state)

    def _detail(self, text: str) -> str:
        text = " ".join(text.split())
        for key in {server.api.api_key for server in self.servers} - {NO_KEY}:
            text = text.replace(key, "***")
        gone = [server.gone for server in self.servers]
        return f"{gone[0]} ({text[:DETAIL_LENGTH]})" if all(gone) else text[:DETAIL_LENGTH]


def check_common(backend: Backend) -> None:
    """Check what every back end with a model's name has.

    Raises:
        HarnessError: if the model is missing or a number is out of range.
    """
    if not backend.model:
        raise HarnessError(
            "an LLM role has no model: add llm.ROLE.model=NAME, such as llm.explainer.model=Qwen/Qwen3-8B"
        )
    if backend.concurrency < 1:
        raise HarnessError(f"concurrency is {backend.concurrency}; it must be at least 1")
    if backend.sampling.max_tokens < 1:
        raise HarnessError(f"sampling.max_tokens is {backend.sampling.max_tokens}; it must be at least 1")


def timeout(seconds: float) -> openai.Timeout:
    """Return a time-out of ``seconds`` for an answer, and of no more than ten seconds for a connection."""
    return openai.Timeout(seconds, connect=min(CONNECT_TIMEOUT_S, seconds))


def connected(concurrency: int, **options: Any) -> openai.DefaultAsyncHttpxClient:
    """Return the HTTP client of a connection, with room for each request that may be under way.

    Connections that nobody uses are given up before the servers do, whose usual five seconds (uvicorn's) are the HTTP
    library's own: a request that meets the other end closing its connection is lost.
    """
    limits = type(openai.DEFAULT_CONNECTION_LIMITS)(  # of whichever HTTP library the SDK uses
        max_connections=max(concurrency, 100), max_keepalive_connections=concurrency, keepalive_expiry=KEEP_ALIVE_S
    )
    return openai.DefaultAsyncHttpxClient(limits=limits, **options)


def _address(url: str) -> str:
    """Return a URL without the parts in which people keep passwords and keys."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    return str(body["message"]) if isinstance(body, dict) and body.get("message") else error.message


_backoff = wait_exponential_jitter(initial=0.5, max=30, jitter=1)


def _retry_after(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


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
    elif thinks_on(text) and (schema is None or not fits(text, schema)):
        status, detail = Status.TRUNCATED, f"the model's thinking has no end (finish_reason {finish})"
    usage = answer.usage
    return Completion(
        text,
        status,
        " ".join(detail.split())[:DETAIL_LENGTH],
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )


def _text(message: ChatCompletionMessage, schema: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return what a model answered, wherever the server put it, and why it refused, if it did.

    A server that takes a reasoning model's answer apart may put all of it where the thoughts belong: if it ran without
    the marks of thinking, or under a schema that left no room for them. So if the content does not hold what was asked
    for, the thoughts are put back in front of it, as a server that takes nothing apart would give them.
    """
    refusals = [message.refusal or ""]
    said, thought = [], [str(value) for name in THOUGHTS if isinstance(value := _extra(message, name), str)][:1]
    for part in _parts(message.content):
        kind = part.get("type", "text")
        if kind == "refusal":
            refusals.append(str(part.get("refusal") or ""))
        elif kind in THOUGHTS:
            thought += ["".join(_strings(part.get(kind) or part.get("text")))]
        else:
            said += _strings(part.get("text"))
    text, thoughts = "".join(said), "".join(thought)
    if thoughts.strip() and not (text.strip() if schema is None else fits(text, schema)):
        text = f"<think>{thoughts}</think>{text}" if schema is not None else thoughts.rpartition("</think>")[2]
    return text, next(filter(None, refusals), "")


def _extra(message: ChatCompletionMessage, name: str) -> object:
    return (message.model_extra or {}).get(name)


def _parts(content: object) -> Iterator[Mapping[str, Any]]:
    """Yield a message's content as parts; some servers give text, some a list of parts, some the object itself."""
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
        # strict: two lists that do not line up would put every later expectation at the wrong token.
        tokens = tuple(_prompt_token(token, found) for token, found in zip(token_ids, positions, strict=True))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return PromptLogprobs((), Status.FAILED, f"the server's prompt_logprobs make no sense: {error!r}")
    return PromptLogprobs(tokens, prompt_tokens=len(tokens))


def _prompt_token(token: int, found: Mapping[str, Mapping[str, Any]] | None) -> PromptToken:
    if not found:
        return PromptToken("", {})
    alternatives: dict[str, float] = {}
    for entry in found.values():
        text, logprob = entry["decoded_token"] or "", _finite(entry["logprob"])
        alternatives[text] = _log_sum(alternatives[text], logprob) if text in alternatives else logprob
    return PromptToken(found[str(token)]["decoded_token"] or "", alternatives)


def _finite(logprob: float | None) -> float:
    if logprob is None or logprob == -math.inf:
        return NO_PROBABILITY
    if not math.isfinite(logprob):
        raise ValueError(f"a log-probability of {logprob}")
    return max(float(logprob), NO_PROBABILITY)


def _log_sum(left: float, right: float) -> float:
    high, low = max(left, right), min(left, right)
    return high + math.log1p(math.exp(low - high))
