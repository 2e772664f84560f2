"""Whether two rankings agree: Kendall's tau, of many samples at once."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def kendall_tau(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return Kendall's tau-b of two sets of figures for the same items, along the last axis.

    1 if they order all pairs of items alike, -1 if all contrarily; a pair that one of the two ties counts for neither,
    and the scale is corrected for ties (Kendall 1945).

    *Assumptions.* None on the figures' units. Few items make tau coarse: of four items there are six pairs.

    *Degenerate cases.* Items without a figure (nan) in one of the two are left out. nan where fewer than two items
    remain, or one of the two ties them all.

    Args:
        first: figures, (..., items).
        second: figures of the same items, (..., items).
    """
    one, other = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    agreed, untied_one, untied_other = (np.zeros(one.shape[:-1]) for _ in range(3))
    for a, b in itertools.combinations(range(one.shape[-1]), 2):
        # Equal but for rounding is a tie.
        difference, its_twin = (np.round(x[..., a] - x[..., b], 9) for x in (one, other))
        known = ~(np.isnan(difference) | np.isnan(its_twin))
        up, down = (np.where(known, np.sign(x), 0.0) for x in (difference, its_twin))
        agreed += up * down
        untied_one += up != 0
        untied_other += down != 0
    scale = np.sqrt(untied_one * untied_other)
    tau: Floats = np.divide(agreed, scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return tau
