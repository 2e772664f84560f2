"""The interface of a corpus: a source of documents."""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness.errors import HarnessError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """A text or a conversation, identified by a hash of its content: equal texts are the same document.

    Attributes:
        id: the identity, 16 hexadecimal digits.
        text: the text; for a conversation, the contents of its messages, one per line.
        messages: the conversation; empty for a plain text.
    """

    id: str
    text: str
    messages: tuple[Message, ...] = ()

    @classmethod
    def of(cls, given: str | tuple[Message, ...]) -> Document:
        """Make a document from a text or a conversation. Unpaired surrogates become question marks."""
        if isinstance(given, str):
            encoded = given.encode("utf-8", "replace")
            return cls(_digest(encoded), encoded.decode())
        messages = tuple(Message(_clean(message.role), _clean(message.content)) for message in given)
        content = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
        return cls(_digest(content.encode()), "\n".join(message.content for message in messages), messages)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class Corpus(ABC):
    """A source of documents.

    Attributes:
        name: name in reports.
        template: chat template of its conversations; None for the tokenizer's own.
    """

    name: str
    template: str | None = None

    @abstractmethod
    def texts(self) -> Iterator[str | tuple[Message, ...]]:
        """Yield texts or conversations, in the same order on every call.

        Raises:
            HarnessError: if the source cannot be read.
        """

    def files(self) -> list[Path]:
        """Return the local files that contain the text, in the same order on every call.

        A run that is continued checks that their contents are the same. The default is no files.

        Raises:
            HarnessError: if one does not exist.
        """
        return []

    def identity(self) -> dict[str, Any]:
        """Return an identity of the texts, as plain JSON types: equal identities mean equal texts.

        Runs share evidence by this identity. The default reads and hashes all texts.
        """
        digest = hashlib.sha256()
        for text in self.texts():
            digest.update(Document.of(text).id.encode())
        return {"texts": digest.hexdigest()}

    def documents(self, limit: int | None) -> Documents:
        """Return the documents that contain text.

        Args:
            limit: maximum number of documents, without duplicates. Those with the smallest hash are chosen: a fixed
                pseudo-random choice that does not depend on the order of the corpus. The corpus is read to its end
                immediately, and the chosen texts are kept in a temporary file. None: all documents, streamed in the
                corpus's order.

        Raises:
            HarnessError: if there are none.
        """
        return Documents(self, limit)

    def stream(self) -> Iterator[Document]:
        """Yield all documents that contain text.

        Raises:
            HarnessError: if there are none.
        """
        empty = True
        for text in self.texts():
            document = Document.of(text)
            if document.text.strip():
                empty = False
                yield document
        if empty:
            raise HarnessError(f"the corpus {self.name} is empty: it contains no text (corpus)")


class Column(Corpus):
    """A corpus that is a column of a table: texts, or the lists of messages of conversations."""

    #: What was passed over when it was last read. A run reads it several times and logs this once.
    _passed_over = ""

    @abstractmethod
    def rows(self, passed: Counter[str]) -> Iterator[tuple[str, Any]]:
        """Yield the location of each value, for messages, and the value.

        Args:
            passed: counts what is not read, by its name in the plural.

        Raises:
            HarnessError: if the source cannot be read, or does not have the column.
        """

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield locations and values that are not empty; at the end, log what was passed over, once.

        Raises:
            HarnessError: if the source cannot be read, or does not have the column.
        """
        passed = Counter[str]()
        for location, value in self.rows(passed):
            if value is None or (isinstance(value, str) and not value.strip()):
                passed["entries without text"] += 1
            else:
                yield location, value
        counts = ", ".join(f"{what} ({count:,})" for what, count in passed.items() if count)
        if counts and counts != self._passed_over:
            logger.info("the corpus %s is read without: %s", self.name, counts)
            self._passed_over = counts

    def texts(self) -> Iterator[str]:
        """Yield the column's values."""
        for location, value in self.values():
            if not isinstance(value, str):
                hint = "; read conversations with corpus=chat" if isinstance(value, list) else ""
                raise HarnessError(f"{location} contains {type(value).__name__}, not text (corpus.column){hint}")
            yield value


class Documents:
    """The documents of a corpus; can be iterated repeatedly, with one document in memory at a time.

    Attributes:
        count: number of documents; None if it is not known before the corpus is read.
    """

    def __init__(self, corpus: Corpus, limit: int | None) -> None:
        self._corpus = corpus
        self._file: BinaryIO | None = None
        self._chosen: list[tuple[str, int, int]] = []
        self.count: int | None = None
        if limit is not None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - open as long as this object lives
            self._chosen = sorted(self._choose(limit, self._file))
            self.count = len(self._chosen)

    def _choose(self, limit: int, file: BinaryIO) -> list[tuple[str, int, int]]:
        """Write the texts of smallest hash to the file; return identity, offset and length of the ``limit`` smallest.

        A text is written if its hash is among the ``limit`` smallest so far: about limit * (1 + ln(n / limit)) of n.
        """
        heap: list[tuple[int, str, int, int]] = []  # greatest hash first
        held: set[str] = set()
        for document in self._corpus.stream():
            rank = -int(document.id, 16)
            if document.id in held or (len(heap) == limit and rank < heap[0][0]):
                continue
            given = [[m.role, m.content] for m in document.messages] if document.messages else document.text
            line = json.dumps(given).encode()
            entry = (rank, document.id, file.tell(), len(line))
            file.write(line)
            held.add(document.id)
            if len(heap) == limit:
                held.discard(heapq.heapreplace(heap, entry)[1])
            else:
                heapq.heappush(heap, entry)
        return [entry[1:] for entry in heap]

    def __iter__(self) -> Iterator[Document]:
        if self._file is None:
            yield from self._corpus.stream()
        for identity, start, length in self._chosen:
            assert self._file is not None
            self._file.seek(start)
            given = json.loads(self._file.read(length))
            messages = () if isinstance(given, str) else tuple(Message(*message) for message in given)
            text = given if isinstance(given, str) else "\n".join(message.content for message in messages)
            yield Document(identity, text, messages)
