"""Length control: win rates if all descriptions were equally long.

Judges tend to prefer the longer answer. As in length-controlled AlpacaEval (Dubois et al. 2024, section 3), the
log-odds of a preference get the term ``effect * tanh(length difference / scale)``, fitted together with the strengths
(:mod:`harness.stats.bradley_terry`). The adjusted win rate is the model's prediction without that term.

Differences from the source, because many describers meet in pairs instead of one baseline: length is counted in words
(:func:`harness.text.word_count`, which serves every script); the scale is the root mean square of the differences,
because the order of the two describers has no meaning; there is one effect for all describers, because few neurons
could not separate an effect per describer from its strength. The source's term for the difficulty of an instruction
cancels, because a neuron affects both sides equally.

*Assumptions.* Length does not make a description better, its effect is the same for all describers, and it does not
stand for something that does. A describer that writes more because it knows more is adjusted as well, so the raw win
rate is always shown next to the adjusted one.

*Degenerate cases.* There is no adjusted win rate if all lengths are equal, or if each describer has its own fixed
length, because then strengths and the effect of length cannot be separated.
"""

from __future__ import annotations

import numpy as np

from harness.stats.bootstrap import Floats, ratio
from harness.stats.bradley_terry import Design

LEVELS = 16
"""The covariate is rounded to multiples of 1 / LEVELS, so that there are few groups of comparisons."""

LEAST_OWN = 0.01
"""Smallest :func:`own_share` for which adjusted win rates are computed."""


def covariate(first_words: Floats, second_words: Floats) -> Floats:
    """Return tanh of the scaled difference in words, rounded; NaN for unknown lengths, zero if all are equal.

    Args:
        first_words: length of the first description of each comparison in words, (n,).
        second_words: length of the second description, (n,).
    """
    difference = first_words - second_words
    known = ~np.isnan(difference)
    scale = float(np.sqrt(np.mean(difference[known] ** 2))) if known.any() else 0.0
    return np.round(np.tanh(difference / scale if scale else 0.0 * difference) * LEVELS) / LEVELS


def own_share(design: Design, counts: Floats) -> float | None:
    """Return the share of the covariate's sum of squares that lies within pairs; None if all are zero.

    Only variation within a pair (across neurons) separates the effect of length from the strengths. Variation between
    pairs would separate them only through the shape of tanh, which is not evidence.

    Args:
        design: groups of comparisons, with the covariate.
        counts: number of comparisons in each group, (G,).
    """
    length = design.matrix[:, -1]
    whole = float(counts @ length**2)
    if not whole:
        return None
    _, pair = np.unique(design.left * design.describers + design.right, return_inverse=True)
    means = ratio(np.bincount(pair, counts * length), np.bincount(pair, counts))[pair]
    return float(counts @ np.where(counts > 0, (length - means) ** 2, 0.0)) / whole
