"""Which LLM servers run when: started on demand, shared by the roles they can serve, stopped to make room."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import HarnessError
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Backend, Completion, LLMClient, Message, PromptLogprobs, Sampling
from harness.llm.probe import probe, probe_logprobs
from harness.records import Status

logger = logging.getLogger(__name__)


class Serving:
    """The LLMs of a run by role, as an async context manager: at its end, every server is stopped.

    Roles whose back ends name an equal ``server`` share one; the time-out and retries of the role that comes first
    then hold for all.

    Args:
        backends: the back end of each role that has one.
        cache: where answers are kept; none asks for each anew.
        logs: folder of the servers' logs.
        max_servers: most managed servers at once; endpoints do not count, for nothing is started for them.
    """

    def __init__(
        self, backends: Mapping[str, Backend], cache: ResponseCache | None, logs: Path, max_servers: int = 1
    ) -> None:
        if max_servers < 1:
            raise HarnessError(f"max_servers is {max_servers}; it must be at least 1")
        self._backends, self._cache, self._logs, self._max_servers = dict(backends), cache, logs, max_servers
        self._slots: dict[object, _Slot] = {}
        self._clients: dict[str, CachedClient] = {}
        self._proven: set[tuple[str, bool]] = set()
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Serving:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # All at once, so that a run with several servers does not wait for each one's grace in turn.
        endings = [slot.stop("the run is over", drain=False) for slot in self._slots.values()]
        results = await asyncio.gather(*endings, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and error is None:
                raise result

    def check(self) -> None:
        """Check every role's back end without starting anything.

        Raises:
            HarnessError: for the first role with something wrong.
        """
        for role in self._backends:
            self._check(role)

    async def preflight(self, role: str, *, needs_logprobs: bool = False) -> None:
        """Check a role before any time is spent: an endpoint is asked, of a server to be started only the config.

        Raises:
            HarnessError: as :meth:`check` and :meth:`client` do.
        """
        if self._backend(role).server is None:
            await self.client(role, needs_logprobs=needs_logprobs)
        else:
            self._check(role)

    async def client(self, role: str, *, needs_logprobs: bool = False) -> LLMClient:
        """Return the client of a role, its server running, its answers cached, its concurrency bounded.

        It is the same object each time. If the role's server has to make room for another, requests under way are
        waited for and later ones come back failed, until the role is asked for here again.

        Args:
            role: the role.
            needs_logprobs: whether ``token_logprobs`` will be asked for, which not every server offers.

        Raises:
            HarnessError: if the role has no LLM, its server does not start, it does not answer, cannot produce JSON
                that fits a schema, or gives no log-probabilities where they are needed.
        """
        backend = self._backend(role)
        async with self._changing:
            slot = await self._running(role, backend)
            await self._prove(role, backend, slot, needs_logprobs)
        if role not in self._clients:
            self._clients[role] = CachedClient(slot, backend, self._cache)
        return self._clients[role]

    def lazily(self, role: str, *, needs_logprobs: bool = False) -> LLMClient:
        """Return a client that calls :meth:`client` at the first question: a role that nobody asks starts no server."""
        return _Lazy(self, role, needs_logprobs)

    def _backend(self, role: str) -> Backend:
        if role not in self._backends:
            raise HarnessError(f"no LLM is configured for the role {role!r}: add llm@llm.{role}=vllm or =openai")
        return self._backends[role]

    def _check(self, role: str) -> None:
        try:
            self._backends[role].check()
        except HarnessError as error:
            raise HarnessError(f"llm.{role}: {error}") from error

    async def _running(self, role: str, backend: Backend) -> _Slot:
        name = ("endpoint", role) if backend.server is None else ("server", backend.server)
        slot = self._slots.pop(name, None) or _Slot(managed=backend.server is not None)
        # Put back at the end: the order is that of use, least recent first.
        self._slots[name] = slot
        if not slot.running:
            if slot.managed:
                await self._make_room()
            await slot.start(backend, self._logs)
        return slot

    async def _make_room(self) -> None:
        running = [slot for slot in self._slots.values() if slot.managed and slot.running]
        for slot in running[: len(running) - self._max_servers + 1]:
            await slot.stop("its server was stopped to make room for another: raise max_servers to keep both")

    async def _prove(self, role: str, backend: Backend, slot: _Slot, needs_logprobs: bool) -> None:
        if (role, False) not in self._proven:
            await probe(role, backend, slot)
            self._proven.add((role, False))
        if needs_logprobs and (role, True) not in self._proven:
            await probe_logprobs(role, backend, slot)
            self._proven.add((role, True))


class _Lazy(LLMClient):
    """A role's client, had at the first question."""

    def __init__(self, serving: Serving, role: str, needs_logprobs: bool) -> None:
        self.sampling = serving._backend(role).sampling
        self._open = functools.partial(serving.client, role, needs_logprobs=needs_logprobs)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        return await (await self._open()).generate(messages, schema=schema, sampling=sampling)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        return await (await self._open()).token_logprobs(messages, top=top)


class _Slot(LLMClient):
    """The place of one server, which outlives its starts and stops: clients keep hold of it, not of the server."""

    def __init__(self, *, managed: bool) -> None:
        self.managed = managed
        self._client: LLMClient | None = None
        self._stack = AsyncExitStack()
        self._gone = ""
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> bool:
        return self._client is not None

    async def start(self, backend: Backend, logs: Path) -> None:
        logger.info("opening %s", backend)
        self._client = await self._stack.enter_async_context(backend.open(logs))

    async def stop(self, why: str, *, drain: bool = True) -> None:
        self._client, self._gone = None, why
        if drain:
            await self._idle.wait()
        await self._stack.aclose()

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        if self._client is None:
            return Completion("", Status.FAILED, self._gone)
        with self._counted():
            return await self._client.generate(messages, schema=schema, sampling=sampling)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        if self._client is None:
            return PromptLogprobs((), Status.FAILED, self._gone)
        with self._counted():
            return await self._client.token_logprobs(messages, top=top)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
