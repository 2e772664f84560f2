"""The exemplars kept during a pass over the corpus, for all neurons at once, in tensors of fixed size.

Rows are neurons with a sign; both signs of a neuron share its computed activations. Every kept window is identified by
its number, in the order of the corpus, and stored with its activations at all positions; positions that do not count as
evidence are 0.

Every selection keeps the windows of smallest key. Keys are 64-bit integers that no two windows share, because they end
with the window's number. So what is kept depends neither on the order of the windows nor on how they were divided among
processes, and what processes have kept of parts of the corpus is merged exactly.

*Top*: the k highest peaks of each row, equal peaks in the order of the corpus. *Quantiles*: bottom-k sampling (Cohen
and Kaplan 2007). Every window has a random priority, derived from the seed and the window's identity, and each row
keeps the windows of smallest priority among those that activate it. This is a uniform sample, and its peaks estimate
the quantiles. ``PEAKS`` windows are kept with their peak alone. The first of them, ``SPARE`` times as many as will be
shown, are kept with their activations. *Random*: the same over all windows, once for all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Windows of a row and split whose peaks estimate the quantiles: a rank has a standard error of at most 3 %.
PEAKS = 256
#: Windows kept with their activations, as a multiple of those shown, so that each quantile part has enough of them.
SPARE = 4
#: A priority above that of any window.
NEVER = 2**31 - 1
#: The key of an empty place, above that of any window.
EMPTY = 2**63 - 1
#: Rows processed at once: bounds the memory of an update.
ROWS = 4096


def keys_of(ranks: Tensor, numbers: Tensor) -> Tensor:
    """Return keys, int64, that order windows by rank and windows of equal rank by number (both int32, 0 or more)."""
    return (ranks.long() << 32) | numbers.long()


def windows_of(keys: Tensor) -> Tensor:
    """Return the numbers of the windows with some keys, int32; -1 for an empty place."""
    return torch.where(keys == EMPTY, -1, keys & 0xFFFFFFFF).to(torch.int32)


class Rows:
    """The neuron and sign of each row.

    Args:
        columns: for each row, the neuron's column in the activations (R,).
        signs: 1 or -1 for each row (R,).
        device: device of the state.
    """

    def __init__(self, columns: list[int], signs: list[int], device: str) -> None:
        self.columns = torch.tensor(columns, device=device)
        self.signs = torch.tensor(signs, dtype=torch.float32, device=device)
        self.negative = self.signs < 0
        self.any_negative = bool(self.negative.any())
        self.count, self.device = len(columns), device

    def peaks(self, activations: Tensor) -> Tensor:
        """Return the highest activation of each window (R, B) from activations (B, T, neurons)."""
        highest = activations.amax(dim=1)[:, self.columns]
        if self.any_negative:
            highest = torch.where(self.negative, -activations.amin(dim=1)[:, self.columns], highest)
        return highest.T.contiguous()


class Kept:
    """The windows of smallest key of each row, among those that activate it; the first ``count`` with activations.

    Activations stay in their slots while the order of windows changes.

    Attributes:
        keys: keys of the windows, ascending (R, size), ``EMPTY`` at the end.
        values: their peaks (R, size).
        slots: for each row and rank, the slot in ``activations`` that holds the window of that rank (R, count).
        activations: (R, count, T).
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype, size: int | None = None) -> None:
        self._rows, device = rows, rows.device
        self.keys = torch.full((rows.count, size or count), EMPTY, dtype=torch.int64, device=device)
        self.values = torch.zeros(rows.count, size or count, device=device)
        self.slots = torch.arange(count, device=device).repeat(rows.count, 1)
        self.activations = torch.zeros(rows.count, count, window, dtype=dtype, device=device)

    @property
    def windows(self) -> Tensor:
        """Numbers of the windows that have activations, in the order of their keys (R, count); -1: an empty place."""
        return windows_of(self.keys[:, : self.slots.shape[1]])

    def merge(self, keys: Tensor, values: Tensor, slots: Tensor, activations: Tensor) -> None:
        """Merge what another object, whose attributes these are, has kept of other windows."""
        for rows, columns in _changed(keys < self.keys[:, -1:]):

            def found(into: Tensor, chosen: Tensor, columns: Tensor = columns) -> Tensor:
                # It is among the first ``count`` here, so it was among them there.
                return activations[into, slots[into, columns[chosen]]]

            self._enter(rows, keys[rows][:, columns], values[rows][:, columns], found)

    def _add(
        self, rows: Tensor, columns: Tensor, keys: Tensor, peaks: Tensor, numbers: Tensor, activations: Tensor
    ) -> None:
        """Merge windows of a batch: their rows, columns in the batch, keys and peaks (r, c)."""

        def found(into: Tensor, chosen: Tensor) -> Tensor:
            return activations[columns[chosen], :, self._rows.columns[into]] * self._rows.signs[into, None]

        self._enter(rows, torch.where(peaks > 0, keys_of(keys, numbers[columns]), EMPTY), peaks, found)

    def _enter(
        self, rows: Tensor, keys: Tensor, values: Tensor, activations: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """Merge windows into some rows.

        Args:
            rows: the rows (r,).
            keys: keys of the windows (r, c).
            values: their peaks (r, c).
            activations: returns the activations (n, T) of windows, given their rows and their places in ``keys``.
        """
        count, size = self.slots.shape[1], self.keys.shape[1]
        # Stable, so that an empty place of this object comes before one of the windows merged.
        ordered = torch.cat([self.keys[rows], keys], dim=1).sort(dim=1, stable=True)
        order = ordered.indices[:, :size]
        self.keys[rows] = ordered.values[:, :size]
        self.values[rows] = torch.cat([self.values[rows], values], dim=1).gather(1, order)
        # A window among the first ``count`` is either new or was among them before.
        changed = (order[:, :count] >= size).any(dim=1)
        rows, first = rows[changed], order[changed, :count]
        new = first >= size
        slots = self.slots[rows].gather(1, first.clamp_max(count - 1))
        # Each row has as many free slots as new windows, and both are listed row by row.
        taken = torch.zeros_like(slots).scatter_add_(1, slots, (~new).long())
        slots[new] = (taken == 0).nonzero()[:, 1]
        self.slots[rows] = slots
        which, rank = new.nonzero(as_tuple=True)
        found = activations(rows[which], first[which, rank] - size)
        self.activations[rows[which], slots[which, rank]] = pad(
            found.to(self.activations.dtype), (0, self.activations.shape[2] - found.shape[1])
        )

    def of(self, row: int, ranks: Tensor) -> Tensor:
        """Return the activations at some ranks of a row (ranks, T)."""
        return self.activations[row, self.slots[row, ranks]]


class Top(Kept):
    """The highest windows of each row."""

    def update(self, peaks: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), window numbers (B,), activations (B, T, neurons)."""
        for rows, columns in _changed((peaks > 0) & (peaks >= self.values[:, -1:])):
            peaked = peaks[rows][:, columns]
            # The bits of a positive float, read as an integer, have the order of the floats.
            ranks = NEVER - peaked.contiguous().view(torch.int32)
            self._add(rows, columns, ranks, peaked, numbers, activations)


class Sample(Kept):
    """A uniform sample of the windows that activate each row, by priority, with the peaks of at least ``PEAKS``."""

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        super().__init__(rows, count, window, dtype, max(PEAKS, count))

    def update(self, peaks: Tensor, priorities: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), priorities (B,), window numbers (B,), activations (B, T, neurons)."""
        for rows, columns in _changed((peaks > 0) & (keys_of(priorities, numbers) < self.keys[:, -1:])):
            self._add(rows, columns, priorities[columns], peaks[rows][:, columns], numbers, activations)


class Drawn:
    """A pool of random windows for all rows: keys by priority (k,), on the CPU, and activations (k, T, neurons).

    Args:
        neurons: number of neurons without signs.
        count: number of windows.
        window: tokens of a window.
        dtype: number format of the activations.
        device: device of the activations.
        limit: windows with this key or a higher one are not kept.
    """

    def __init__(
        self, neurons: int, count: int, window: int, dtype: torch.dtype, device: str, limit: int = EMPTY
    ) -> None:
        self._limit = limit
        self.keys = torch.full((count,), limit, dtype=torch.int64)
        self.activations = torch.zeros(count, window, neurons, dtype=dtype, device=device)

    @property
    def windows(self) -> Tensor:
        """Numbers of the windows (k,); -1: an empty place."""
        return windows_of(torch.where(self.keys < self._limit, self.keys, EMPTY))

    @property
    def limit(self) -> int:
        """The key below which a window enters."""
        return int(self.keys.max())

    def merge(self, keys: Tensor, activations: Tensor) -> None:
        """Merge windows: keys (n,) on the CPU, activations (n, T, neurons); T may be smaller than the kept windows."""
        # Few windows ever enter: k (1 + ln(n / k)) of n.
        for column in (keys < self.limit).nonzero().flatten().tolist():
            slot = int(self.keys.argmax())
            if keys[column] < self.keys[slot]:
                self.keys[slot] = keys[column]
                self.activations[slot] = 0
                self.activations[slot, : activations.shape[1]] = activations[column]

    def drop_empty(self) -> None:
        """Remove the empty places."""
        filled = self.keys < self._limit
        self.keys, self.activations = self.keys[filled], self.activations[filled.to(self.activations.device)]


def _changed(enters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows (r,) and columns in which ``enters`` (R, B) is true anywhere, at most ``ROWS`` rows at a time."""
    rows = enters.any(dim=1).nonzero().flatten()
    for some in torch.split(rows, ROWS):
        if len(some):
            yield some, enters[some].any(dim=0).nonzero().flatten()
