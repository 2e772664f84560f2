"""Bradley-Terry strengths from comparisons, with an optional covariate such as length.

*Model.* The log-odds that ``left`` is preferred are ``strength[left] - strength[right] + effect * covariate``.
Strengths are in logits and sum to zero; a describer that is one logit stronger wins 73 % of the points. A tie is half a
win for each side, as in chat-model leaderboards (Bradley & Terry 1952).

*Estimator.* Penalised maximum likelihood: the log-likelihood less ``ridge / 2`` times the sum of the squared
parameters, which is logistic regression with ``C = 1 / ridge``. The penalty keeps strengths finite where one side wins
every comparison.

*Assumptions.* Each describer has one strength against all opponents (transitivity), and comparisons of a pair are
exchangeable given the covariate. Dependence within a neuron does not bias the strengths, but intervals must come from
resampled neurons.

*Degenerate cases.* Strengths of describers that no chain of comparisons connects cannot be compared (:func:`groups`).
If a group of describers never lost a point to the rest, its distance depends on the penalty (:func:`groups` with
``beaten=True``; Ford 1957). With one describer or without comparisons, all strengths are zero.
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
    """Groups of comparisons with the same pair and the same covariate.

    Attributes:
        describers: number of describers, K.
        left: index of the first describer of each group, (G,).
        right: index of the second describer, (G,).
        covariate: positive in favour of ``left``, (G,); None for no covariate.
    """

    describers: int
    left: Ints
    right: Ints
    covariate: Floats | None = None

    @cached_property
    def matrix(self) -> Floats:
        """Rows of the regression, G x K, or G x (K + 1) with the covariate last."""
        places = np.arange(len(self.left))
        matrix = np.zeros((len(self.left), self.describers + (self.covariate is not None)))
        matrix[places, self.left] += 1
        matrix[places, self.right] -= 1
        if self.covariate is not None:
            matrix[:, -1] = self.covariate
        return matrix


def fit(design: Design, points: Floats, counts: Floats, ridge: float) -> Floats:
    """Return the parameters: strengths in logits, (K,), and with a covariate its effect last, (K + 1,).

    Args:
        design: what was compared.
        points: points of ``left`` in each group, ties as half, (G,).
        counts: number of comparisons in each group, (G,).
        ridge: the penalty, positive.
    """
    from sklearn.linear_model import LogisticRegression  # imported here to keep start-up fast

    if not np.sum(counts):
        return np.zeros(design.matrix.shape[1])
    model = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-4, max_iter=10 * _STEPS)
    rows = np.concatenate([design.matrix, design.matrix])
    outcomes = np.repeat([1, 0], len(points))
    model.fit(rows, outcomes, sample_weight=np.concatenate([points, counts - points]))
    # Refine to the accuracy of the bootstrap fits, which stop by another rule.
    parameters: Floats = refit(design, points[None], counts[None], ridge, np.asarray(model.coef_[0]))[0]
    return parameters


def refit(design: Design, points: Floats, counts: Floats, ridge: float, start: Floats) -> Floats:
    """Return the parameters of many samples at once, draws x parameters: :func:`fit` for each row.

    Newton's method for all samples together. No step changes the log-odds of a group by more than one, so that every
    step is an improvement: the curvature of the logistic loss changes by at most a factor e within a step (Bach 2010,
    *Self-concordant analysis for logistic regression*).

    Args:
        design: what was compared.
        points: points of ``left``, draws x G.
        counts: number of comparisons, draws x G.
        ridge: the penalty, positive.
        start: initial parameters, such as those of the full data.
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
    """Return the groups of describers that comparisons connect, each sorted, including groups of one.

    Describers of a group are connected by a chain of comparisons. With ``beaten``, chains of won points must exist in
    both directions; without a penalty, strengths are finite if and only if there is one such group (Ford 1957).
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
    """Return the ranks within the last axis, 1 for the largest strength; equal strengths share the better rank."""
    places: Floats = 1.0 + (strengths[..., None, :] > strengths[..., :, None] + 1e-9).sum(axis=-1)
    return places
