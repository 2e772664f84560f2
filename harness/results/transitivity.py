"""Does a judge's preference hang together: how often A beats B, B beats C, and C beats A on the same neuron.

A single strength for each describer (:mod:`harness.stats.bradley_terry`) can stand for preferences only where cycles
are rare. Three independent coin tosses are a cycle in a quarter of the cases, which is what a judge reaches that
guesses.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.results.comparisons import ComparisonTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Triads:
    """Three describers compared with each other by one judge on one neuron, counted by neuron.

    Attributes:
        cyclic: how many preferences went round in a circle, (neurons,).
        decisive: how many were without a tie, cyclic or not, (neurons,).
        tied: how many were complete but held a tie, which says nothing of transitivity, (neurons,).
    """

    cyclic: Floats
    decisive: Floats
    tied: Floats


def triads(table: ComparisonTable, neurons: Ints, count: int) -> Triads:
    """Count the triads; those with a failed or missing comparison are not among them.

    Fewer than three describers have none.

    Args:
        table: comparisons of one judge or several.
        neurons: number of the whole neuron of each comparison, from 0.
        count: how many whole neurons there are.
    """
    rows, whole = table.where(table.decided), neurons[table.decided]
    names = np.unique(np.concatenate([rows.left, rows.right]))
    asked, place = np.unique(rows.neuron * len(rows.judges) + rows.judge, return_inverse=True)
    owner = np.zeros(len(asked), dtype=np.int64)
    owner[place] = whole
    by_pair: dict[tuple[int, int], Floats] = {}
    for left, right in itertools.combinations(names.tolist(), 2):
        chosen = (rows.left == left) & (rows.right == right)
        points = np.full(len(asked), np.nan)
        points[place[chosen]] = rows.points[chosen]
        by_pair[left, right] = points
    counts = np.zeros((3, count))
    for a, b, c in itertools.combinations(names.tolist(), 3):
        ab, bc, ac = by_pair[a, b], by_pair[b, c], by_pair[a, c]
        complete = ~(np.isnan(ab) | np.isnan(bc) | np.isnan(ac))
        decisive = complete & (ab != 0.5) & (bc != 0.5) & (ac != 0.5)
        cyclic = decisive & (ab == bc) & (ac != ab)
        for number, mask in enumerate((cyclic, decisive, complete & ~decisive)):
            counts[number] += np.bincount(owner[mask], minlength=count)
    return Triads(*counts)


def majority_cycles(rates: Sequence[Sequence[float]] | Floats) -> list[tuple[int, int, int]]:
    """Return the triples of describers that beat each other in a circle over all neurons, each from its lowest number.

    Args:
        rates: K x K, how often the row beat the column, ties as half; nan where they were not compared.
    """
    beats = np.asarray(rates, dtype=np.float64) > 0.5
    found = []
    for a, b, c in itertools.combinations(range(len(beats)), 3):
        if beats[a, b] and beats[b, c] and beats[c, a]:
            found.append((a, b, c))
        elif beats[a, c] and beats[c, b] and beats[b, a]:
            found.append((a, c, b))
    return found
