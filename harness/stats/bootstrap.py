"""Confidence intervals by a seeded percentile bootstrap that resamples whole clusters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.seeds import derive_rng

Interval = tuple[float, float]

_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB of bootstrap weights, however many clusters there are


def clustered_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable | None],
    *,
    seed: int,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Interval | None:
    """Return an interval for the mean of ``values``, whose clusters and not single values were sampled.

    Assumptions, estimator and degenerate cases are those of :func:`clustered_intervals`.

    Args:
        values: the observations, finite, in any unit; the interval has the same unit.
        clusters: the cluster of each observation, such as its neuron.
        seed: the run's seed.
        draws: number of bootstrap samples.
        confidence: nominal coverage, strictly between 0 and 1.

    Raises:
        ValueError: if a cluster id is missing (none), a value is not finite, or the lengths differ.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values but {len(clusters)} cluster ids")
    if any(cluster is None for cluster in clusters):
        raise ValueError("a cluster id is missing: every observation must say which cluster it belongs to")
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite: leave failures out and count them instead")
    # Numbered by first appearance: the ids need not be sortable. Sort the input for a result free of its order.
    numbers: dict[Hashable, int] = {}
    labels = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    totals = np.bincount(labels, weights=data, minlength=len(numbers))
    counts = np.bincount(labels, minlength=len(numbers))
    return clustered_intervals(totals[:, None], counts[:, None], seed=seed, draws=draws, confidence=confidence)[0]


def clustered_intervals(
    totals: ArrayLike, counts: ArrayLike, *, seed: int, draws: int = 2000, confidence: float = 0.95
) -> list[Interval | None]:
    """Return one interval for each column's mean, ``sum(totals) / sum(counts)``.

    *Method.* As many clusters as there are, drawn with replacement; the ratio of the two resampled sums is the mean
    of all observations in them, so clusters weigh by their size. The interval lies between the quantiles
    ``(1 - confidence) / 2`` and ``(1 + confidence) / 2`` of the draws (Efron's percentile interval).

    *Assumptions.* Clusters are independent and come from one population, to which the interval generalises;
    observations within a cluster may depend on each other in any way. What the clusters share, such as a judge, a
    prompt or the choice of layer, is taken as fixed: the interval says nothing about another judge. The percentile
    interval is a little too narrow with few clusters (at 20 a nominal 95 % covers about 93 %).

    *Degenerate cases.* Clusters without an observation in a column are left out of that column. Fewer than two
    clusters give none: one cluster shows no variation. If all clusters agree exactly (all ties, all wins) the interval
    has width zero, which says that no variation was seen, not that there is none.

    Args:
        totals: sum of the observations, clusters x columns.
        counts: number of the observations, clusters x columns.
        seed: the run's seed. The draws depend on it and on the number of clusters alone, so that columns observed in
            the same clusters share their draws and no interval depends on a name.
        draws: number of bootstrap samples.
        confidence: nominal coverage, strictly between 0 and 1.

    Raises:
        ValueError: if the shapes differ, or ``draws`` or ``confidence`` is out of range.
    """
    sums, sizes = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if sums.ndim != 2 or sums.shape != sizes.shape:
        raise ValueError(f"totals and counts must be two tables of one shape, not {sums.shape} and {sizes.shape}")
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"draws must be positive and confidence between 0 and 1, not {draws} and {confidence}")
    by_count: dict[int, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for column in range(sums.shape[1]):
        present = sizes[:, column] > 0
        by_count[int(present.sum())][present.tobytes()].append(column)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals: list[Interval | None] = [None] * sums.shape[1]
    for count, patterns in by_count.items():
        if count < 2:
            continue
        estimates = _draw(sums, sizes, list(patterns.values()), count, seed, draws)
        low, high = np.quantile(estimates, tails, axis=0)
        columns = [column for group in patterns.values() for column in group]
        for position, column in enumerate(columns):
            intervals[column] = float(low[position]), float(high[position])
    return intervals


def _draw(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    groups: list[list[int]],
    count: int,
    seed: int,
    draws: int,
) -> NDArray[np.float64]:
    """Return the resampled means, draws x columns; each group of columns is observed in the same ``count`` clusters."""
    observed = []
    for group in groups:
        present = sizes[:, group[0]] > 0
        observed.append((sums[present][:, group], sizes[present][:, group]))
    rng = derive_rng(seed, "bootstrap", count)
    at_once = max(1, _WEIGHTS_AT_ONCE // count)
    chunks: list[NDArray[np.float64]] = []
    for start in range(0, draws, at_once):
        shares = np.full(count, 1 / count)
        weights = rng.multinomial(count, shares, size=min(at_once, draws - start)).astype(np.float64)
        means = [(weights @ total) / (weights @ size) for total, size in observed]
        chunks.append(np.concatenate(means, axis=1))
    return np.concatenate(chunks)
