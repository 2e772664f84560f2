"""When LLM servers run: started on demand, shared by roles with the same server, stopped to make room for others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from harness.errors import HarnessError
from harness.llm.budget import FailureBudget, SpendingLimit
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Backend, LLMClient, Reply, WrappedClient
from harness.llm.probe import probe, probe_logprobs
from harness.validation import STRICT, Count, FractionOrZero, Positive

logger = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT)
class ServingConfig:
    """The section ``serving`` of the config; ``conf/config.yaml`` documents the options."""

    cache: str = ".cache/llm"
    max_servers: Count = 1
    preflight: Literal["endpoints", "all", "none"] = "endpoints"
    failure_budget: FractionOrZero | None = None
    failure_minimum: Count = 20
    max_calls: Count | None = None
    max_cost: Positive | None = None
    redraw: bool = False


class Serving(AbstractAsyncContextManager["Serving"]):
    """The LLMs of a run by role, as an async context manager that stops every server at its end.

    Roles whose back ends have an equal ``server`` share one; the concurrency, time-out and retries of the role that
    comes first then apply to the server.

    Args:
        backends: the back end of each role that has one.
        cache: where answers are stored; None stores none.
        logs: folder of the servers' logs.
        ask: whether LLMs may be called; if not, answers come from the cache alone, and nothing is started.
        spent: calls that the run has sent before, and what it has paid for them.
        options: the fields of :class:`ServingConfig`.

    Raises:
        pydantic.ValidationError: if an option is out of range.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        cache: ResponseCache | None,
        logs: Path,
        /,
        *,
        ask: bool = True,
        spent: tuple[int, float] = (0, 0.0),
        **options: Any,
    ) -> None:
        self._backends, self._cache, self._logs, self._ask = dict(backends), cache, logs, ask
        self._config = ServingConfig(**options)
        self._budgets: list[FailureBudget] = []
        self.limit = SpendingLimit(self._config.max_calls, self._config.max_cost, *spent)
        #: Least recently used first.
        self._servers: dict[object, _Server] = {}
        self._starting = asyncio.Lock()
        self._once: dict[str, asyncio.Lock] = {}
        self._done: set[str] = set()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # All at once, so that a run with several servers does not wait for them in turn.
        stops = [server.stop(drain=False) for server in self._servers.values()]
        results = await asyncio.gather(*stops, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and error is None:
                raise result

    async def preflight(self, role: str, *, needs_logprobs: bool = False, start: bool = False) -> bool:
        """Check a role before the run spends any time, and return whether its LLM was called.

        Args:
            role: the role.
            needs_logprobs: whether ``token_logprobs`` will be called.
            start: whether to start a managed server for it; if not, only its config is checked.

        Raises:
            HarnessError: if the role has no LLM or is misconfigured, or if its server does not start, does not answer,
                cannot produce JSON that fits a schema, or gives no log-probabilities where they are needed.
        """
        backend = self._backend(role)
        try:
            backend.check()
        except HarnessError as error:
            raise HarnessError(f"llm.{role}: {error}") from error
        if backend.server is None or start:
            async with self._running(role, needs_logprobs):
                return True
        return False

    async def rest(self) -> None:
        """Stop every managed server to free its memory; the next request starts it again."""
        async with self._starting:
            for server in self._servers.values():
                if server.managed:
                    await server.stop()

    async def once(self, name: str, proof: Callable[[], Awaitable[None]]) -> None:
        """Run a check of what LLMs can do, unless one of this name has succeeded or no LLM may be called."""
        if not self._ask or name in self._done:
            return
        async with self._once.setdefault(name, asyncio.Lock()):
            if name not in self._done:
                await proof()
                self._done.add(name)

    def budget(self, name: str) -> FailureBudget:
        """Return the failure budget of a method for this run."""
        # If no LLM may be called, a limit saves nothing: every stored answer is read, usable or not.
        self._budgets.append(
            FailureBudget(name, self._config.failure_budget if self._ask else None, self._config.failure_minimum)
        )
        return self._budgets[-1]

    @property
    def ended_early(self) -> list[str]:
        """One line for each method that spent its failure budget, and one if the run has spent what it may."""
        return [reason for reason in (*(budget.spent for budget in self._budgets), self.limit.spent) if reason]

    def client(self, role: str, *, needs_logprobs: bool = False) -> LLMClient:
        """Return an uncached client, whose first request starts the role's server and checks what it can do.

        If the server has made room for another, the next request starts it again.

        Raises:
            HarnessError: if the role has no LLM; requests raise it as :meth:`preflight` does.
        """
        return _RoleClient(self, role, self._backend(role), needs_logprobs)

    def cached(self, role: str, client: LLMClient) -> LLMClient:
        """Return a client that answers from the cache, and calls ``client`` (of the same role) for the rest."""
        return CachedClient(client if self._ask else None, self._backend(role), self._cache, redraw=self._config.redraw)

    def _backend(self, role: str) -> Backend:
        if role not in self._backends:
            raise HarnessError(f"no LLM is configured for the role {role!r}: add llm@llm.{role}=vllm or =openai")
        return self._backends[role]

    @asynccontextmanager
    async def _running(self, role: str, needs_logprobs: bool) -> AsyncIterator[LLMClient]:
        """Yield the client of a role's server, which is started if needed and is not stopped meanwhile.

        A server makes room for another only while it is idle. The requests of a method that uses two LLMs in turn then
        gather for each of them, and the servers change rarely.
        """
        backend = self._backend(role)
        name = ("endpoint", role) if backend.server is None else ("server", backend.server)
        server = self._servers.setdefault(name, _Server(managed=backend.server is not None))
        while True:
            async with self._starting:
                in_use = None if server.client is not None or not server.managed else await self._make_room()
                if in_use is None:
                    self._servers[name] = self._servers.pop(name)  # moved to the end: the most recently used
                    client = await self._proven(server, role, needs_logprobs)
                    server.count(1)
                    break
            await in_use.idle.wait()
        try:
            yield client
        finally:
            server.count(-1)

    async def _make_room(self) -> _Server | None:
        """Stop idle servers until another one may start; return one that is in use if that is not yet possible."""
        running = [one for one in self._servers.values() if one.managed and one.client is not None]
        surplus = max(0, len(running) - self._config.max_servers + 1)
        idle = [one for one in running if one.idle.is_set()]
        if len(idle) < surplus:
            return next(one for one in running if one not in idle)
        for one in idle[:surplus]:
            await one.stop()
        return None

    async def _proven(self, server: _Server, role: str, needs_logprobs: bool) -> LLMClient:
        """Return the client of a server, which is started if it does not run, and is checked once."""
        backend = self._backend(role)
        if server.client is None:
            await server.start(backend, self._logs)
        client = server.client
        assert client is not None
        await self.once(f"llm.{role}: answers", lambda: probe(role, backend, client))
        if needs_logprobs:
            await self.once(f"llm.{role}: log-probabilities", lambda: probe_logprobs(role, backend, client))
        return client


class _RoleClient(WrappedClient):
    """A role's LLM, whose server is started at the first request."""

    def __init__(self, serving: Serving, role: str, backend: Backend, needs_logprobs: bool) -> None:
        self.sampling = backend.sampling
        self._serving, self._role, self._needs_logprobs = serving, role, needs_logprobs

    async def ready(self) -> None:
        """Return at once: requests wait for the server themselves."""

    async def _call(self, call: Callable[[LLMClient], Awaitable[Reply]]) -> Reply:
        async with self._serving._running(self._role, self._needs_logprobs) as client:
            return await call(client)


class _Server:
    """A server that is started and stopped, and the number of requests that use it."""

    def __init__(self, *, managed: bool) -> None:
        self.managed = managed
        #: None while it is stopped.
        self.client: LLMClient | None = None
        self._stack = AsyncExitStack()
        self._users = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def start(self, backend: Backend, logs: Path) -> None:
        logger.info("opening %s", backend)
        self.client = await self._stack.enter_async_context(backend.open(logs))

    async def stop(self, *, drain: bool = True) -> None:
        self.client = None
        if drain:
            await self.idle.wait()
        await self._stack.aclose()

    def count(self, change: int) -> None:
        """Count a request that starts (1) or ends (-1)."""
        self._users += change
        if self._users:
            self.idle.clear()
        else:
            self.idle.set()
