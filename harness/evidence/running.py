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
        self.whole = torch.tensor(whole, device=device)
        self.signs = torch.tensor(signs, dtype=torch.float32, device=device)
        self.negative = self.signs < 0
        self.both = bool(self.negative.any())
        self.count, self.device = len(whole), device

    def peaks(self, activations: Tensor) -> Tensor:
        """Return the highest activation of each window (R, B), of activations (B, T, neurons)."""
        highest = activations.amax(dim=1)[:, self.whole]
        if self.both:
            highest = torch.where(self.negative, -activations.amin(dim=1)[:, self.whole], highest)
        return highest.T.contiguous()

    def of(self, rows: Tensor, columns: Tensor, activations: Tensor, window: int) -> Tensor:
        """Return the activations of some rows in some windows, filled up to the window's length: (rows, columns, T)."""
        chosen = activations[columns][:, :, self.whole[rows]].permute(2, 0, 1) * self.signs[rows, None, None]
        return pad(chosen, (0, window - chosen.shape[2]))


class Top:
    """The highest windows of each row: values (R, k), window numbers (R, k), activations (R, k, T).

    Only windows that activate the row are among them; a free place has value 0 and number -1.
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        self._rows = rows
        self.values = torch.zeros(rows.count, count, device=rows.device)
        self.windows = torch.full((rows.count, count), -1, dtype=torch.int32, device=rows.device)
        self.activations = torch.zeros(rows.count, count, window, dtype=dtype, device=rows.device)

    def update(self, peaks: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), window numbers (B,), activations (B, T, neurons)."""
        enters = peaks > self.values[:, -1:]
        for rows, columns in _parts(enters):
            values = torch.cat([self.values[rows], peaks[rows][:, columns]], dim=1)
            # Stable, and earlier windows stand first: of equal activations those read first are kept.
            order = values.sort(dim=1, descending=True, stable=True).indices[:, : self.values.shape[1]]
            self.values[rows] = values.gather(1, order)
            windows = torch.cat([self.windows[rows], numbers[columns].expand(len(rows), -1)], dim=1)
            self.windows[rows] = windows.gather(1, order)
            new = self._rows.of(rows, columns, activations, self.activations.shape[2])
            self.activations[rows] = _gathered(self.activations[rows], new, order)


class Sample:
    """A uniform sample of the windows that activate each row, by priority.

    Peaks (R, ``PEAKS``) and priorities (R, ``PEAKS``), in order of priority; of the first ``count`` of them the window
    numbers (R, count) and activations (R, count, T). A free place has priority ``NEVER``.
    """

    def __init__(self, rows: Rows, count: int, window: int, dtype: torch.dtype) -> None:
        self._rows = rows
        size = max(PEAKS, count)
        self.values = torch.zeros(rows.count, size, device=rows.device)
        self.priorities = torch.full((rows.count, size), NEVER, dtype=torch.int32, device=rows.device)
        self.windows = torch.full((rows.count, count), -1, dtype=torch.int32, device=rows.device)
        self.activations = torch.zeros(rows.count, count, window, dtype=dtype, device=rows.device)

    def update(self, peaks: Tensor, priorities: Tensor, numbers: Tensor, activations: Tensor) -> None:
        """Merge a batch: peaks (R, B), priorities (B,), window numbers (B,), activations (B, T, neurons)."""
        count = self.windows.shape[1]
        enters = (peaks > 0) & (priorities < self.priorities[:, -1:])
        for rows, columns in _parts(enters):
            peaked = peaks[rows][:, columns]
            given = torch.where(peaked > 0, priorities[columns], NEVER)
            merged = torch.cat([self.priorities[rows], given], dim=1)
            order = merged.sort(dim=1, stable=True).indices[:, : self.priorities.shape[1]]
            first = order[:, :count]
            changed = (first >= self.priorities.shape[1]).any(dim=1)
            self.values[rows] = torch.cat([self.values[rows], peaked], dim=1).gather(1, order)
            self.priorities[rows] = merged.gather(1, order)
            some = rows[changed]
            if len(some):
                # An old window among the first ``count`` was among them before.
                first = first[changed]
                first = torch.where(first < self.priorities.shape[1], first, first - self.priorities.shape[1] + count)
                windows = torch.cat([self.windows[some], numbers[columns].expand(len(some), -1)], dim=1)
                self.windows[some] = windows.gather(1, first)
                new = self._rows.of(some, columns, activations, self.activations.shape[2])
                self.activations[some] = _gathered(self.activations[some], new, first)
        return


class Drawn:
    """Random windows, the same for all rows: priorities (k,), window numbers (k,), activations (k, T, neurons)."""

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

    ``counts`` (neurons, 1 + BINS or, with negative activations, 1 + 2 BINS): how many activations lie in each bin; the
    first bin is for 0 and what is nearer to it than 2**-36. ``sums`` (neurons, 2), float64: of the positive and of the
    negative activations. ``highest`` (neurons, 2): the maximum, and of the activations times -1.
    """

    def __init__(self, neurons: int, both: bool, device: str) -> None:
        self._width = 1 + BINS * (2 if both else 1)
        self.counts = torch.zeros(neurons, self._width, dtype=torch.int64, device=device)
        self.sums = torch.zeros(neurons, 2, dtype=torch.float64, device=device)
        self.highest = torch.zeros(neurons, 2, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64)
        self._offsets = torch.arange(neurons, dtype=torch.int32, device=device) * self._width

    def update(self, activations: Tensor, tokens: int) -> None:
        """Count a batch of activations (B, T, neurons), 0 at the positions that do not count, of so many tokens."""
        both = self._width > 1 + BINS
        self.tokens += tokens
        positive = activations.clamp_min(0)
        # In float64, so that the order, which depends on the shape, does not show.
        total = positive.sum(dim=(0, 1), dtype=torch.float64)
        self.sums[:, 0] += total
        self.sums[:, 1] += activations.sum(dim=(0, 1), dtype=torch.float64) - total
        self.highest[:, 0] = torch.maximum(self.highest[:, 0], activations.amax(dim=(0, 1)))
        bits = (activations if both else positive).contiguous().view(torch.int32)
        bins = ((bits & 0x7FFFFFFF) >> _SHIFT).sub_(_LOWEST - 1).clamp_(0, BINS)
        if both:
            self.highest[:, 1] = torch.maximum(self.highest[:, 1], -activations.amin(dim=(0, 1)))
            bins += ((bits < 0) & (bins > 0)) * BINS
        counts = torch.bincount(bins.add_(self._offsets).flatten(), minlength=self.counts.numel())
        self.counts += counts.view_as(self.counts)

    def active(self, sign: int) -> Tensor:
        """Return how many activations lie in each bin at a sign (neurons, BINS)."""
        start = 1 if sign > 0 else 1 + BINS
        return self.counts[:, start : start + BINS]


def lower_edges() -> Tensor:
    """Return the smallest activation of each bin (BINS,), float32; the first bin begins at 2**-36."""
    return ((torch.arange(BINS, dtype=torch.int32) + _LOWEST) << _SHIFT).view(torch.float32)


def _parts(enters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows and columns in which anything is true, some rows at a time."""
    rows = enters.any(dim=1).nonzero().flatten()
    for some in torch.split(rows, ROWS):
        if len(some):
            yield some, enters[some].any(dim=0).nonzero().flatten()


def _gathered(old: Tensor, new: Tensor, order: Tensor) -> Tensor:
    both = torch.cat([old, new.to(old.dtype)], dim=1)
    return both.gather(1, order[..., None].expand(-1, -1, old.shape[2]))
