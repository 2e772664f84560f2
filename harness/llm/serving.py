"""Which LLM servers run when: started on demand, shared by the roles they can serve, stopped to make room."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from harness.errors import HarnessError
from harness.llm.budget import FailureBudget
from harness.llm.cache import CachedClient, ResponseCache
from harness.llm.client import Backend, Completion, LLMClient, Message, PromptLogprobs, Sampling
from harness.llm.probe import probe, probe_logprobs
from harness.records import Status

logger = logging.getLogger(__name__)


class Serving:
    """The LLMs of a run by role, as an async context manager: at its end, every server is stopped.

    Roles whose back ends name an equal ``server`` share one; concurrency, time-out and retries of the role that comes
    first then hold for what the server is sent.

    Args:
        backends: the back end of each role that has one.
        cache: where answers are kept; none asks for each anew.
        logs: folder of the servers' logs.
        max_servers: most managed back ends at once, of however many servers each; endpoints do not count, for nothing
            is started for them.
        redraw: whether to ask again where a kept answer could not be used, see :class:`CachedClient`.
        ask: whether LLMs are asked at all; if not, answers come from the cache alone, and nothing is started.
        failure_budget: share of a method's answers that may fail before it is asked no further; none for all.
        failure_minimum: answers waited for before that share is looked at.

    Raises:
        HarnessError: if a number is out of range.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        cache: ResponseCache | None,
        logs: Path,
        max_servers: int = 1,
        *,
        redraw: bool = False,
        ask: bool = True,
        failure_budget: float | None = None,
        failure_minimum: int = 20,
    ) -> None:
        if max_servers < 1:
            raise HarnessError(f"max_servers is {max_servers}; it must be at least 1")
        if not (failure_budget is None or 0 <= failure_budget <= 1):
            raise HarnessError(f"failure_budget is {failure_budget}; it is a share from 0 to 1, or null for no limit")
        if failure_minimum < 1:
            raise HarnessError(f"failure_minimum is {failure_minimum}; it must be at least 1")
        self._failure_budget, self._failure_minimum = failure_budget, failure_minimum
        self._budgets: list[FailureBudget] = []
        self._backends, self._cache, self._logs, self._max_servers = dict(backends), cache, logs, max_servers
        self._redraw, self._ask = redraw, ask
        self._slots: dict[object, _Slot] = {}
        self._clients: dict[str, CachedClient] = {}
        self._proven: set[tuple[str, bool]] = set()
        self._changing = asyncio.Lock()
        self._once: dict[str, asyncio.Lock] = {}
        self._done: set[str] = set()

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

    async def preflight(self, role: str, *, needs_logprobs: bool = False, start: bool = False) -> bool:
        """Check a role before any time is spent, and tell whether it was asked.

        Args:
            role: the role.
            needs_logprobs: whether ``token_logprobs`` will be asked for.
            start: whether a managed server is started for it; if not, only its config is checked.

        Raises:
            HarnessError: as :meth:`check` and :meth:`client` do.
        """
        if self._backend(role).server is None or start:
            await self.client(role, needs_logprobs=needs_logprobs)
            return True
        self._check(role)
        return False

    async def rest(self) -> None:
        """Stop every managed server, so that what they held is free; they start again when they are asked."""
        async with self._changing:
            for slot in self._slots.values():
                if slot.managed and slot.running:
                    await slot.stop("its server rests")

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
        if not self._ask:
            return self._clients.setdefault(role, CachedClient(None, backend, self._cache))
        async with self._changing:
            slot = await self._running(role, backend)
            await self._prove(role, backend, slot, needs_logprobs)
        if role not in self._clients:
            self._clients[role] = CachedClient(slot, backend, self._cache, redraw=self._redraw)
        return self._clients[role]

    async def once(self, name: str, proof: Callable[[], Awaitable[None]]) -> None:
        """Run a proof of what LLMs can do, unless one of this name has succeeded or nothing is to be asked."""
        if not self._ask or name in self._done:
            return
        async with self._once.setdefault(name, asyncio.Lock()):
            if name not in self._done:
                await proof()
                self._done.add(name)

    def budget(self, name: str) -> FailureBudget:
        """Return the failure budget of a method for this run."""
        # Where nothing is asked, nothing can be spared: every stored answer is read, usable or not.
        self._budgets.append(FailureBudget(name, self._failure_budget if self._ask else None, self._failure_minimum))
        return self._budgets[-1]

    @property
    def ended_early(self) -> list[str]:
        """One line for each method that spent its failure budget."""
        return [budget.spent for budget in self._budgets if budget.spent]

    def lazily(self, role: str, *, needs_logprobs: bool = False) -> LLMClient:
        """Return a client that looks into the cache, and starts the role's server at the first answer not found there.

        A role that nobody asks, or whose answers are all stored, needs no server.
        """
        return self.cached(role, self.uncached(role, needs_logprobs=needs_logprobs))

    def cached(self, role: str, through: LLMClient) -> LLMClient:
        """Return a client that answers from the cache, and asks for the rest ``through`` one that asks the role."""
        client = through if self._ask else None
        return CachedClient(client, self._backend(role), self._cache, redraw=self._redraw)

    def uncached(self, role: str, *, needs_logprobs: bool = False) -> LLMClient:
        """Return a client that starts the role's server at the first question, and finds nothing in the cache."""
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

    def _name(self, role: str) -> object:
        server = self._backends[role].server
        return ("endpoint", role) if server is None else ("server", server)

    def _slot(self, role: str) -> LLMClient:
        return self._slots[self._name(role)]

    async def _running(self, role: str, backend: Backend) -> _Slot:
        name = self._name(role)
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
            await self._prove_each(slot, functools.partial(probe, role, backend))
            self._proven.add((role, False))
            logger.info("llm.%s: %s answers, in JSON that fits a schema", role, backend)
        if needs_logprobs and (role, True) not in self._proven:
            await self._prove_each(slot, functools.partial(probe_logprobs, role, backend))
            self._proven.add((role, True))
            logger.info("llm.%s: %s gives the log-probabilities of prompts", role, backend)

    async def _prove_each(self, slot: _Slot, question: Callable[[LLMClient], Awaitable[None]]) -> None:
        """Ask every server of a role; leave out those that will not do, unless none is left."""
        servers = slot.each()
        results = await asyncio.gather(*(question(server) for server in servers), return_exceptions=True)
        failures = [(server, result) for server, result in zip(servers, results, strict=True) if result is not None]
        for _, failure in failures:
            if len(failures) == len(servers) or not isinstance(failure, HarnessError):
                raise failure
        for server, failure in failures:
            server.leave_out(str(failure))


class _Lazy(LLMClient):
    """A role's LLM, started at the first question."""

    def __init__(self, serving: Serving, role: str, needs_logprobs: bool) -> None:
        self.sampling = serving._backend(role).sampling
        self._serving, self._role, self._needs_logprobs = serving, role, needs_logprobs

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        return await (await self._open()).generate(messages, schema=schema, sampling=sampling)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        return await (await self._open()).token_logprobs(messages, top=top)

    async def _open(self) -> LLMClient:
        await self._serving.client(self._role, needs_logprobs=self._needs_logprobs)
        return self._serving._slot(self._role)


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

    def each(self) -> Sequence[LLMClient]:
        return self._client.each() if self._client is not None else ()

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
