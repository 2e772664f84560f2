"""What a corpus is: a source of documents. Everything else about evidence is the same for all of them."""

from __future__ import annotations

import hashlib
import heapq
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from harness.errors import HarnessError


@dataclass(frozen=True)
class Message:
    """A turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Document:
    """A text or a conversation and its identity, a hash of it: the same text is the same document wherever it is found.

    Attributes:
        id: the identity, 16 hexadecimal digits.
        text: the text; of a conversation, the messages' contents, one below the other.
        messages: the conversation; empty for a plain text.
    """

    id: str
    text: str
    messages: tuple[Message, ...] = ()

    @classmethod
    def of(cls, given: str | tuple[Message, ...]) -> Document:
        """Make the document of a text or a conversation.

        Halves of surrogate pairs, which are no text, become question marks.
        """
        if isinstance(given, str):
            encoded = given.encode("utf-8", "replace")
            return cls(_digest(encoded), encoded.decode())
        messages = tuple(Message(_clean(message.role), _clean(message.content)) for message in given)
        whole = json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)
        return cls(_digest(whole.encode()), "\n".join(message.content for message in messages), messages)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


class Corpus(ABC):
    """A source of documents.

    Attributes:
        name: what reports call it.
        template: chat template of its conversations; none for the tokenizer's own.
    """

    name: str
    template: str | None = None

    @abstractmethod
    def texts(self) -> Iterator[str | tuple[Message, ...]]:
        """Yield texts or conversations, in an order that is the same at every run.

        Raises:
            HarnessError: if the source cannot be read.
        """

    def identity(self) -> dict[str, Any]:
        """Return what says which texts these are, as plain JSON types: equal identities, equal texts.

        Evidence is shared by runs under it. A corpus that does not say reads and hashes all its texts.
        """
        digest = hashlib.sha256()
        for text in self.texts():
            digest.update(Document.of(text).id.encode())
        return {"texts": digest.hexdigest()}

    def documents(self, limit: int | None) -> Documents:
        """Return the documents that hold any text.

        Args:
            limit: at most so many, each text once; those with the smallest hash are taken, a fixed pseudo-random
                choice that does not depend on the order of the corpus. The corpus is read to its end at once, and the
                texts lie in a temporary file. None: all, streamed in the corpus's own order.

        Raises:
            HarnessError: if there are none.
        """
        return Documents(self, limit)

    def stream(self) -> Iterator[Document]:
        """Yield all documents that hold any text.

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
            raise HarnessError(f"the corpus {self.name} is empty: no text was found in it (corpus)")


class Documents:
    """The documents of a corpus, to be gone through as often as need be; no more than one is held in memory.

    Attributes:
        count: how many there are; none if that is not known before the corpus is read.
    """

    def __init__(self, corpus: Corpus, limit: int | None) -> None:
        self._corpus = corpus
        self._file: BinaryIO | None = None
        self._chosen: list[tuple[str, int, int]] = []
        self.count: int | None = None
        if limit is not None:
            self._file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - it lives as long as this object
            self._chosen = sorted(self._choose(limit, self._file))
            self.count = len(self._chosen)

    def _choose(self, limit: int, file: BinaryIO) -> list[tuple[str, int, int]]:
        """Write every text to the file that is among the ``limit`` of smallest hash so far; return where those are.

        Of n documents some limit * (1 + ln(n / limit)) are written, and ``limit`` places are held.
        """
        heap: list[tuple[int, str, int, int]] = []  # the greatest hash first
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
