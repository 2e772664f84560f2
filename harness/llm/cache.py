"""Answers that were paid for once: a content-addressed cache in one SQLite file.

An answer is found again by a hash of everything that can change it, and of nothing else.

What belongs to the key:
    the kind of call       ``generate`` and ``token_logprobs`` of one conversation are different questions.
    the LLM's identity     model, revision, and the options that change its answers: the back end says which.
    the messages           the rendered prompt itself, not its template's name or version: edit one word and it is new.
    the schema             it steers what is generated, down to the order of its properties, which is kept.
    the sampling           temperature, top_p, max_tokens and seed; for ``generate`` alone, the other draws nothing.
    ``top``                for ``token_logprobs``: how many alternatives were asked for.

What does not:
    URL, port, key         where a model is served is not what it says.
    time-outs, retries     they decide whether an answer comes, never which.
    concurrency, order     neither does the model know of.
    the role, the method   a question asked by two methods has one answer, paid once.
    the run and its seed   a seed that matters is in the prompt or in the sampling.
    harness version        a change of prompts or schemas shows in them; a change of this module's own format is FORMAT.

What becomes of an answer:
    one that fits          is kept, and never asked for again.
    one that does not      (unparsed, refused, truncated) is kept apart, and read again by whoever asks again: drawn the
                           same way, the same question would be paid for the same words. A better parser makes something
                           of it at no cost. A client that is told to ``redraw`` draws another instead.
    a failure              is not kept: no answer came, and the next run asks again.
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
from typing import Any, TypeVar
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
    Sampling,
)
from harness.records import Status

Reply = TypeVar("Reply", Completion, PromptLogprobs)

FORMAT = 1  # of keys and of stored answers; a new number forgets everything
REDRAW_TEMPERATURE = 0.7  # at least, of an answer that is drawn anew: a greedy one would come out the same
BUSY_TIMEOUT_S = 60.0  # longest wait for another process's write, which takes milliseconds


class ResponseCache:
    """The answers kept in one folder, shared by all runs and processes that name it.

    The folder must be on a disk of this machine, or on a network's with working file locks: SQLite relies on them. The
    file has a rollback journal and no write-ahead log, which processes on several machines cannot share
    (https://sqlite.org/wal.html).

    Raises:
        HarnessError: if the file cannot be made, or is no cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "responses.sqlite"
        self._lock = threading.Lock()
        self._writer = ThreadPoolExecutor(1, "llm-cache")
        #: Statements that wait to be carried out, all of them together: a commit waits for the disk.
        self._waiting: deque[tuple[str, tuple[Any, ...]]] = deque()
        #: One lock for each key that is being asked for in this process; gone when nobody waits for it.
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
            # Answers that came and could not be used, of how many draws each is the last.
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS unusable (key TEXT PRIMARY KEY, answer BLOB NOT NULL,"
                " draws INTEGER NOT NULL, created REAL NOT NULL) WITHOUT ROWID"
            )
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the stored answer; none if there is none. One that can no longer be read makes room for another."""
        row = self._execute("SELECT answer FROM answers WHERE key = ?", (key,))
        answer = _unpacked(row[0]) if row else None
        if row and answer is None:  # this very row: another process may have put a good one there meanwhile
            self._execute("DELETE FROM answers WHERE key = ? AND answer = ?", (key, row[0]))
        return answer

    def put(self, key: str, answer: Mapping[str, Any]) -> Future[None]:
        """Store an answer, unless another process was faster: all runs then read the same.

        Returns:
            What is done when the answer is on the disk. It gets there whether somebody waits or not.
        """
        return self._write("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", (key, _packed(answer), time.time()))

    def get_unusable(self, key: str) -> tuple[dict[str, Any] | None, int]:
        """Return the last answer that came and could not be used, and how many did; none and 0 if none did."""
        row = self._execute("SELECT answer, draws FROM unusable WHERE key = ?", (key,))
        return (_unpacked(row[0]), row[1]) if row else (None, 0)

    def put_unusable(self, key: str, answer: Mapping[str, Any]) -> Future[None]:
        """Store an answer that cannot be used, in place of the one before; returns as :meth:`put` does."""
        return self._write(
            "INSERT INTO unusable VALUES (?, ?, 1, ?) ON CONFLICT (key) DO UPDATE SET"
            " answer = excluded.answer, draws = draws + 1, created = excluded.created",
            (key, _packed(answer), time.time()),
        )

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._writer.shutdown()
        with self._lock:
            self._connection.close()

    def _write(self, statement: str, values: tuple[Any, ...]) -> Future[None]:
        self._waiting.append((statement, values))
        return self._writer.submit(self._flush)

    def _flush(self) -> None:
        """Carry out what waits, in one transaction; nothing waits any more if an earlier call took it along."""
        if not self._waiting:
            return
        try:
            with self._lock:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    while self._waiting:
                        self._connection.execute(*self._waiting.popleft())
                finally:  # what is there is paid for, whatever befell the next
                    self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _execute(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        return row

    def _unusable(self, error: Exception) -> HarnessError:
        return HarnessError(
            f"the LLM cache {self.path} cannot be used ({error}); make room or permission for it, delete the file if "
            "it is damaged, or name another folder"
        )


def _packed(answer: Mapping[str, Any]) -> bytes:
    return zlib.compress(json.dumps(answer, allow_nan=False).encode(), level=1)


def _unpacked(content: bytes) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(zlib.decompress(content))
    except (zlib.error, ValueError, TypeError):
        return None
    return answer


def request_key(kind: str, identity: Mapping[str, Any], messages: Sequence[Message], **parts: Any) -> str:
    """Return the key of a request; this module's docstring says what belongs to it."""
    content = {
        "format": FORMAT,
        "kind": kind,
        "identity": identity,
        "messages": [[message.role, message.content] for message in messages],
        **parts,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class CachedClient(LLMClient):
    """The client that methods get: answers from the cache, and asks the LLM with bounded concurrency for the rest.

    Equal questions that come up at once are asked one after the other, so that all but the first find the answer in
    the cache; if the first fails, the next one tries for itself.

    Args:
        client: the LLM; none to answer from the cache alone.
        backend: whose identity, default sampling and concurrency apply.
        cache: where answers are kept; none asks for each anew.
        redraw: whether to ask again where the kept answer could not be used: with a seed of its own for each draw, and
            a temperature of at least ``REDRAW_TEMPERATURE``.
    """

    def __init__(
        self, client: LLMClient | None, backend: Backend, cache: ResponseCache | None, *, redraw: bool = False
    ) -> None:
        self.sampling = backend.sampling
        self._client, self._identity, self._cache, self._redraw = client, backend.identity, cache, redraw
        self._places = asyncio.Semaphore(backend.concurrency)

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Return the kept answer, or ask.

        Raises:
            NotCached: if there is no LLM to ask and no kept answer.
        """
        drawn = sampling or self.sampling
        # The schema as text: sorting its keys would make one of two schemas whose properties stand in another order.
        key = self._key("generate", messages, schema=schema and json.dumps(schema), sampling=dataclasses.asdict(drawn))

        def usable(reply: Completion) -> bool:
            return reply.status is Status.OK and (schema is None or fits(reply.text, schema))

        return await self._answer(
            key,
            lambda client, draws: client.generate(messages, schema=schema, sampling=_drawn_anew(drawn, draws)),
            _pack_text,
            _unpack_text,
            usable,
        )

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        """Return the kept answer, or ask; raises as :meth:`generate` does."""
        key = self._key("token_logprobs", messages, top=top)
        return await self._answer(
            key,
            lambda client, draws: client.token_logprobs(messages, top=top),
            _pack_tokens,
            _unpack_tokens,
            lambda reply: reply.status is Status.OK,
        )

    async def ready(self) -> None:
        """Pass it on, unless nothing is to be asked."""
        if self._client is not None:
            await self._client.ready()

    def _key(self, kind: str, messages: Sequence[Message], **parts: Any) -> str:
        return request_key(kind, self._identity, messages, **parts) if self._cache else ""

    async def _answer(
        self,
        key: str,
        request: Callable[[LLMClient, int], Awaitable[Reply]],
        pack: Callable[[Reply], dict[str, Any]],
        unpack: Callable[[dict[str, Any]], Reply],
        usable: Callable[[Reply], bool],
    ) -> Reply:
        cache = self._cache
        if cache is None:
            async with self._places:
                return await self._ask(request, 0)
        async with cache.asking.setdefault(key, asyncio.Lock()):
            stored, draws = await asyncio.to_thread(self._stored, cache, key)
            if stored is not None:
                return unpack(stored)
            # A place is kept until the answer is stored and on its way to who counts it, before another is asked for.
            async with self._places:
                reply = await self._ask(request, draws)
                if reply.status is not Status.FAILED:
                    put = cache.put if usable(reply) else cache.put_unusable
                    # An interruption ends the waiting and not the writing: the answer is paid for.
                    await asyncio.shield(asyncio.wrap_future(put(key, pack(reply))))
                return reply

    def _stored(self, cache: ResponseCache, key: str) -> tuple[dict[str, Any] | None, int]:
        """Return the answer to give, if one is stored, and else how many that cannot be used were drawn before."""
        stored = cache.get(key)
        if stored is not None:
            return stored, 0
        unusable, draws = cache.get_unusable(key)
        return (None, draws) if self._redraw and self._client is not None else (unusable, draws)

    async def _ask(self, request: Callable[[LLMClient, int], Awaitable[Reply]], draws: int) -> Reply:
        if self._client is None:
            raise NotCached("the answer is not stored")
        return await request(self._client, draws)


def _drawn_anew(sampling: Sampling, draws: int) -> Sampling:
    """Return the sampling of the draw that follows on so many."""
    if not draws:
        return sampling
    warm = None if sampling.temperature is None else max(sampling.temperature, REDRAW_TEMPERATURE)
    return dataclasses.replace(sampling, seed=(sampling.seed or 0) + draws, temperature=warm)


def _pack_text(reply: Completion) -> dict[str, Any]:
    return {
        "text": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        **({} if reply.status is Status.OK else {"status": reply.status.value, "detail": reply.detail}),
    }


def _unpack_text(stored: dict[str, Any]) -> Completion:
    return Completion(**{**stored, "status": Status(stored.get("status", Status.OK))}, cached=True)


def _pack_tokens(reply: PromptLogprobs) -> dict[str, Any]:
    tokens = [[token.text, dict(token.alternatives)] for token in reply.tokens]
    return {"tokens": tokens, "prompt_tokens": reply.prompt_tokens}


def _unpack_tokens(stored: dict[str, Any]) -> PromptLogprobs:
    tokens = tuple(PromptToken(text, alternatives) for text, alternatives in stored["tokens"])
    return PromptLogprobs(tokens, prompt_tokens=stored["prompt_tokens"], cached=True)
