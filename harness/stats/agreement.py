"""Agreement between raters on labels: judges, or a judge that was asked twice.

Labels are an integer matrix of items x raters, with :data:`NO_LABEL` where a rater gave none. Kappa is the agreement
beyond chance: 1 for perfect agreement, 0 for chance agreement of raters with the same label frequencies, negative below
chance. Missing labels are left out; they are never a label of their own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.bootstrap import Floats, Interval, Ints, Resamples, percentiles, ratio

NO_LABEL = -1
"""Label of an item that a rater did not label."""


def kappa_interval(
    labels: ArrayLike, clusters: ArrayLike, *, seed: int, draws: int = 2000, confidence: float = 0.95
) -> tuple[float | None, Interval | None]:
    """Return kappa and its clustered bootstrap interval: Cohen's kappa (1960) for two raters, Fleiss' (1971) for more.

    For Fleiss' kappa, an item's agreement is the share of its pairs of labels that are equal, and chance agreement is
    the sum of the squared mean shares of the labels. Items with fewer than two labels are left out (Gwet 2014,
    *Handbook of inter-rater reliability*, chapter 2).

    *Assumptions.* Clusters are independent, and labels are missing at random. All disagreements count the same (labels
    are not ordered). Fleiss' raters are interchangeable.

    *Degenerate cases.* None if no item has two labels, or all labels are the same.

    Args:
        labels: items x raters, labels from 0, or :data:`NO_LABEL`.
        clusters: index of the cluster of each item, such as its neuron, (items,).
        seed: the run's seed.
        draws: number of bootstrap samples.
        confidence: nominal coverage.
    """
    table, of = _labels(labels), np.asarray(clusters, dtype=np.int64)
    used = (table != NO_LABEL).sum(axis=1) >= 2
    table = table[used]
    names, of = np.unique(of[used], return_inverse=True)
    if not len(names):
        return None, None
    resamples = Resamples(len(names), seed, draws)
    if table.shape[1] == 2:
        counts = confusion(table[:, 0], table[:, 1])
        width = counts.shape[1]
        [drawn] = resamples.sums(_by_cluster(counts.reshape(len(counts), -1), of, len(names)))
        value = kappa_of_confusion(counts.sum(axis=0))
        estimates = kappa_of_confusion(drawn.reshape(draws, width, width))
    else:
        shares, agreed = item_shares(table)
        drawn, equal = resamples.sums(_by_cluster(shares, of, len(names)), _by_cluster(agreed[:, None], of, len(names)))
        value = kappa_of_shares(shares.sum(axis=0), agreed.sum(axis=0))
        estimates = kappa_of_shares(drawn, equal[:, 0])
    if _finite(value) is None:
        return None, None
    return _finite(value), percentiles(estimates[:, None], [len(names)], confidence)[0]


def confusion(first: Ints, second: Ints) -> Floats:
    """Return the one-hot pair of labels of each item, items x labels x labels; zeros where one is missing."""
    count = 1 + max(int(np.max(first, initial=0)), int(np.max(second, initial=0)))
    table = np.zeros((len(first), count, count))
    both = np.flatnonzero((first != NO_LABEL) & (second != NO_LABEL))
    table[both, first[both], second[both]] = 1
    return table


def kappa_of_confusion(counts: Floats) -> Floats:
    """Return Cohen's kappa of tables of counts, (..., labels, labels); NaN where it is undefined."""
    total = counts.sum(axis=(-2, -1))
    equal = ratio(np.trace(counts, axis1=-2, axis2=-1), total)
    chance = ratio((counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1), total**2)
    return ratio(equal - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0.0))


def item_shares(labels: Ints) -> tuple[Floats, Floats]:
    """Return the share of each label, items x labels, and the share of equal pairs of labels, (items,).

    Items with fewer than two labels have zeros.
    """
    count = 1 + int(np.max(labels, initial=0))
    given = np.stack([(labels == label).sum(axis=1) for label in range(count)], axis=1).astype(np.float64)
    size = given.sum(axis=1)
    enough = size >= 2
    shares = np.where(enough[:, None], given / np.maximum(size, 1)[:, None], 0.0)
    agreed = np.where(enough, (given * (given - 1)).sum(axis=1) / np.maximum(size * (size - 1), 1), 0.0)
    return shares, agreed


def kappa_of_shares(shares: Floats, agreed: Floats) -> Floats:
    """Return Fleiss' kappa from the sums over items of shares, (..., labels), and of agreement, (...)."""
    items = shares.sum(axis=-1)
    equal, chance = ratio(agreed, items), ratio((shares**2).sum(axis=-1), items**2)
    return ratio(equal - chance, np.where(chance < 1 - 1e-12, 1 - chance, 0.0))


def _by_cluster(rows: Floats, clusters: Ints, count: int) -> Floats:
    columns = [np.bincount(clusters, weights=column, minlength=count) for column in rows.T]
    return np.stack(columns, axis=1)


def _labels(labels: ArrayLike) -> Ints:
    table = np.asarray(labels)
    if not np.issubdtype(table.dtype, np.integer) or (table < NO_LABEL).any():
        raise ValueError(f"labels must be integers from 0, or {NO_LABEL} for a missing label")
    return table.astype(np.int64)


def _finite(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)
