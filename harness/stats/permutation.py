"""Paired permutation tests of two methods by sign flips of neurons, and Holm's correction.

*Null hypothesis.* The two methods are exchangeable on every neuron: swapping their names only changes the sign of the
neuron's total. Then all combinations of signs are equally probable, however observations within a neuron depend on each
other (Fisher 1935; Good 2005, *Permutation, parametric and bootstrap tests*). Neurons must be independent. The
statistic is the sum over neurons; the test is two-sided.

*Degenerate cases.* Neurons with a total of zero do not matter. Without other neurons, p is 1. With n neurons, p is at
least ``2 ** (1 - n)``, so 0.05 needs six neurons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import fftconvolve
from scipy.special import gammaln

from harness.seeds import derive_rng

Floats = NDArray[np.float64]

_LATTICE = 4_000_000
_SIGNS_AT_ONCE = 4_000_000
_ENUMERATED = 12


def sign_flip_p_value(totals: ArrayLike, *, seed: int, flips: int = 9999) -> float:
    """Return the two-sided p-value of the sum of ``totals`` under random signs.

    Exact for integers (the distribution is a convolution of binomials) and for at most twelve totals. Otherwise
    estimated from random flips; the observed signs count as one of them, so that p is never zero and the test keeps its
    level (Phipson & Smyth 2010).

    Args:
        totals: advantage of the first method on each neuron, in any unit, (neurons,).
        seed: the run's seed.
        flips: number of random flips.

    Raises:
        ValueError: if a total is not finite.
    """
    data = np.asarray(totals, dtype=np.float64)
    if not np.isfinite(data).all():
        raise ValueError("a total is not finite: exclude failures and count them instead")
    sizes = np.sort(np.abs(data[data != 0]))  # sorted, so that the order of neurons does not matter
    if not len(sizes):
        return 1.0
    seen = abs(data.sum())
    if np.array_equal(sizes, np.round(sizes)) and sizes.sum() < _LATTICE:
        return _exact(sizes.astype(np.int64), round(seen))
    least = seen - 1e-9 * sizes.sum()  # tolerance for rounding
    if len(sizes) <= _ENUMERATED:
        patterns = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ sizes) >= least))
    rng = derive_rng(seed, "sign flips", len(sizes))
    extreme, left, at_once = 0, flips, max(1, _SIGNS_AT_ONCE // len(sizes))
    while left:
        bits = rng.integers(0, 2, size=(min(left, at_once), len(sizes)), dtype=np.int8)
        extreme += int(np.sum(np.abs(2 * (bits @ sizes) - sizes.sum()) >= least))
        left -= len(bits)
    return (1 + extreme) / (1 + flips)


def neurons_to_reject(level: float) -> int:
    """Return the smallest number of neurons with which the test can reject: the least n with 2^(1-n) <= level."""
    return math.ceil(1 - math.log2(level) - 1e-9)


def _exact(sizes: NDArray[np.int64], seen: int) -> float:
    """Return the probability that the sum of randomly signed integers is at least as far from zero as ``seen``."""
    chances = np.ones(1)
    for size, count in zip(*np.unique(sizes, return_counts=True), strict=True):
        # The number of positive signs among equal sizes is binomial; each changes the sum by two sizes.
        spread = np.zeros(2 * size * count + 1)
        spread[:: 2 * size] = _binomial(int(count))
        chances = fftconvolve(chances, spread)
    sums = np.arange(len(chances)) - sizes.sum()
    return float(min(1.0, max(np.sum(chances[np.abs(sums) >= seen]), 2.0 ** (1 - len(sizes)))))


def _binomial(count: int) -> Floats:
    """Return the probability of each number of heads among ``count`` fair coins."""
    heads = np.arange(count + 1)
    logs = gammaln(count + 1) - gammaln(heads + 1) - gammaln(count - heads + 1) - count * np.log(2)
    chances: Floats = np.exp(logs)
    return chances


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple testing (Holm 1979), which controls the family-wise error rate.

    The tests may depend on each other in any way.

    Raises:
        ValueError: if a p-value is NaN or outside 0 to 1.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("a p-value is not between 0 and 1")
    order = np.argsort(values, kind="stable")
    corrected = np.empty(len(values))
    steps = values[order] * np.arange(len(values), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(values) else steps
    return [float(value) for value in corrected]


def standardised_effect(totals: ArrayLike) -> float | None:
    """Return mean / standard deviation (n - 1) of the neurons' values: Cohen's d of a paired design (d_z).

    None with fewer than two neurons, or if all values are equal.
    """
    data = np.asarray(totals, dtype=np.float64)
    spread = np.std(data, ddof=1) if len(data) > 1 else 0.0
    return float(np.mean(data) / spread) if spread > 0 else None
