"""Length control: what the win rates would be if all descriptions were equally long.

Judges tend to prefer the longer answer. After length-controlled AlpacaEval (Dubois et al. 2024, section 3) the log-odds
of a preference get one more term, ``effect * tanh(difference in length / scale)``, fitted together with the strengths
(:mod:`harness.stats.bradley_terry`); the adjusted win rate is what the model says without that term.

Three things differ from the source, because here many describers meet in pairs and not all a baseline. Length is
counted in words. The scale is the root mean square of the differences, not their standard deviation, for which
describer comes first has no meaning. There is one effect for all describers: a taste for length belongs to the judge,
and an effect of its own for each describer would be told from its strength by few neurons. The source's term for how
hard an instruction is does not arise: a neuron adds to both sides alike.

*Assumptions.* Length does not make a description better; what it does to the preference is the same for all; and it is
not the mark of something else that does. A describer that says more because it knows more is adjusted for that too,
which is why raw and adjusted figures stand side by side.

*Degenerate cases.* No differences in length: nothing to adjust. Length that follows from the describers alone (each has
its own fixed length): their strengths and the effect of length cannot be told apart, and there is no adjusted figure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.stats.bootstrap import ratio
from harness.stats.bradley_terry import Design

Floats = NDArray[np.float64]

LEVELS = 16
"""The covariate, between -1 and 1, is rounded to multiples of 1 / 16, so that comparisons fall into few groups."""

LEAST_OWN = 0.01
"""Least share of the covariate's squares that lies within pairs; below, there is no adjusted figure."""


def covariate(first_words: Floats, second_words: Floats) -> Floats:
    """Return tanh of the scaled difference in words, rounded; nan where a length is not known, zero if all are equal.

    Args:
        first_words: length of the one description of each comparison, (n,).
        second_words: of the other.
    """
    difference = first_words - second_words
    known = ~np.isnan(difference)
    scale = float(np.sqrt(np.mean(difference[known] ** 2))) if known.any() else 0.0
    return np.round(np.tanh(difference / scale if scale else 0.0 * difference) * LEVELS) / LEVELS


def own_share(design: Design, counts: Floats) -> float | None:
    """Return which share of the covariate's squares lies within pairs, around each pair's mean; none if all are zero.

    Only from neuron to neuron does length vary while the describers stay the same. What lies between pairs tells the
    effect of length from strengths by the shape of tanh alone, which is no evidence.

    Args:
        design: the groups of comparisons, with the covariate.
        counts: number of comparisons in each group, (G,).
    """
    length = design.matrix[:, -1]
    whole = float(counts @ length**2)
    if not whole:
        return None
    _, pair = np.unique(design.left * design.describers + design.right, return_inverse=True)
    means = ratio(np.bincount(pair, counts * length), np.bincount(pair, counts))[pair]
    return float(counts @ np.where(counts > 0, (length - means) ** 2, 0.0)) / whole
