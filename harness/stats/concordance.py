"""Agreement of two rankings: Kendall's tau for many samples at once."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def kendall_tau(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return Kendall's tau-b (Kendall 1945) of two sets of values for the same items, along the last axis.

    1 if both order all pairs of items the same way, -1 if the opposite way. A pair tied in either set counts for
    neither, and the scale is corrected for ties. With few items tau is coarse: four items have six pairs.

    *Degenerate cases.* Items with NaN in either set are left out. NaN if fewer than two items remain, or one of the
    sets ties them all.

    Args:
        first: values, (..., items).
        second: values of the same items, (..., items).
    """
    one, other = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    agreed, untied_one, untied_other = (np.zeros(one.shape[:-1]) for _ in range(3))
    for a, b in itertools.combinations(range(one.shape[-1]), 2):
        # Equal up to rounding is a tie.
        one_apart, other_apart = (np.round(x[..., a] - x[..., b], 9) for x in (one, other))
        known = ~(np.isnan(one_apart) | np.isnan(other_apart))
        up, down = (np.where(known, np.sign(x), 0.0) for x in (one_apart, other_apart))
        agreed += up * down
        untied_one += up != 0
        untied_other += down != 0
    scale = np.sqrt(untied_one * untied_other)
    tau: Floats = np.divide(agreed, scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return tau
