"""Merge verdicts, one per order shown, into comparisons, one per pair of descriptions.

A run can have a million verdicts, so the rule works on columns; records are made from the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.records import Neuron, Status, Verdict, Winner

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
T = TypeVar("T")

MISSING = "missing"
"""Status of an order without a record, in addition to those of :class:`~harness.records.Status`."""

STATUSES: tuple[str, ...] = (*map(str, Status), MISSING)
"""Meaning of the status numbers in the columns of a table; 0 is ok."""


def opponents_of(describers: Sequence[str], controls: Collection[str]) -> Bools:
    """Return against whom a win counts for win rates, (K,): the real methods, so that weak controls raise nobody's.

    With fewer than two real methods, everybody counts.
    """
    real = np.array([name not in controls for name in describers], dtype=np.bool_)
    return real if real.sum() > 1 else np.ones_like(real)


@dataclass(frozen=True, order=True)
class Comparison:
    """Outcome of two describers on one neuron by one judge, all orders together.

    Attributes:
        neuron: the neuron.
        judge: the judge's name.
        left: the describer whose name sorts first, whichever was shown first.
        right: the other describer.
        points: points of ``left``: 1 for a win, 0.5 for a tie, 0 for a loss; None if the comparison failed. ``right``
            gets 1 minus this.
        inconsistent: whether the two orders disagree, which counts as a tie.
        both_orders: whether the judge was asked in both orders (false for symmetric judges).
        failures: status of each order without a verdict; empty if the comparison did not fail.
    """

    neuron: Neuron
    judge: str
    left: str
    right: str
    points: float | None
    inconsistent: bool
    both_orders: bool
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class _PairTable:
    """Columns of equal length on pairs of describers.

    Attributes:
        neurons: the neurons with their signs, sorted; ``neuron`` holds indices into it.
        judges: names of the judges, sorted; ``judge`` holds indices into it.
        describers: names of the describers, sorted; ``left`` and ``right`` hold indices into it.
        neuron: the neuron.
        judge: the judge.
        left: the describer whose name sorts first.
        right: the other describer.
        points: points of ``left``, 1, 0.5 or 0; NaN without a usable verdict.
    """

    neurons: tuple[Neuron, ...]
    judges: tuple[str, ...]
    describers: tuple[str, ...]
    neuron: Ints
    judge: Ints
    left: Ints
    right: Ints
    points: Floats

    def __len__(self) -> int:
        return len(self.neuron)

    def where(self, rows: NDArray[Any]) -> Self:
        """Return the chosen rows (a mask, or sorted indices); the names stay."""
        parts = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: part[rows] for name, part in parts.items() if isinstance(part, np.ndarray)})

    def among(self, describers: Sequence[str]) -> Self:
        """Return the table with a longer list of describers, sorted, that contains the table's own."""
        places = np.array([describers.index(name) for name in self.describers], dtype=np.int64)
        return replace(self, describers=tuple(describers), left=places[self.left], right=places[self.right])

    def sums(self, left: Floats | Bools, right: Floats | Bools, opponents: Bools) -> Floats:
        """Return the sum over comparisons of a value of each describer, (K,), against some opponents (K,).

        Args:
            left: the value of the left describer, (rows,).
            right: that of the right one.
            opponents: as in :func:`opponents_of`.
        """
        width = len(self.describers)
        as_left = np.bincount(self.left, left * opponents[self.right], width)
        as_right = np.bincount(self.right, right * opponents[self.left], width)
        return np.asarray(as_left + as_right, dtype=np.float64)

    @cached_property
    def pair(self) -> Ints:
        """The pair's number: ``left * len(describers) + right``."""
        return self.left * len(self.describers) + self.right


@dataclass(frozen=True)
class VerdictTable(_PairTable):
    """Verdicts as columns, ordered by neuron, judge, pair and order shown.

    Attributes:
        flipped: whether ``right`` was shown first.
        status: index into :data:`STATUSES`; a verdict with status ok but without a winner has failed.
        symmetric: whether the judge ignores the order.
    """

    flipped: Bools
    status: Ints
    symmetric: Bools


@dataclass(frozen=True)
class ComparisonTable(_PairTable):
    """Comparisons as columns, ordered by neuron, judge and pair; the fields of :class:`Comparison`.

    Attributes:
        inconsistent: whether the two orders disagreed.
        both_orders: whether the judge was asked in both orders.
        failures: indices into :data:`STATUSES` of the orders that failed, 0 for none, (rows, 2).
        cluster: index of the neuron without its sign; both signs of a neuron are one cluster.
        cluster_of: index of each neuron without its sign, including neurons without a comparison.
    """

    inconsistent: Bools
    both_orders: Bools
    failures: Ints
    cluster: Ints
    cluster_of: Mapping[Neuron, int]

    @property
    def clusters(self) -> int:
        """Number of clusters, including those without a comparison."""
        return len(self.cluster_of)

    @cached_property
    def decided(self) -> Bools:
        """Which comparisons did not fail."""
        return ~np.isnan(self.points)

    def seen_in(self, opponents: Bools | None = None) -> Ints:
        """Return the number of clusters in which each describer has a comparison, (K,).

        Args:
            opponents: describers whose comparisons count, (K,), as in :func:`opponents_of`; None for all.
        """
        seen = np.zeros((self.clusters, len(self.describers)), dtype=np.bool_)
        for own, other in ((self.left, self.right), (self.right, self.left)):
            kept = slice(None) if opponents is None else opponents[other]
            seen[self.cluster[kept], own[kept]] = True
        counts: Ints = seen.sum(axis=0)
        return counts

    def records(self) -> list[Comparison]:
        """Return the comparisons one by one."""
        names = ("neuron", "judge", "left", "right", "points", "inconsistent", "both_orders", "failures")
        return [
            Comparison(
                self.neurons[neuron],
                self.judges[judge],
                self.describers[left],
                self.describers[right],
                None if points != points else points,
                inconsistent,
                both,
                tuple(sorted(STATUSES[status] for status in failed if status)),
            )
            for neuron, judge, left, right, points, inconsistent, both, failed in zip(
                *(getattr(self, name).tolist() for name in names), strict=True
            )
        ]


def verdict_table(verdicts: Iterable[Verdict]) -> VerdictTable:
    """Return verdicts, in any order, as columns.

    Raises:
        ValueError: if there are two verdicts of the same order of a pair, or a describer is compared with itself.
    """
    records = list(verdicts)
    first, second, tie, ok, failed = Winner.FIRST, Winner.SECOND, Winner.TIE, Status.OK, STATUSES.index(Status.FAILED)
    numbers = {status: STATUSES.index(status) for status in Status}
    # Plain tuples: hashing and comparing a million Neuron objects in Python is slow.
    neurons, neuron = _distinct([item.neuron for item in records], attrgetter("order"))
    judges, judge = _distinct([item.judge for item in records])
    names, shown = _distinct([name for item in records for name in (item.first, item.second)])
    one, other = shown[::2], shown[1::2]
    winner = np.array(
        [
            1.0 if w is first else 0.0 if w is second else 0.5 if w is tie else np.nan
            for w in (r.winner for r in records)
        ],
        dtype=np.float64,
    )
    status = np.array([0 if s is ok else numbers[s] for s in (item.status for item in records)], dtype=np.int64)
    symmetric = np.array([item.symmetric for item in records], dtype=np.bool_)
    status = np.where((status == 0) & np.isnan(winner), failed, status)
    flipped = one > other
    points = np.where(status == 0, np.where(flipped, 1 - winner, winner), np.nan)
    left, right = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((flipped, right, left, judge, neuron))
    table = VerdictTable(neurons, judges, names, neuron, judge, left, right, points, flipped, status, symmetric)
    table = table.where(order)
    _check(table)
    return table


def _check(table: VerdictTable) -> None:
    def asked(row: int) -> tuple[str, str, str, str]:
        shown = [table.describers[table.left[row]], table.describers[table.right[row]]]
        one, other = reversed(shown) if table.flipped[row] else shown
        return table.judges[table.judge[row]], str(table.neurons[table.neuron[row]]), one, other

    alone = np.flatnonzero(table.left == table.right)
    if len(alone):
        judge, neuron, one, _ = asked(int(alone[0]))
        raise ValueError(f"{judge} on {neuron} compares {one!r} with itself")
    twice = np.flatnonzero(~_starts(table, [*_QUESTION, "flipped"]))
    if len(twice):
        judge, neuron, one, other = asked(int(twice[0]))
        raise ValueError(f"two verdicts of {judge} on {neuron}, {one!r} before {other!r}; keep the last one")


_QUESTION = ["neuron", "judge", "left", "right"]


def _starts(table: VerdictTable, columns: Sequence[str]) -> Bools:
    """Return where a row differs from the previous row in one of the columns; true for the first row."""
    starts = np.zeros(len(table), dtype=np.bool_)
    starts[:1] = True
    for name in columns:
        column = getattr(table, name)
        starts[1:] |= column[1:] != column[:-1]
    return starts


def compare(table: VerdictTable, others: Iterable[Neuron] = ()) -> ComparisonTable:
    """Merge verdicts into comparisons, one per judge, neuron and unordered pair of describers.

    A symmetric verdict is a complete comparison. Other judges need both orders. If the orders agree, that is the
    outcome. If they differ in any way (also if only one is a tie), the comparison is an inconsistent tie. If one is
    missing or not ok, the comparison has failed; it is never a tie.

    Args:
        table: the verdicts.
        others: further neurons that are clusters, such as those with scores.
    """
    unsigned = [neuron.unsigned for neuron in table.neurons]
    present = sorted({*unsigned, *(neuron.unsigned for neuron in others)}, key=attrgetter("order"))
    cluster_of = {neuron: number for number, neuron in enumerate(present)}
    cluster = np.array([cluster_of[neuron] for neuron in unsigned], dtype=np.int64)
    begin = np.flatnonzero(_starts(table, _QUESTION))
    size = np.diff(np.append(begin, len(table)))
    last = begin + size - 1  # the same row if there is only one order
    both = ~(table.symmetric[begin] | table.symmetric[last])
    # If one of two records is symmetric, the other one is ignored.
    one = np.where(both | table.symmetric[begin], begin, last)
    two = np.where(both | table.symmetric[last], last, begin)
    statuses = np.stack([table.status[one], np.where(one == two, 0, table.status[two])], axis=1)
    statuses[both & (size < 2), 1] = STATUSES.index(MISSING)
    failed = statuses.any(axis=1)
    inconsistent = ~failed & (table.points[one] != table.points[two])
    points = np.where(failed, np.nan, np.where(inconsistent, 0.5, table.points[one]))
    return ComparisonTable(
        neurons=table.neurons,
        judges=table.judges,
        describers=table.describers,
        neuron=table.neuron[begin],
        judge=table.judge[begin],
        left=table.left[begin],
        right=table.right[begin],
        points=points,
        inconsistent=inconsistent,
        both_orders=both,
        failures=statuses,
        cluster=cluster[table.neuron[begin]],
        cluster_of=cluster_of,
    )


def merge_verdicts(verdicts: Iterable[Verdict]) -> list[Comparison]:
    """Merge verdicts, in any order, into sorted records; the rule is that of :func:`compare`.

    Raises:
        ValueError: if there are two verdicts of the same order of a pair, or a describer is compared with itself.
    """
    return compare(verdict_table(verdicts)).records()


def _distinct(values: Sequence[T], key: Callable[[T], Any] = str) -> tuple[tuple[T, ...], Ints]:
    """Return the distinct values, ordered by their keys, and the index of each value among them."""
    keys = list(map(key, values))
    known = dict(zip(keys, values, strict=True))
    ordered = sorted(known)
    numbers = {key: number for number, key in enumerate(ordered)}
    return tuple(known[key] for key in ordered), np.fromiter(map(numbers.__getitem__, keys), np.int64, len(keys))
