"""Finds copied text, so that text a describer has seen does not return as evidence for a judge.

A run of ``SHARED`` tokens that occurs in two documents counts as copied. It is found by hashes of grams of ``GRAM``
tokens. The grams at every ``STEP``-th position of a kept window are stored with the window's split, and a new window is
compared at every position. Any shared run of ``SHARED`` = ``GRAM`` + ``STEP`` - 1 tokens therefore contains a stored
gram. Shorter runs, of at least ``GRAM`` tokens, are found only sometimes.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from harness.records import Split

SHARED, GRAM, STEP = 16, 12, 5
_FACTORS = np.random.default_rng(20_260).integers(2**63, size=GRAM, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


class CopyFinder:
    """Remembers the text of the windows kept so far, in some 20 bytes for each of their tokens."""

    def __init__(self) -> None:
        self._windows: set[bytes] = set()
        # A gram belongs to one split: windows that share a gram with another split are not kept.
        self._grams: dict[int, Split] = {}

    def keep(self, text: NDArray[np.int64], windows: list[tuple[int, int]], split: Split) -> list[bool]:
        """Return which windows of a document to keep, and remember their text.

        Args:
            text: the document's tokens that count as evidence.
            windows: start and end of each window in ``text``, ordered, none empty.
            split: the document's split.

        Returns:
            For each window, whether its text is new: no earlier window is equal, and it shares no text with a window of
            another split.
        """
        grams = _gram_hashes(text)
        foreign = np.flatnonzero([self._grams.get(gram, split) is not split for gram in grams])
        kept: list[bool] = []
        for start, end in windows:
            window = hashlib.blake2b(text[start:end].tobytes(), digest_size=16).digest()
            last = max(start, end - GRAM + 1)
            before, after = np.searchsorted(foreign, [start, last])
            kept.append(bool(window not in self._windows and before == after))
            if kept[-1]:
                self._windows.add(window)
                self._grams.update(dict.fromkeys(grams[start:last:STEP], split))
        return kept


def _gram_hashes(text: NDArray[np.int64]) -> list[int]:
    """Return a 64-bit multilinear hash of every run of ``GRAM`` tokens."""
    if len(text) < GRAM:
        return []
    runs = np.lib.stride_tricks.sliding_window_view(text.astype(np.uint64) + np.uint64(1), GRAM)
    hashes: list[int] = (runs * _FACTORS).sum(axis=1, dtype=np.uint64).tolist()
    return hashes
