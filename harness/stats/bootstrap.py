"""Confidence intervals by a seeded percentile bootstrap that resamples whole clusters.

*Method.* Each bootstrap sample draws n of the n clusters with replacement. The statistic is computed in each sample,
and the interval is bounded by two quantiles of these estimates. The plain percentile interval is too narrow with few
clusters, so the quantiles are those of the expanded percentile interval (Hesterberg 2015, *What teachers should know
about the bootstrap*, section 4.3): wider by the ratio of Student's t with n - 1 degrees of freedom to the normal
distribution, and by sqrt(n / (n - 1)).

*Assumptions.* Clusters are independent and come from one population, to which the interval generalises. Observations
within a cluster may depend on each other. What all clusters share, such as the judge, the prompt or the choice of
layers, is fixed: the interval does not generalise to other judges.

*Degenerate cases.* None with fewer than two clusters. If all clusters agree exactly (all ties, all wins), the interval
has width zero: no variation was observed. A sample without observations of a statistic is ignored for that statistic.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import ndtr, stdtrit

from harness.seeds import derive_rng

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MOST_FOR_MEDIAN = 20_000
_WEIGHTS_AT_ONCE = 500_000  # 4 MB of bootstrap weights, so that they stay in the CPU cache


@dataclass(frozen=True)
class Resamples:
    """Bootstrap samples of clusters; equal objects always draw the same samples.

    All statistics computed from one object share its samples, so differences between them can be resampled too.

    Attributes:
        clusters: number of clusters, in a fixed order.
        seed: seed of the run. The samples depend only on it and on the number of clusters.
        draws: number of samples.

    Raises:
        ValueError: if ``draws`` is not positive.
    """

    clusters: int
    seed: int
    draws: int

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError(f"draws must be positive, not {self.draws}")

    def sums(self, *blocks: Floats | sparse.csr_array) -> list[Floats]:
        """Return the column sums of each sample, draws x columns, for tables of clusters x columns, dense or sparse.

        Raises:
            ValueError: if a table has a different number of rows than there are clusters.
        """
        for block in blocks:
            if block.ndim != 2 or block.shape[0] != self.clusters:
                raise ValueError(f"a table must have {self.clusters} rows, one for each cluster, not {block.shape}")
        transposed: list[Any] = [
            sparse.csr_array(b.T) if sparse.issparse(b) else np.ascontiguousarray(b.T) for b in blocks
        ]
        found = [np.zeros((self.draws, block.shape[1])) for block in blocks]
        start = 0
        for rows in self.weights():
            weights = np.ascontiguousarray(rows.T)
            for block, result in zip(transposed, found, strict=True):
                result[start : start + len(rows)] = (block @ weights).T
            start += len(rows)
        return found

    def weights(self) -> Iterator[Floats]:
        """Yield how often each sample holds each cluster, samples x clusters, some samples at a time."""
        if not self.clusters:
            return
        rng = derive_rng(self.seed, "bootstrap", self.clusters)
        at_once = max(1, _WEIGHTS_AT_ONCE // self.clusters)
        for start in range(0, self.draws, at_once):
            rows = np.empty((min(at_once, self.draws - start), self.clusters))
            for row in rows:
                row[:] = np.bincount(rng.integers(0, self.clusters, self.clusters), minlength=self.clusters)
            yield rows


def percentiles(
    estimates: ArrayLike, clusters: ArrayLike, confidence: float, *, whole: bool = False
) -> list[Interval | None]:
    """Return the interval of each statistic from its bootstrap estimates, by the method of this module.

    Args:
        estimates: draws x statistics; NaN where a sample has no estimate.
        clusters: number of clusters with observations of each statistic, (statistics,).
        confidence: nominal coverage, strictly between 0 and 1.
        whole: whether bounds must be values that occur, as for ranks.

    Raises:
        ValueError: if ``confidence`` is out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    data = np.asarray(estimates, dtype=np.float64)
    counts = np.broadcast_to(np.asarray(clusters, dtype=np.int64), data.shape[1:])
    found: list[Interval | None] = []
    for column, count in enumerate(counts.tolist()):
        values = data[:, column]
        values = values[~np.isnan(values)]
        if count < 2 or not len(values):
            found.append(None)
            continue
        reach = stdtrit(count - 1, (1 - confidence) / 2) * np.sqrt(count / (count - 1))
        tail = float(ndtr(reach))
        low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf" if whole else "linear")
        found.append((float(low), float(high)))
    return found


def clustered_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable | None],
    *,
    seed: int,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Interval | None:
    """Return the interval of the mean of ``values``, resampling clusters instead of single values.

    The mean is over all observations, so large clusters weigh more. The method is that of this module.

    Args:
        values: the observations, finite, in any unit.
        clusters: the cluster of each observation, such as its neuron.
        seed: the run's seed.
        draws: number of bootstrap samples.
        confidence: nominal coverage, strictly between 0 and 1.

    Raises:
        ValueError: if a cluster id is None, a value is not finite, or the lengths differ.
    """
    if len(values) != len(clusters):
        raise ValueError(f"{len(values)} values but {len(clusters)} cluster ids")
    if any(cluster is None for cluster in clusters):
        raise ValueError("a cluster id is None: every observation needs a cluster")
    data = np.asarray(values, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite: exclude failures and count them instead")
    # Numbered by first appearance, because ids need not be sortable. The result depends on the order of the input.
    numbers: dict[Hashable, int] = {}
    labels = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    totals = np.bincount(labels, weights=data, minlength=len(numbers))
    counts = np.bincount(labels, minlength=len(numbers)).astype(np.float64)
    return clustered_intervals(totals[:, None], counts[:, None], seed=seed, draws=draws, confidence=confidence)[0]


def clustered_median_interval(
    values: ArrayLike, clusters: ArrayLike, *, seed: int, draws: int = 2000, confidence: float = 0.95
) -> Interval | None:
    """Return the interval of the median of ``values``, resampling clusters instead of single values.

    The median of a sample is its lower one. The method is that of this module.

    Args:
        values: the observations, finite, in any unit.
        clusters: the number of the cluster of each observation.
        seed: the run's seed.
        draws: number of bootstrap samples.
        confidence: nominal coverage, strictly between 0 and 1.

    Returns:
        The interval; None with fewer than two clusters, or with more than 20,000 values, whose median is nearly certain
        and takes long to resample.
    """
    data, (names, labels) = np.asarray(values, dtype=np.float64), np.unique(clusters, return_inverse=True)
    if len(data) > _MOST_FOR_MEDIAN:
        return None
    order = np.argsort(data, kind="stable")
    ordered, owner = data[order], labels[order]
    medians = []
    for weights in Resamples(len(names), seed, draws).weights():
        below = weights[:, owner].cumsum(axis=1)
        medians.append(ordered[(below >= below[:, -1:] / 2).argmax(axis=1)])
    return percentiles(np.concatenate(medians)[:, None], len(names), confidence)[0] if medians else None


def clustered_intervals(
    totals: ArrayLike, counts: ArrayLike, *, seed: int, draws: int = 2000, confidence: float = 0.95
) -> list[Interval | None]:
    """Return the interval of each column's mean, ``sum(totals) / sum(counts)``, all from the same samples.

    Args:
        totals: sum of the observations, clusters x columns.
        counts: number of the observations, clusters x columns.
        seed: the run's seed.
        draws: number of bootstrap samples.
        confidence: nominal coverage, strictly between 0 and 1.

    Raises:
        ValueError: if the shapes differ, or ``draws`` or ``confidence`` is out of range.
    """
    sums, sizes = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if sums.ndim != 2 or sums.shape != sizes.shape:
        raise ValueError(f"totals and counts must be two tables of one shape, not {sums.shape} and {sizes.shape}")
    drawn, size = Resamples(len(sums), seed, draws).sums(sums, sizes)
    return percentiles(ratio(drawn, size), (sizes > 0).sum(axis=0), confidence)


def ratio(totals: ArrayLike, counts: ArrayLike) -> Floats:
    """Return totals divided by counts; NaN where the count is zero."""
    sums, sizes = np.asarray(totals, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    shares: Floats = np.full(np.broadcast_shapes(sums.shape, sizes.shape), np.nan)
    return np.divide(sums, sizes, out=shares, where=sizes > 0)
