"""What is kept of the activations while the corpus goes by, for all neurons at once, in tensors of fixed size.

Rows are neurons at a sign; a whole neuron's activations are computed once for both. Every kept window stands here by
its number, in order of reading, with the activations at all its positions; positions that do not count are 0.

*Top*: a sorted list of the k highest peaks for each row. *Quantiles*: bottom-k sampling (Cohen and Kaplan 2007): every
window has a random priority, from the seed and the window's identity, and each row keeps those of smallest priority
among the windows that activate it, a uniform sample that does not depend on the order and whose peaks tell where the
quantiles lie. Of ``PEAKS`` windows the peak is kept, of the first of them, ``SPARE`` times as many as will be shown,
the activations too. *Random*: the same over all windows, once for all rows. *Tally*: counts of activations on a
logarithmic scale of four bins to the octave, from 2**-36 to 2**20, so that shares above any activation can be told.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

#: Windows of a row and split whose peaks say where the quantiles lie: a rank is known to within 3 % (one sigma).
PEAKS = 256
#: Windows kept with their activations, as a multiple of those shown: so each quantile part holds enough of them.
SPARE = 4
#: A priority that no window has.
NEVER = 2**31 - 1
#: Rows worked on at once: bounds the memory of an update.
ROWS = 4096

_PER_OCTAVE_BITS = 2
_SHIFT = 23 - _PER_OCTAVE_BITS  # float32 has 23 bits of mantissa
_LOWEST = (127 - 36) << _PER_OCTAVE_BITS
BINS = (36 + 20) << _PER_OCTAVE_BITS


class Rows:
    """Which neuron and sign each row is.

    Args:
        whole: for each row, its column in the activations (R,).
        signs: 1 or -1 for each row (R,).
        device: where the state lies.
    """

    def __init__(self, whole: list[int], signs: list[int], device: str) -> None:
        self.unsigned = torch.tensor(whole, device=device)
        self.signs = torch.tensor(signs, dtype=torch.float32, device=device)
        self.negative = self.signs < 0
        self.both = bool(self.negative.any())
        self.count, self.device = len(whole), device

    def peaks(self, activations: Tensor) -> Tensor:
        """Return the highest activation of each window (R, B), of activations (B, T, neurons)."""
        highest = activations.amax(dim=1)[:, self.unsigned]
        if self.both:
            highest = torch.where(self.negative, -activations.amin(dim=1)[:, self.unsigned], highest)
        return highest.T.contiguous()


class Kept:
    """The activations of the windows kept for each row, which stay where they are while their order changes.

    Attributes:
        slots: for each row and place in its order, where in ``activations`` that place's are (R, k).
        activations: (R, k, T).
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        self._rows = rows
        self.slots = torch.arange(count, device=rows.device).repeat(rows.count, 1)
        self.activations = torch.zeros(rows.count, count, window, dtype=dtype, device=rows.device)

    def reorder(self, rows: Tensor, order: Tensor, columns: Tensor, activations: Tensor) -> None:
        """Take up a new order of some rows.

        Args:
            rows: the rows (r,).
            order: for each place, the place it had before; from k on, the place in ``columns`` of a new window (r, k).
            columns: windows of the batch.
            activations: those of the batch (B, T, neurons).
        """
        count = self.slots.shape[1]
        new = order >= count
        slots = self.slots[rows].gather(1, order.clamp_max(count - 1))
        # As many slots are free in a row as windows are new, and both are found row by row.
        taken = torch.zeros_like(slots).scatter_add_(1, slots, (~new).long())
        slots[new] = (taken == 0).nonzero()[:, 1]
        self.slots[rows] = slots
        which, place = new.nonzero(as_tuple=True)
        into, window = rows[which], columns[order[which, place] - count]
        values = activations[window, :, self._rows.unsigned[into]] * self._rows.signs[into, None]
        self.activations[into, slots[which, place]] = pad(
            values.to(self.activations.dtype), (0, self.activations.shape[2] - values.shape[1])
        )

    def of(self, row: int, places: Tensor) -> Tensor:
        """Return the activations at some places of a row's order (places, T)."""
        return self.activations[row, self.slots[row, places]]


class Top(Kept):
    """The highest windows of each row: values (R, k), window numbers (R, k), and their activations.

    Only windows that activate the row are among them; a free place has value 0 and number -1.
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        super().__init__(rows, count, window, dtype)
        self.values = torch.zeros(rows.count, count, device=rows.device)
        self.windows = torch.full((rows.count, count), -1, dtype=torch.int32, device=rows.device)

    def update(self, peaks: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), window numbers (B,), activations (B, T, neurons)."""
        for rows, columns in _parts(peaks > self.values[:, -1:]):
            values = torch.cat([self.values[rows], peaks[rows][:, columns]], dim=1)
            # Stable, and earlier windows stand first: of equal activations those read first are kept.
            order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.values.shape[1]]
            self.values[rows] = values.gather(1, order)
            windows = torch.cat([self.windows[rows], numbers[columns].expand(len(rows), -1)], dim=1)
            self.windows[rows] = windows.gather(1, order)
            self.reorder(rows, order, columns, activations)


class Sample(Kept):
    """A uniform sample of the windows that activate each row, by priority.

    Peaks (R, ``PEAKS``) and priorities (R, ``PEAKS``), in order of priority; of the first ``count`` of them the window
    numbers (R, count) and the activations. A free place has priority ``NEVER``.
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
        for rows, columns in _parts((peaks > 0) & (priorities < self.priorities[:, -1:])):
            peaked = peaks[rows][:, columns]
            given = torch.where(peaked > 0, priorities[columns], NEVER)
            merged = torch.cat([self.priorities[rows], given], dim=1)
            ordered = merged.sort(dim=1, stable=True)
            order = ordered.indices[:, :size]
            self.values[rows] = torch.cat([self.values[rows], peaked], dim=1).gather(1, order)
            self.priorities[rows] = ordered.values[:, :size]
            # An old window among the first ``count`` was among them before.
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
        # Few ever enter: k (1 + ln(n / k)) of n windows.
        for column in (priorities < self.priorities.max()).nonzero().flatten().tolist():
            place = int(self.priorities.argmax())
            if priorities[column] < self.priorities[place]:
                self.priorities[place], self.windows[place] = priorities[column], numbers[column]
                self.activations[place] = 0
                self.activations[place, : activations.shape[1]] = activations[column]


class Tally:
    """How often and how strongly each neuron is active.

    ``counts`` (neurons, 1 + BINS or, with negative activations, 1 + 2 BINS): how many activations lie in each bin,
    from the lowest to the highest; one bin is for 0 and what is nearer to it than 2**-36. ``sums`` (neurons, 2),
    float64: of the positive and of the negative activations. ``highest`` (neurons, 2): the maximum, and that of the
    activations times -1.
    """

    def __init__(self, neurons: int, both: bool, device: str) -> None:
        self._zero = BINS if both else 0
        width = self._zero + 1 + BINS
        self.counts = torch.zeros(neurons, width, dtype=torch.int64, device=device)
        self.sums = torch.zeros(neurons, 2, dtype=torch.float64, device=device)
        self.highest = torch.zeros(neurons, 2, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64)
        self._offsets = torch.arange(neurons, dtype=torch.int32, device=device) * width + self._zero

    def update(self, activations: Tensor, tokens: int) -> None:
        """Count a batch of activations (B, T, neurons), 0 at the positions that do not count, of so many tokens."""
        self.tokens += tokens
        activations = activations.reshape(-1, activations.shape[-1])
        positive = activations.clamp_min(0)
        # What is summed up in float32 is one batch.
        total = positive.sum(dim=0)
        self.sums[:, 0] += total
        self.sums[:, 1] += activations.sum(dim=0) - total
        self.highest[:, 0] = torch.maximum(self.highest[:, 0], activations.amax(dim=0))
        bits = (activations if self._zero else positive).view(torch.int32)
        bins = ((bits & 0x7FFFFFFF) >> _SHIFT).sub_(_LOWEST - 1).clamp_(0, BINS)
        if self._zero:
            self.highest[:, 1] = torch.maximum(self.highest[:, 1], -activations.amin(dim=0))
            bins *= (bits >> 31) | 1
        counts = torch.bincount(bins.add_(self._offsets).flatten(), minlength=self.counts.numel())
        self.counts += counts.view_as(self.counts)

    def active(self, sign: int) -> Tensor:
        """Return how many activations lie in each bin at a sign (neurons, BINS), the weakest first."""
        return self.counts[:, self._zero + 1 :] if sign > 0 else self.counts[:, : self._zero].flip(1)


def lower_edges() -> Tensor:
    """Return the smallest activation of each bin (BINS,), float32; the first bin begins at 2**-36."""
    return ((torch.arange(BINS, dtype=torch.int32) + _LOWEST) << _SHIFT).view(torch.float32)


def _parts(enters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows and columns in which anything is true, some rows at a time."""
    rows = enters.any(dim=1).nonzero().flatten()
    for some in torch.split(rows, ROWS):
        if len(some):
            yield some, enters[some].any(dim=0).nonzero().flatten()
