"""Answers of LLMs in one SQLite file, found by a hash of everything that can change them.

Part of the key:
    the kind of call       ``generate`` or ``token_logprobs``.
    the LLM's identity     model, revision, and the options that change its answers, as the back end defines them.
    the messages           the rendered prompt itself, not its template's name or version.
    the schema             it steers what is generated; the order of its properties counts.
    the sampling           temperature, top_p, max_tokens and seed; for ``generate`` only.
    ``top``                the number of alternatives; for ``token_logprobs`` only.

Not part of the key: URL, port and API key; time-outs, retries and concurrency; role and method (two methods with the
same request share an answer); the run and its seed (a seed that matters is in the prompt or the sampling); the version
of the harness (``FORMAT`` changes with the format of this file).

What is stored:
    a usable answer        for good.
    an unusable answer     (unparsed, refused, truncated) in a table of its own. It is returned again, because the same
                           request would most likely get the same answer, but a better parser may read it. With
                           ``redraw``, another answer is sampled instead.
    a failure              never: the next run asks again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

from harness.errors import HarnessError
from harness.llm.asking import fits
from harness.llm.client import (
    Backend,
    Completion,
    LLMClient,
    Message,
    NotCached,
    PromptLogprobs,
    PromptToken,
    Reply,
    Sampling,
)
from harness.records import Status

FORMAT = 1  # of keys and stored answers; with a new number, no stored answer is found
REDRAW_TEMPERATURE = 0.7  # lowest temperature of a redrawn answer: a greedy one would be the same again
BUSY_TIMEOUT_S = 60.0  # longest wait for another process's write, which takes milliseconds


class ResponseCache:
    """The answers stored in one folder, shared by all runs and processes that use it.

    SQLite needs working file locks, on a local disk or a network file system. The file has a rollback journal and no
    write-ahead log, because processes on several machines cannot share that (https://sqlite.org/wal.html).

    Raises:
        HarnessError: if the file cannot be created, or is not a cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "responses.sqlite"
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "llm-cache")
        #: Statements to execute, all in one transaction, because each commit waits for the disk.
        self._pending: deque[tuple[str, tuple[Any, ...]]] = deque()
        #: One lock for each key that this process is asking for; removed when nobody waits for it.
        self.asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode=TRUNCATE")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer BLOB NOT NULL, created REAL NOT NULL)"
                " WITHOUT ROWID"
            )
            # The last unusable answer, and how many there were.
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS unusable (key TEXT PRIMARY KEY, answer BLOB NOT NULL,"
                " draws INTEGER NOT NULL, created REAL NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._broken(error) from error

    def get(self, key: str) -> tuple[dict[str, Any] | None, int]:
        """Return the stored answer and 0, else the last unusable one (or None) and how many of them there were.

        A usable answer that can no longer be read is deleted.
        """
        row = self._execute("SELECT answer FROM answers WHERE key = ?", (key,))
        if row and (answer := _decompress(row[0])) is not None:
            return answer, 0
        if row:  # only this row: another process may have stored a good answer meanwhile
            self._execute("DELETE FROM answers WHERE key = ? AND answer = ?", (key, row[0]))
        row = self._execute("SELECT answer, draws FROM unusable WHERE key = ?", (key,))
        return (_decompress(row[0]), row[1]) if row else (None, 0)

    def put(self, key: str, answer: Mapping[str, Any], *, usable: bool) -> Future[None]:
        """Store an answer. A usable one replaces no other, so that all runs read the same one.

        Returns:
            Done when the answer is on disk; it is written even if nobody waits for this.
        """
        statement = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?)"
        if not usable:
            statement = (
                "INSERT INTO unusable (key, answer, created, draws) VALUES (?, ?, ?, 1) ON CONFLICT (key) DO UPDATE SET"
                " answer = excluded.answer, draws = draws + 1, created = excluded.created"
            )
        content = zlib.compress(json.dumps(answer, allow_nan=False).encode(), level=1)
        self._pending.append((statement, (key, content, time.time())))
        return self._writer.submit(self._flush)

    def close(self) -> None:
        """Finish all writes and close the file."""
        self._writer.shutdown()
        with self._lock:
            self._connection.close()

    def _flush(self) -> None:
        """Execute the pending statements; an earlier call may have executed them all."""
        batch = list(self._pending)
        if not batch:
            return
        try:
            with self._lock:
                try:
                    self._store(batch)
                except sqlite3.Error:
                    for one in batch:  # a disk that is nearly full takes some of them, which are paid for
                        self._store([one])
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _store(self, batch: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """Execute the first pending statements in one transaction. If it fails, they stay pending."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in batch:
                self._connection.execute(*statement)
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:  # SQLite itself ends it on a full disk
                self._connection.execute("ROLLBACK")
            raise
        for _ in batch:
            self._pending.popleft()

    def _execute(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._broken(error) from error
        return row

    def _broken(self, error: Exception) -> HarnessError:
        return HarnessError(
            f"the LLM cache {self.path} cannot be used ({error}); free some space, fix its permissions, delete the "
            "file if it is damaged, or name another folder"
        )


def _decompress(content: bytes) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(zlib.decompress(content))
    except (zlib.error, ValueError, TypeError):
        return None
    return answer


class CachedClient(LLMClient):
    """The client that methods get: answers from the cache, and calls the LLM with bounded concurrency for the rest.

    Equal requests at the same time are sent one after the other, so that all but the first find the answer in the
    cache; if the first fails, the next one is sent.

    Args:
        client: the LLM; None to answer from the cache only.
        backend: its identity, default sampling and concurrency apply.
        cache: where answers are stored; None stores none.
        redraw: whether to ask again if the stored answer is unusable: with another seed for each draw, and a
            temperature of at least ``REDRAW_TEMPERATURE``.
    """

    def __init__(
        self, client: LLMClient | None, backend: Backend, cache: ResponseCache | None, *, redraw: bool = False
    ) -> None:
        self.sampling = backend.sampling
        self._client, self._identity, self._cache, self._redraw = client, backend.identity, cache, redraw
        self._slots = asyncio.Semaphore(backend.concurrency)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Return the stored answer, or call the LLM.

        Raises:
            NotCached: if there is neither an LLM nor a stored answer.
        """
        base = sampling or self.sampling

        def usable(reply: Completion) -> bool:
            return reply.status is Status.OK and (schema is None or fits(reply.text, schema))

        # The schema as text, because sorted keys would hide the order of its properties.
        parts = {"schema": schema and json.dumps(schema), "sampling": dataclasses.asdict(base)}
        return await self._answer(
            self._key("generate", messages, **parts),
            lambda client, draws: client.generate(messages, schema=schema, sampling=_redrawn(base, draws)),
            usable,
        )

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return the stored answer, or call the LLM; raises as :meth:`generate` does."""
        return await self._answer(
            self._key("token_logprobs", messages, top=top),
            lambda client, draws: client.token_logprobs(messages, top=top),
            lambda reply: reply.status is Status.OK,
        )

    async def ready(self) -> None:
        """Wait until the LLM is ready, if there is one."""
        if self._client is not None:
            await self._client.ready()

    def _key(self, kind: str, messages: Sequence[Message], **parts: Any) -> str:
        """Return the key of a request; the module's docstring lists its parts."""
        content = {
            "format": FORMAT,
            "kind": kind,
            "identity": self._identity,
            "messages": [[message.role, message.content] for message in messages],
            **parts,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    async def _answer(
        self, key: str, call: Callable[[LLMClient, int], Awaitable[Reply]], usable: Callable[[Reply], bool]
    ) -> Reply:
        cache = self._cache
        if cache is None:
            async with self._slots:
                return await self._call(call, 0)
        async with cache.asking.setdefault(key, asyncio.Lock()):
            stored, draws = await asyncio.to_thread(cache.get, key)
            if stored is not None and not (draws and self._redraw and self._client is not None):
                return cast(Reply, _unpack(stored))
            # Hold the slot until the answer is stored and counted.
            async with self._slots:
                reply = await self._call(call, draws)
                if reply.status is not Status.FAILED:
                    # A cancellation ends the wait but not the write: the answer is paid for.
                    stored_now = cache.put(key, _pack(reply), usable=usable(reply))
                    await asyncio.shield(asyncio.wrap_future(stored_now))
                return reply

    async def _call(self, call: Callable[[LLMClient, int], Awaitable[Reply]], draws: int) -> Reply:
        if self._client is None:
            raise NotCached("the answer is not stored")
        return await call(self._client, draws)


def _redrawn(sampling: Sampling, draws: int) -> Sampling:
    """Return the sampling of the draw after ``draws`` unusable ones."""
    if not draws:
        return sampling
    temperature = None if sampling.temperature is None else max(sampling.temperature, REDRAW_TEMPERATURE)
    return dataclasses.replace(sampling, seed=(sampling.seed or 0) + draws, temperature=temperature)


def _pack(reply: Completion | PromptLogprobs) -> dict[str, Any]:
    if isinstance(reply, PromptLogprobs):
        tokens = [[token.text, dict(token.alternatives)] for token in reply.tokens]
        return {"tokens": tokens, "prompt_tokens": reply.prompt_tokens}
    return {
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        **({} if reply.status is Status.OK else {"status": reply.status.value, "detail": reply.detail}),
    }


def _unpack(stored: dict[str, Any]) -> Completion | PromptLogprobs:
    if "tokens" in stored:
        tokens = tuple(PromptToken(text, alternatives) for text, alternatives in stored["tokens"])
        return PromptLogprobs(tokens, prompt_tokens=stored["prompt_tokens"], cached=True)
    return Completion(**{**stored, "status": Status(stored.get("status", Status.OK))}, cached=True)
