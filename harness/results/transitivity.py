"""Transitivity: how often A beats B, B beats C and C beats A on the same neuron.

One strength per describer (:mod:`harness.stats.bradley_terry`) describes preferences well only if cycles are rare. A
judge that guesses has a cycle in a quarter of the triads.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from harness.results.comparisons import ComparisonTable, Floats


def triads(table: ComparisonTable) -> Floats:
    """Count the triads without a failed or missing comparison, by neuron, (clusters, 3).

    A triad is three describers that one judge compared on one neuron. The columns are cyclic triads, triads without a
    tie (cyclic or not), and triads with a tie, which are not evidence on transitivity.
    """
    rows = table.where(table.decided)
    names = np.unique(np.concatenate([rows.left, rows.right]))
    items, item = np.unique(rows.neuron * len(rows.judges) + rows.judge, return_inverse=True)
    owner = np.zeros(len(items), dtype=np.int64)
    owner[item] = rows.cluster
    by_pair: dict[tuple[int, int], Floats] = {}
    for left, right in itertools.combinations(names.tolist(), 2):
        chosen = (rows.left == left) & (rows.right == right)
        points = np.full(len(items), np.nan)
        points[item[chosen]] = rows.points[chosen]
        by_pair[left, right] = points
    counts = np.zeros((3, table.clusters))
    for a, b, c in itertools.combinations(names.tolist(), 3):
        ab, bc, ac = by_pair[a, b], by_pair[b, c], by_pair[a, c]
        complete = ~(np.isnan(ab) | np.isnan(bc) | np.isnan(ac))
        decisive = complete & (ab != 0.5) & (bc != 0.5) & (ac != 0.5)
        cyclic = decisive & (ab == bc) & (ac != ab)
        for number, mask in enumerate((cyclic, decisive, complete & ~decisive)):
            counts[number] += np.bincount(owner[mask], minlength=table.clusters)
    return counts.T


def majority_cycles(rates: Sequence[Sequence[float]] | Floats) -> list[tuple[int, int, int]]:
    """Return triples of describers in which each beats the next over all neurons, starting at the lowest index.

    Args:
        rates: K x K, win rate of the row against the column; NaN where they were not compared.
    """
    beats = np.asarray(rates, dtype=np.float64) > 0.5
    found = []
    for a, b, c in itertools.combinations(range(len(beats)), 3):
        if beats[a, b] and beats[b, c] and beats[c, a]:
            found.append((a, b, c))
        elif beats[a, c] and beats[c, b] and beats[b, a]:
            found.append((a, c, b))
    return found
