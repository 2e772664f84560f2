"""Points of comparisons by judge, pair and length difference, in the data and in each bootstrap sample.

All metrics that use comparisons are functions of these counts, so neurons are resampled once for all of them. The
counts of all judges together are the sum over judges.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from harness.results.comparisons import Bools, ComparisonTable, Floats, Ints
from harness.stats.bootstrap import ratio
from harness.stats.bradley_terry import Design


@dataclass(frozen=True)
class Tally:
    """Counts of decided comparisons in G groups, ordered by pair and length.

    Attributes:
        describers: number of describers, K.
        opponents: against whom points count in :meth:`win_rates`, (K,).
        judge: the judge of each group, (G,).
        left: the first describer.
        right: the second.
        length: covariate of the length difference; NaN where a length is unknown.
        points: points of ``left``: 1 for a win, 0.5 for a tie, (G,).
        counts: number of comparisons.
        drawn_points: ``points`` in each sample, draws x G.
        drawn_counts: ``counts`` in each sample, draws x G.
    """

    describers: int
    opponents: Bools
    judge: Ints
    left: Ints
    right: Ints
    length: Floats
    points: Floats
    counts: Floats
    drawn_points: Floats
    drawn_counts: Floats

    def of(self, judges: Collection[int]) -> Tally:
        """Return the counts of some judges together."""
        chosen = np.isin(self.judge, list(judges))
        return self._merged(np.flatnonzero(chosen), [self.left, self.right, self.length])

    def pairs(self) -> Tally:
        """Return the counts by pair, lengths merged."""
        return self._merged(np.arange(len(self.left)), [self.left, self.right])

    def of_known_length(self) -> Tally:
        """Return the groups with a known length difference."""
        return self._merged(np.flatnonzero(~np.isnan(self.length)), [self.left, self.right, self.length])

    def design(self, *, length: bool = False) -> Design:
        """Return the design of the Bradley-Terry model."""
        return Design(self.describers, self.left, self.right, self.length if length else None)

    def _merged(self, chosen: Ints, keys: list[Floats | Ints]) -> Tally:
        """Return the chosen groups; groups with equal keys are merged."""
        columns = [key[chosen] for key in keys]
        order = chosen[np.lexsort(columns[::-1])]
        starts = np.zeros(len(order), dtype=np.bool_)
        starts[:1] = True
        for key in keys:
            values = np.nan_to_num(np.asarray(key[order], dtype=np.float64), nan=np.inf)
            starts[1:] |= values[1:] != values[:-1]
        begin = np.flatnonzero(starts)
        first = order[begin]

        def total(values: Floats) -> Floats:
            if not len(begin):
                return values[..., :0]
            return np.add.reduceat(values[..., order], begin, axis=-1)

        return Tally(
            self.describers,
            self.opponents,
            self.judge[first],
            self.left[first],
            self.right[first],
            self.length[first],
            total(self.points),
            total(self.counts),
            total(self.drawn_points),
            total(self.drawn_counts),
        )

    def win_rates(self, opponents: Bools | None = None) -> tuple[Floats, Floats]:
        """Return the win rate of each describer, (K,), and in each sample, draws x K; NaN without comparisons.

        Args:
            opponents: describers against whom wins count, (K,); None for :attr:`opponents`.
        """
        opponents = self.opponents if opponents is None else opponents
        return (
            ratio(*standings(self, self.points, self.counts, opponents)),
            ratio(*standings(self, self.drawn_points, self.drawn_counts, opponents)),
        )


def standings(tally: Tally, points: Floats, counts: Floats, opponents: Bools) -> tuple[Floats, Floats]:
    """Return the points and comparisons of each describer against some (K,), (..., K), from those of the groups."""
    places = np.arange(len(tally.left))
    one, other = (np.zeros((len(places), tally.describers)) for _ in range(2))
    one[places, tally.left] = opponents[tally.right]
    other[places, tally.right] = opponents[tally.left]
    return points @ one + (counts - points) @ other, counts @ (one + other)


def tables_by_cluster(clusters: Ints, columns: Ints, values: Floats, shape: tuple[int, int]) -> sparse.csr_array:
    """Return the sums of values by cluster and column."""
    return sparse.coo_array((values, (clusters, columns)), shape=shape).tocsr()


def grouped(table: ComparisonTable, length: Floats) -> tuple[Ints, Ints]:
    """Return the group (same judge, pair and length) of each comparison, and one comparison of each group.

    Args:
        table: decided comparisons.
        length: their covariate, NaN where a length is unknown.
    """
    _, level = np.unique(length, return_inverse=True)
    key = (table.pair * (int(level.max(initial=0)) + 1) + level) * max(1, len(table.judges)) + table.judge
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return group, first


def tally(
    table: ComparisonTable,
    opponents: Bools,
    length: Floats,
    group: Ints,
    first: Ints,
    drawn: tuple[Floats, Floats],
) -> Tally:
    """Return the tally; ``drawn`` are the points and counts of each group in each sample, draws x G."""
    count = len(first)
    return Tally(
        len(table.describers),
        opponents,
        table.judge[first],
        table.left[first],
        table.right[first],
        length[first],
        np.bincount(group, weights=table.points, minlength=count).astype(np.float64),
        np.bincount(group, minlength=count).astype(np.float64),
        *drawn,
    )
