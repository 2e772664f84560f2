"""Variance components of values that depend on neuron, draw, judge and prompt, by the method of moments.

*Model.* value = mean + neuron + draw + judge + prompt + neuron by judge + residual. Draws belong to a neuron and
prompts to a judge; neurons and their draws are crossed with judges and their prompts. *Neuron by judge* is one effect
for each neuron and judge with its prompt. The effects are independent and have mean zero.

*Method.* Half the squared difference of two values is expected to be the sum of the components in which the two differ.
Pairs of values are grouped by what differs: nothing, the draw or the neuron; nothing, the prompt or the judge. The mean
of each group is one linear equation, and least squares solves them (Koch 1968, *Some further remarks concerning "A
general approach to the estimation of variance components"*, Technometrics 10, 551-558). The estimates are unbiased also
if values are missing, and may be negative. With complete data and one prompt for each judge they are those of the
analysis of variance (Searle, Casella and McCulloch 1992, *Variance Components*, chapter 4).

*Degenerate cases.* Components that occur in the same equations only cannot be separated: the first of them gets their
sum. A component in which no two values differ cannot be estimated. Intervals resample neurons only, so those of judge
and prompt do not say how the components would vary with other judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.stats.bootstrap import Resamples, ratio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: The components, in the order in which one of them gets the sum of those that cannot be separated.
COMPONENTS = ("neuron", "draw", "judge", "prompt", "neuron_by_judge", "residual")
# What two values differ in, for each group of pairs: rows 0 the same draw, 1 another draw of the neuron, 2 another
# neuron; columns 0 the same judge and prompt, 1 another prompt of the judge, 2 another judge.
_ROWS, _COLUMNS = np.divmod(np.arange(9), 3)
_DIFFERS = np.stack(
    [_ROWS == 2, _ROWS >= 1, _COLUMNS == 2, _COLUMNS >= 1, (_ROWS == 2) | (_COLUMNS >= 1), np.ones(9, dtype=np.bool_)],
    axis=1,
).astype(np.float64)


@dataclass(frozen=True)
class Component:
    """An estimated component.

    Attributes:
        name: one of :data:`COMPONENTS`.
        includes: other components that it could not be separated from, and whose variance it includes.
        variance: the estimate, in squared units of the values.
        drawn: the estimate in each bootstrap sample, (draws,); NaN where a sample lacks a group of pairs.
    """

    name: str
    includes: tuple[str, ...]
    variance: float
    drawn: Floats


def variance_components(values: Floats, judges: Sequence[int], clusters: Ints, resamples: Resamples) -> list[Component]:
    """Return the components that can be estimated, in the order of :data:`COMPONENTS`.

    Args:
        values: neurons x draws x raters, where a rater is a judge with one prompt; NaN where a value is missing.
        judges: number of the judge of each rater.
        clusters: number of the cluster of each neuron, from 0; both signs of a neuron are one cluster.
        resamples: bootstrap samples of the clusters.
    """
    sums, counts, drawn_sums, drawn_counts = _pairs(values, np.asarray(judges), clusters, resamples)
    used = np.flatnonzero(counts > 0)
    design = _DIFFERS[used]
    groups: dict[bytes, list[int]] = {}
    for place in range(len(COMPONENTS)):
        if design[:, place].any():
            groups.setdefault(design[:, place].tobytes(), []).append(place)
    first = [members[0] for members in groups.values()]
    inverse = np.linalg.pinv(design[:, first])
    estimates = inverse @ (ratio(sums, counts)[used] / 2)
    drawn = ratio(drawn_sums, drawn_counts)[:, used] / 2 @ inverse.T
    unique = np.isclose(np.diag(inverse @ design[:, first]), 1)
    return [
        Component(COMPONENTS[members[0]], tuple(COMPONENTS[one] for one in members[1:]), float(value), samples)
        for members, value, samples, known in zip(groups.values(), estimates, drawn.T, unique, strict=True)
        if known
    ]


def _pairs(values: Floats, judges: Ints, clusters: Ints, resamples: Resamples) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the sum of squared differences and the number of pairs of each group, (9,), and in each sample, draws x 9.

    The pairs among some values number m (m - 1) / 2, and their squared differences add up to m * sum(y²) - sum(y)². A
    neuron that a sample holds several times forms no pairs with itself.
    """
    known = ~np.isnan(values)
    centred = np.where(known, values - (values[known].mean() if known.any() else 0.0), 0.0)
    moments = np.stack([known.astype(np.float64), centred, centred**2])  # 3 x neurons x draws x raters
    of_judge = (judges[:, None] == np.unique(judges)).astype(np.float64)
    by_column = [moments, moments @ of_judge, moments.sum(axis=-1, keepdims=True)]
    within = [[_squares(one) for one in by_column]]  # pairs of one draw, then of one neuron
    by_neuron = [one.sum(axis=2) for one in by_column]
    within.append([_squares(one) for one in by_neuron])
    size = np.bincount(clusters, minlength=resamples.clusters)

    def add_up(weights: Floats) -> Floats:
        """Return the sums and numbers of pairs for weights of the clusters, samples x 2 x 9."""
        weight = weights[:, clusters]
        rows = [[np.einsum("sn,nk->sk", weight, one) for one in row] for row in within]
        across = []
        for one in by_neuron:
            total = np.einsum("sn,inc->isc", weight, one)
            # Less the pairs within each neuron and, for the counts, each value with itself.
            own = np.einsum("sn,nk->sk", weight**2, _squares(one, itself=True))
            across.append(_squares(total, itself=True) - own)
        cumulated = np.stack([*(np.stack(row, axis=1) for row in rows), np.stack(across, axis=1)], axis=1)
        cumulated[:, 1] -= cumulated[:, 0]
        groups = np.diff(cumulated, axis=2, prepend=0)  # samples x rows x columns x 2
        return np.moveaxis(groups.reshape(len(weights), 9, 2), 2, 1)

    whole = add_up(np.ones((1, len(size))))[0]
    drawn = np.concatenate([np.zeros((0, 2, 9)), *map(add_up, resamples.weights())])
    return whole[0], whole[1], drawn[:, 0], drawn[:, 1]


def _squares(moments: Floats, *, itself: bool = False) -> Floats:
    """Return the sum of squared differences and the number of pairs, (..., 2), over all axes after the first two.

    Args:
        moments: number, sum and sum of squares of the values in each cell, 3 x n x ...
        itself: whether a cell's number of values is squared, for sums over cells with weights.
    """
    count, total, squares = moments
    pairs = count**2 / 2 if itself else count * (count - 1) / 2
    found = np.stack([count * squares - total**2, pairs], axis=-1)
    added: Floats = found.sum(axis=tuple(range(1, found.ndim - 1)))
    return added
