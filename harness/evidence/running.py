"""The exemplars kept during a pass over the corpus, for all neurons at once, in tensors of fixed size.

Rows are neurons with a sign; both signs of a neuron share its computed activations. Every kept window is identified by
its number, in order of reading, and stored with its activations at all positions; positions that do not count as
evidence are 0.

*Top*: a sorted list of the k highest peaks of each row. *Quantiles*: bottom-k sampling (Cohen and Kaplan 2007). Every
window has a random priority, derived from the seed and the window's identity, and each row keeps the windows of
smallest priority among those that activate it. This is a uniform sample that does not depend on the order, and its
peaks estimate the quantiles. ``PEAKS`` windows are kept with their peak alone. The first of them, ``SPARE`` times as
many as will be shown, are kept with their activations. *Random*: the same over all windows, once for all rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Windows of a row and split whose peaks estimate the quantiles: a rank has a standard error of at most 3 %.
PEAKS = 256
#: Windows kept with their activations, as a multiple of those shown, so that each quantile part has enough of them.
SPARE = 4
#: A priority above that of any window.
NEVER = 2**31 - 1
#: Rows processed at once: bounds the memory of an update.
ROWS = 4096


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
    """The activations of the windows kept for each row. They stay in their slots while the order of windows changes.

    Attributes:
        slots: for each row and rank, the slot in ``activations`` that holds the window of that rank (R, k).
        activations: (R, k, T).
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        self._rows = rows
        self.slots = torch.arange(count, device=rows.device).repeat(rows.count, 1)
        self.activations = torch.zeros(rows.count, count, window, dtype=dtype, device=rows.device)

    def reorder(self, rows: Tensor, order: Tensor, columns: Tensor, activations: Tensor) -> None:
        """Apply a new order to some rows.

        Args:
            rows: the rows (r,).
            order: for each rank the previous rank; values from k on are k plus an index into ``columns``, of a new
                window (r, k).
            columns: windows of the batch.
            activations: activations of the batch (B, T, neurons).
        """
        count = self.slots.shape[1]
        new = order >= count
        slots = self.slots[rows].gather(1, order.clamp_max(count - 1))
        # Each row has as many free slots as new windows, and both are listed row by row.
        taken = torch.zeros_like(slots).scatter_add_(1, slots, (~new).long())
        slots[new] = (taken == 0).nonzero()[:, 1]
        self.slots[rows] = slots
        which, rank = new.nonzero(as_tuple=True)
        into, window = rows[which], columns[order[which, rank] - count]
        values = activations[window, :, self._rows.columns[into]] * self._rows.signs[into, None]
        self.activations[into, slots[which, rank]] = pad(
            values.to(self.activations.dtype), (0, self.activations.shape[2] - values.shape[1])
        )

    def of(self, row: int, ranks: Tensor) -> Tensor:
        """Return the activations at some ranks of a row (ranks, T)."""
        return self.activations[row, self.slots[row, ranks]]


class Top(Kept):
    """The highest windows of each row: values (R, k), window numbers (R, k), and their activations.

    Holds only windows that activate the row; an empty rank has value 0 and number -1.
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        super().__init__(rows, count, window, dtype)
        self.values = torch.zeros(rows.count, count, device=rows.device)
        self.windows = torch.full((rows.count, count), -1, dtype=torch.int32, device=rows.device)

    def update(self, peaks: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), window numbers (B,), activations (B, T, neurons)."""
        for rows, columns in _changed(peaks > self.values[:, -1:]):
            values = torch.cat([self.values[rows], peaks[rows][:, columns]], dim=1)
            # The sort is stable and earlier windows come first: ties go to the window read first.
            order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.values.shape[1]]
            self.values[rows] = values.gather(1, order)
            windows = torch.cat([self.windows[rows], numbers[columns].expand(len(rows), -1)], dim=1)
            self.windows[rows] = windows.gather(1, order)
            self.reorder(rows, order, columns, activations)


class Sample(Kept):
    """A uniform sample of the windows that activate each row, by priority.

    Peaks (R, ``PEAKS``) and priorities (R, ``PEAKS``), in order of priority; for the first ``count`` of them also the
    window numbers (R, count) and the activations. An empty rank has priority ``NEVER``.
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        super().__init__(rows, count, window, dtype)
        size = max(PEAKS, count)
        self.values = torch.zeros(rows.count, size, device=rows.device)
        self.priorities = torch.full((rows.count, size), NEVER, dtype=torch.int32, device=rows.device)
        self.windows = torch.full((rows.count, count), -1, dtype=torch.int32, device=rows.device)

    def update(self, peaks: Tensor, priorities: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), priorities (B,), window numbers (B,), activations (B, T, neurons)."""
        count, size = self.windows.shape[1], self.priorities.shape[1]
        for rows, columns in _changed((peaks > 0) & (priorities < self.priorities[:, -1:])):
            peaked = peaks[rows][:, columns]
            given = torch.where(peaked > 0, priorities[columns], NEVER)
            merged = torch.cat([self.priorities[rows], given], dim=1)
            ordered = merged.sort(dim=1, stable=True)
            order = ordered.indices[:, :size]
            self.values[rows] = torch.cat([self.values[rows], peaked], dim=1).gather(1, order)
            self.priorities[rows] = ordered.values[:, :size]
            # A window among the first ``count`` is either new or was among them before.
            first = order[:, :count]
            changed = (first >= size).any(dim=1)
            some, first = rows[changed], first[changed]
            if len(some):
                first = torch.where(first < size, first, first - size + count)
                windows = torch.cat([self.windows[some], numbers[columns].expand(len(some), -1)], dim=1)
                self.windows[some] = windows.gather(1, first)
                self.reorder(some, first, columns, activations)


class Drawn:
    """A pool of random windows for all rows: priorities (k,), window numbers (k,), activations (k, T, neurons)."""

    def __init__(self, neurons: int, count: int, window: int, dtype: torch.dtype, device: str) -> None:
        self.priorities = torch.full((count,), NEVER, dtype=torch.int32)
        self.windows = torch.full((count,), -1, dtype=torch.int32)
        self.activations = torch.zeros(count, window, neurons, dtype=dtype, device=device)

    def update(self, priorities: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: priorities (B,) and window numbers (B,) on the CPU, activations (B, T, neurons)."""
        # Few windows ever enter: k (1 + ln(n / k)) of n.
        for column in (priorities < self.priorities.max()).nonzero().flatten().tolist():
            slot = int(self.priorities.argmax())
            if priorities[column] < self.priorities[slot]:
                self.priorities[slot], self.windows[slot] = priorities[column], numbers[column]
                self.activations[slot] = 0
                self.activations[slot, : activations.shape[1]] = activations[column]


def _changed(enters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows (r,) and columns in which ``enters`` (R, B) is true anywhere, at most ``ROWS`` rows at a time."""
    rows = enters.any(dim=1).nonzero().flatten()
    for some in torch.split(rows, ROWS):
        if len(some):
            yield some, enters[some].any(dim=0).nonzero().flatten()
