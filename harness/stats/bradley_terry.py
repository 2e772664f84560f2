"""Strengths from comparisons: the Bradley-Terry model on the whole graph, with a length effect if there is one.

*Model.* The log-odds that ``left`` is preferred are ``strength[left] - strength[right] + effect * covariate``.
Strengths are in logits and add up to zero: a describer that is one logit stronger wins 73 % of the points. A tie is
half a win for each (Bradley & Terry 1952; ties as Davidson's limit of equal halves, as chat-model leaderboards do).

*Estimator.* Penalised maximum likelihood: the log-likelihood less ``ridge / 2`` times the sum of the squared
parameters, which is logistic regression with ``C = 1 / ridge``. The penalty keeps strengths finite where one side won
everything.

*Assumptions.* One strength for each describer, whoever the opponent (transitivity: see
:mod:`harness.results.transitivity`), and comparisons that are exchangeable within a pair given the covariate. Their
dependence within a neuron does not bias the strengths; intervals must come from resampled neurons.

*Degenerate cases.* Strengths of describers that no chain of comparisons joins cannot be compared
(:func:`groups`); where a group of describers never lost a point to the rest, how far it lies above is the penalty's
choice (:func:`groups` with ``beaten=True``; Ford 1957). One describer, or no comparisons: all strengths are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_STEPS = 200
_CLOSE = 1e-9


@dataclass(frozen=True)
class Design:
    """Groups of comparisons that the model cannot tell apart: the same pair at the same covariate.

    Attributes:
        describers: how many describers there are, K.
        left: the first describer of each group, (G,).
        right: the second.
        covariate: what else sets the two apart, positive in favour of ``left``, (G,); none for no further effect.
    """

    describers: int
    left: Ints
    right: Ints
    covariate: Floats | None = None

    @cached_property
    def matrix(self) -> Floats:
        """The regression's rows, G x K, or G x (K + 1) with the covariate last."""
        places = np.arange(len(self.left))
        matrix = np.zeros((len(self.left), self.describers + (self.covariate is not None)))
        matrix[places, self.left] += 1
        matrix[places, self.right] -= 1
        if self.covariate is not None:
            matrix[:, -1] = self.covariate
        return matrix


def fit(design: Design, points: Floats, counts: Floats, ridge: float) -> Floats:
    """Return the parameters, (K,) or with a covariate (K + 1,): strengths in logits, and its effect.

    Args:
        design: what was compared.
        points: what ``left`` got in each group, ties as half, (G,).
        counts: number of comparisons in each group, (G,).
        ridge: the penalty, positive.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, and not all who read records need it

    if not np.sum(counts):
        return np.zeros(design.matrix.shape[1])
    model = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-4, max_iter=10 * _STEPS)
    rows = np.concatenate([design.matrix, design.matrix])
    outcomes = np.repeat([1, 0], len(points))
    model.fit(rows, outcomes, sample_weight=np.concatenate([points, counts - points]))
    # To the accuracy of the samples' fits, which stop by another rule.
    parameters: Floats = refit(design, points[None], counts[None], ridge, np.asarray(model.coef_[0]))[0]
    return parameters


def refit(design: Design, points: Floats, counts: Floats, ridge: float, start: Floats) -> Floats:
    """Return the parameters of many samples at once, draws x parameters: :func:`fit` for each row of the data.

    Newton's method for all samples together, from ``start``. No step changes a group's log-odds by more than one, which
    makes every step an improvement (the curvature of the logistic loss changes by at most a factor e on the way; Bach
    2010, *Self-concordant analysis for logistic regression*).

    Args:
        design: what was compared.
        points: what ``left`` got, draws x G.
        counts: number of comparisons, draws x G.
        ridge: the penalty, positive.
        start: parameters to begin with, such as those of the whole data.
    """
    matrix = design.matrix
    width = matrix.shape[1]
    products = (matrix[:, :, None] * matrix[:, None, :]).reshape(len(matrix), -1)
    found = np.tile(start, (len(points), 1))
    open_ = np.arange(len(points))
    for _ in range(_STEPS):
        if not len(open_):
            break
        now, size = found[open_], counts[open_]
        chance = expit(now @ matrix.T)
        slope = (points[open_] - size * chance) @ matrix - ridge * now
        curvature = (size * chance * (1 - chance)) @ products
        curvature = curvature.reshape(-1, width, width) + ridge * np.eye(width)
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        longest = np.abs(step @ matrix.T).max(axis=1, initial=0.0)
        found[open_] = now + step / np.maximum(longest, 1.0)[:, None]
        open_ = open_[np.abs(step).max(axis=1) > _CLOSE]
    return found


def groups(design: Design, points: Floats, counts: Floats, *, beaten: bool = False) -> list[list[int]]:
    """Return the groups of describers that comparisons join, each ordered, those of one describer included.

    Describers of one group are joined by a chain of comparisons. If ``beaten``, the chain must be one of points won in
    either direction: without a penalty the strengths have a finite estimate if and only if all are one such group (Ford
    1957).
    """
    won = [(design.left, design.right, counts), (design.right, design.left, counts)]
    if beaten:
        won = [(design.left, design.right, points), (design.right, design.left, counts - points)]
    winner, loser = (np.concatenate([part[place][part[2] > 0] for part in won]) for place in (0, 1))
    graph = sparse.csr_array((np.ones(len(winner)), (winner, loser)), shape=(design.describers, design.describers))
    _, labels = connected_components(graph, directed=True, connection="strong")
    members: dict[int, list[int]] = {}
    for describer, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(describer)
    return sorted(members.values())


def ranks(strengths: Floats) -> Floats:
    """Return the rank of each strength within the last axis, 1 for the greatest; equal ones share the better rank."""
    places: Floats = 1.0 + (strengths[..., None, :] > strengths[..., :, None] + 1e-9).sum(axis=-1)
    return places
