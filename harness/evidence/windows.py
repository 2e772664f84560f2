"""Cuts documents into windows of tokens, and assigns documents to splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.evidence.config import EvidenceConfig
from harness.evidence.copies import CopyFinder
from harness.evidence.corpus import Document
from harness.evidence.encoding import CONTEXT, TEXT, Encoded, Encoder
from harness.records import Split
from harness.seeds import derive_seed

#: Documents tokenized at once.
TOGETHER = 32


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of one document, without the special tokens that the model's tokenizer adds.

    Attributes:
        document: identity of the document.
        split: the split of the document.
        start: position of the first token in the document.
        tokens: token ids.
        marks: the role of each token (see :mod:`harness.evidence.encoding`), one byte each. Tokens of a character that
            the edge of the window cuts are context.
    """

    document: str
    split: Split
    start: int
    tokens: tuple[int, ...]
    marks: bytes


def split_of(document: str, shares: Mapping[Split, float], seed: int) -> Split:
    """Return the split of a document, by a hash of its identity and the seed.

    Args:
        document: identity of the document.
        shares: share of the documents of each split; they need not sum to 1.
        seed: the run's seed.
    """
    position = derive_seed(seed, "split", document) / 2**63 * sum(shares.values())
    for split, share in shares.items():
        position -= share
        if position < 0:
            return split
    return list(shares)[-1]


@dataclass
class Cutter:
    """Cuts documents into windows. The short rest of a document is left out, unless it is the whole document.

    A window that occurs again (a licence, a table of contents) is kept once, and a window that shares text with another
    split is left out (see :mod:`harness.evidence.copies`). A window without any token that counts is left out too.

    Attributes:
        encoder: tokenizes documents.
        config: length and stride of windows, and splits.
        seed: the run's seed.
        held_out: whether only judges see the documents, so that they are divided among the judges' splits.
        read: documents read.
        documents: documents of which at least one window was kept.
        windows: windows kept, by split.
        tokens: tokens in them that count as evidence.
        copies: windows left out as copies.
    """

    encoder: Encoder
    config: EvidenceConfig
    seed: int
    held_out: bool = False
    read: int = 0
    documents: int = 0
    windows: Counter[Split] = field(default_factory=Counter)
    tokens: int = 0
    copies: int = 0
    _finder: CopyFinder = field(default_factory=CopyFinder)

    def remember(self, documents: Iterable[Document], encoder: Encoder) -> None:
        """Remember what describers see of another corpus: windows that share text with it are left out as copies."""
        for some in _batched(documents):
            for document, encoded in zip(some, encoder.encode(some), strict=True):
                split = split_of(document.id, self.config.splits, self.seed)
                if split in (Split.EXPLAIN, Split.SELECT):
                    _, counted = self._spans(encoded)
                    self._finder.keep(encoded.tokens[encoded.marks != 0], counted, split)

    def cut(self, documents: Iterable[Document]) -> Iterator[Window]:
        """Yield the windows of documents, in their order."""
        for some in _batched(documents):
            for document, encoded in zip(some, self.encoder.encode(some), strict=True):
                kept = self._windows(document, encoded)
                self.read += 1
                self.documents += bool(kept)
                yield from kept

    def _spans(self, encoded: Encoded) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return start and end of each window, among all tokens and among those that count."""
        length, count = self.config.window, len(encoded.tokens)
        starts = range(0, count - length + 1, self.config.step) if count > length else range(1)
        counted = encoded.marks != 0
        before = np.concatenate([[0], np.cumsum(counted)])
        spans = [(start, min(start + length, count)) for start in starts]
        spans = [(start, end) for start, end in spans if before[end] > before[start]]
        return spans, [(int(before[start]), int(before[end])) for start, end in spans]

    def _windows(self, document: Document, encoded: Encoded) -> list[Window]:
        spans, counted_spans = self._spans(encoded)
        split = split_of(document.id, self.config.shares(self.held_out), self.seed)
        new = self._finder.keep(encoded.tokens[encoded.marks != 0], counted_spans, split)
        kept = [
            Window(document.id, split, start, tuple(encoded.tokens[start:end].tolist()), marks.tobytes())
            for (start, end), keep in zip(spans, new, strict=True)
            if keep and (marks := self._marks(encoded, start, end)).any()
        ]
        self.copies += len(spans) - len(kept)
        self.windows[split] += len(kept)
        self.tokens += sum(len(window.marks) - window.marks.count(CONTEXT) for window in kept)
        return kept

    def _marks(self, encoded: Encoded, start: int, end: int) -> NDArray[np.uint8]:
        """Return the roles of a window's tokens, those of a character that an edge of the window cuts as context."""
        marks = encoded.marks[start:end].copy()
        for edge in (start, end):
            # A message starts with a whole character, and what surrounds it does not count.
            if 0 < edge < len(encoded.tokens) and encoded.marks[edge - 1] != CONTEXT and encoded.marks[edge] == TEXT:
                first, last = self.encoder.texts.character_around(encoded.tokens, edge)
                marks[max(first - start, 0) : max(last - start, 0)] = CONTEXT
        return marks

    def check(self) -> None:
        """Check that every split has enough windows.

        Raises:
            HarnessError: naming the split that has too few.
        """
        self.encoder.check(self.documents)
        needed = max(self.config.top, self.config.random)
        text = "evidence.report_corpus" if self.held_out else "corpus"
        for split in self.config.shares(self.held_out):
            if self.windows[split] < needed:
                raise HarnessError(
                    f"the corpus is too small for the splits: {split.value} has {self.windows[split]} windows "
                    f"and needs {needed}; give more text ({text}), ask for fewer exemplars (evidence.top, "
                    "evidence.random) or change evidence.splits"
                )


def _batched(documents: Iterable[Document]) -> Iterator[list[Document]]:
    rest = iter(documents)
    while some := list(islice(rest, TOGETHER)):
        yield some
