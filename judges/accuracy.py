"""Accuracy of ranked and of binary answers, by scikit-learn, which is imported at first use to keep start-up fast."""

from __future__ import annotations

from numpy.typing import ArrayLike


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve: from 0 to 1, chance 0.5. Both labels, 0 and 1, must occur."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the precision-recall curve: from 0 to 1; its chance level is the share of label 1."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(labels, scores))


def f1(labels: ArrayLike, answers: ArrayLike) -> float:
    """Return the F1 score of answer 1; 0 if it was never given."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, zero_division=0))
