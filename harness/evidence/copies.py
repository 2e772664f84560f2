"""Copied text, found in bounded memory: what a describer has read must not come back as a judge's evidence.

Text of ``SHARED`` tokens in a row that stands in two documents is a copy, not a coincidence. It is found by
fingerprints of grams of ``GRAM`` tokens: those of every ``STEP``-th position of a kept window are remembered with the
window's split, and a new window is compared at every position, so that any shared run of ``SHARED`` tokens holds a
remembered gram (``SHARED`` = ``GRAM`` + ``STEP`` - 1). Shorter runs, of ``GRAM`` tokens and more, are found sometimes.

The fingerprints lie in one table of fixed size: two buckets of eight places for each, 30 bits of hash and 2 of split.
Nothing is ever pushed out, so no copy is missed; when three quarters of the places are taken the table is full and the
corpus is not read further. Two different grams are taken for one about once in 10^8 comparisons: a window too many is
then left out, never one let through.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.records import Split

SHARED, GRAM, STEP = 16, 12, 5
_PLACES = 8
_LOAD = 0.75
_SPLITS = {split: number for number, split in enumerate(Split)}
_ODD = np.random.default_rng(20_260).integers(2**63, size=1 << 14, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_WHOLE = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


class CopyTable:
    """Remembers the text of the windows kept so far.

    Args:
        mib: size of the table; each MiB holds the text of some 16,000 windows of 64 tokens.
    """

    def __init__(self, mib: int = 64) -> None:
        self._buckets = 1 << ((mib << 20) // (4 * _PLACES)).bit_length() - 1
        self._table = np.zeros((self._buckets, _PLACES), np.uint32)
        self._taken = 0

    @property
    def full(self) -> bool:
        """Whether no more text can be remembered."""
        return self._taken >= _LOAD * self._buckets * _PLACES

    def keep(self, text: NDArray[np.int64], windows: list[tuple[int, int]], split: Split) -> list[bool]:
        """Tell which windows of a document to keep, and remember their text.

        Args:
            text: the document's tokens that count.
            windows: beginning and end of each window in ``text``, ordered, none empty.
            split: the document's split.

        Returns:
            For each window, whether it is no copy: it does not stand in the corpus so far, and shares no text with
            another split. Once the table is full, no window is kept.
        """
        number = _SPLITS[split]
        grams = _hashes(text, GRAM)
        foreign = np.concatenate([[0], np.cumsum(self._found(grams, number))])
        whole = np.array([_whole(text[start:end]) for start, end in windows], np.uint64)
        known = self._found(whole, None)
        kept: list[bool] = []
        fresh: list[Hashes] = []
        seen: set[int] = set()
        for place, (start, end) in enumerate(windows):
            first, last = min(start, len(grams)), max(min(start, len(grams)), end - GRAM + 1)
            copied = known[place] or int(whole[place]) in seen or foreign[last] > foreign[first]
            good = not (self.full or copied)
            kept.append(good)
            if good:
                seen.add(int(whole[place]))
                fresh += [whole[place : place + 1], grams[first:last:STEP]]
        if fresh:
            self._remember(np.unique(np.concatenate(fresh)), number)
        return kept

    def _places(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the two buckets (N, 2) and the fingerprint (N,) of each hash."""
        mask = np.uint64(self._buckets - 1)
        fingerprints = ((hashes >> np.uint64(34)) | np.uint64(1)).astype(np.uint32)  # never 0, which is a free place
        other = _mixed(hashes + _WHOLE)
        return np.stack([hashes & mask, other & mask], axis=1).astype(np.int64), fingerprints

    def _found(self, hashes: Hashes, split: int | None) -> NDArray[np.bool_]:
        """Tell which hashes are remembered; with a split, of another than that."""
        buckets, fingerprints = self._places(hashes)
        entries = self._table[buckets].reshape(len(hashes), 2 * _PLACES)
        same = (entries >> np.uint32(2)) == fingerprints[:, None]
        if split is not None:
            same &= (entries & np.uint32(3)) != split
        found: NDArray[np.bool_] = same.any(axis=1)
        return found

    def _remember(self, hashes: Hashes, split: int) -> None:
        buckets, fingerprints = self._places(hashes)
        values = (fingerprints << np.uint32(2)) | np.uint32(split)
        waiting = np.flatnonzero(~(self._table[buckets].reshape(len(hashes), -1) == values[:, None]).any(axis=1))
        while len(waiting):
            free = (self._table[buckets[waiting]] == 0).sum(axis=2)
            emptier = free.argmax(axis=1)
            if not free.max(axis=1).all():  # both buckets full: hardly ever before the load is reached
                self._taken = self._buckets * _PLACES
                return
            bucket = buckets[waiting, emptier]
            # One to a bucket in each round.
            _, first = np.unique(bucket, return_index=True)
            chosen = bucket[first]
            self._table[chosen, (self._table[chosen] == 0).argmax(axis=1)] = values[waiting[first]]
            self._taken += len(first)
            waiting = np.delete(waiting, first)


def _hashes(text: NDArray[np.int64], length: int) -> Hashes:
    """Return the hash of every run of so many tokens."""
    if len(text) < length:
        return np.zeros(0, np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(text.astype(np.uint64) + np.uint64(1), length)
    return _mixed((runs * _ODD[:length]).sum(axis=1, dtype=np.uint64))


def _whole(text: NDArray[np.int64]) -> np.uint64:
    """Return the hash of a whole window."""
    factors = np.resize(_ODD, len(text))
    total = ((text.astype(np.uint64) + np.uint64(1)) * factors).sum(dtype=np.uint64)
    salted = int(total) ^ (int(_WHOLE) * len(text) & (2**64 - 1))
    return np.uint64(_mixed(np.array([salted], np.uint64))[0])


def _mixed(values: Hashes) -> Hashes:
    """Spread the bits (the finaliser of MurmurHash3)."""
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        values = (values ^ (values >> np.uint64(33))) * factor
    return values ^ (values >> np.uint64(33))
