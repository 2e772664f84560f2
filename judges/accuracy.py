"""Accuracy of ranked and of binary answers.

Weights are the numbers of windows that each one shown represents, so that a metric estimates its value on all text.
Scikit-learn is imported at first use to keep start-up fast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.records import Winner

Floats = NDArray[np.floating[Any]]


def auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: from 0 to 1, chance 0.5. Both labels, 0 and 1, must occur."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores, sample_weight=weights))


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the precision-recall curve: from 0 to 1; its chance level is the share of label 1."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores, sample_weight=weights))


def f1(labels: ArrayLike, answers: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the F1 score of answer 1; 0 if it was never given."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, zero_division=0, sample_weight=weights))


def f1_at_base_rate(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> float:
    """Return the F1 score if as many items are called positive as there are positive ones: those of highest score.

    Precision, recall and F1 are then equal. If equal scores exceed that number, all of them count in part.
    """
    return precision_at(labels, scores, weights, float(np.asarray(weights, float)[np.asarray(labels, bool)].sum()))


def precision_at(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike, total: float) -> float:
    """Return the share of positive items among those of highest score with a weight of ``total`` together.

    If equal scores exceed that weight, all of them count in part.
    """
    positive, ranked, sizes = np.asarray(labels, bool), np.asarray(scores, float), np.asarray(weights, float)
    levels, groups = np.unique(-ranked, return_inverse=True)
    size = np.bincount(groups, sizes, len(levels))
    right = np.bincount(groups, sizes * positive, len(levels))
    taken = np.clip((total - (np.cumsum(size) - size)) / size, 0.0, 1.0)
    return float((taken * right).sum() / total)


def pearson(predicted: Floats, true: Floats, weights: Floats | None = None) -> float | None:
    """Return Pearson's correlation: 0 if the prediction does not vary, None if the truth does not.

    A constant prediction carries no information, so it scores 0. Without a score, the descriptions that cause it would
    drop out of the means, and these are bad ones. A constant truth affects every description alike.
    """
    if not varies(true):
        return None
    if not varies(predicted):
        return 0.0
    share = np.full(len(true), 1 / len(true)) if weights is None else weights / weights.sum()
    one, two = (values - (share * values).sum() for values in (np.asarray(predicted, float), np.asarray(true, float)))
    return float((share * one * two).sum() / np.sqrt((share * one**2).sum() * (share * two**2).sum()))


def varies(values: Floats) -> bool:
    """Return whether the values vary."""
    return bool(len(values) and np.ptp(values) >= 1e-9)


def preferred(one: float, two: float, margin: float) -> Winner:
    """Return which of two metrics is higher; a difference below the margin is a tie."""
    return Winner.TIE if abs(one - two) < margin else Winner.FIRST if one > two else Winner.SECOND
