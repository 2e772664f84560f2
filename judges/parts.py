"""What a judge predicts from a description that is a set: the best match of its parts.

A judge reads each part as a description of its own. At each item (a window, a token), the set predicts what its best
matching part predicts, so a set has the metrics of a single text. A single text is a set of one part.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.llm.asking import all_answers
from harness.methods import JudgeCase
from harness.records import Side
from judges.accuracy import Floats

#: Largest share of the silent windows, by weight, that all parts together may explain.
FALSE_POSITIVES = 0.05


@dataclass(frozen=True)
class Predicted:
    """What the parts of a description predict for some items.

    Attributes:
        raising: predictions of the parts that describe what raises the value, (parts, items).
        lowering: those of the parts that describe what lowers it.
    """

    raising: Floats
    lowering: Floats

    @classmethod
    def of(
        cls, case: JudgeCase, description: str, predict: Callable[[str], Floats], side: Side = Side.INPUT
    ) -> Predicted:
        """Return what ``predict`` predicts from each part of a description about a side."""
        parts = case.parts_of(description, side)
        return cls._stacked([(predict(text), sign) for text, sign in parts])

    @classmethod
    async def asked(cls, case: JudgeCase, description: str, predict: Callable[[str], Awaitable[Floats]]) -> Predicted:
        """Return the same if ``predict`` asks an LLM.

        Raises:
            Unanswered: if one part is not answered, because the others would be scored as the whole.
        """
        parts = case.parts_of(description)
        found = await all_answers(predict(text) for text, _ in parts)
        return cls._stacked([(values, sign) for values, (_, sign) in zip(found, parts, strict=True)])

    @classmethod
    def _stacked(cls, found: list[tuple[Floats, int]]) -> Predicted:
        values, signs = np.array([row for row, _ in found], float), np.array([sign for _, sign in found])
        return cls(values[signs > 0], values[signs < 0])

    @property
    def best(self) -> Floats:
        """The highest prediction of what raises the value, less the highest of what lowers it, (items,)."""
        highest = (rows.max(axis=0) if len(rows) else np.zeros(rows.shape[1]) for rows in (self.raising, self.lowering))
        raised, lowered = highest
        return np.asarray(raised - lowered)

    def map(self, change: Callable[[Floats], Floats]) -> Predicted:
        """Return the predictions after a change of the items of each part, such as to windows from their tokens."""
        found = [(change(row), sign) for rows, sign in ((self.raising, 1), (self.lowering, -1)) for row in rows]
        return self._stacked(found)


def explained(
    predictions: Floats, active: NDArray[np.bool_], weights: Floats, threshold: float | None = None
) -> NDArray[np.bool_]:
    """Return which active windows each part or claim explains, (parts, active windows).

    It explains a window if its prediction is above a threshold.

    Args:
        predictions: (parts, windows).
        active: whether each window is active.
        weights: number of windows that each one represents.
        threshold: None: one for each part, above which it predicts at most :data:`FALSE_POSITIVES` of the silent
            windows, by weight, divided by the number of parts: many parts explain no more silent windows than one.
    """
    if threshold is not None:
        return np.asarray(predictions[:, active] > threshold)
    silent, sizes = predictions[:, ~active], weights[~active]
    order = np.argsort(-silent, axis=1, kind="stable")
    too_many = np.cumsum(sizes[order], axis=1) > FALSE_POSITIVES / len(silent) * sizes.sum()
    lowest = np.take_along_axis(order, too_many.argmax(axis=1)[:, None], axis=1)
    return np.asarray(predictions[:, active] > np.take_along_axis(silent, lowest, axis=1))


def polysemanticity(
    found: Predicted, active: NDArray[np.bool_], weights: Floats, threshold: float | None = None
) -> dict[str, float]:
    """Return the metric ``polysemanticity``; empty for a single part, and if no active window is explained.

    It is the share of the explained active windows, by weight, that the part that explains most of them does not
    explain: 0 if one part would do, 1/2 for two parts that explain as many different windows. :func:`explained` has the
    arguments.
    """
    if len(found.raising) < 2:
        return {}
    which, sizes = explained(found.raising, active, weights, threshold), weights[active]
    total = sizes[which.any(axis=0)].sum()
    if not total:
        return {}
    return {"polysemanticity": float(1 - (which * sizes).sum(axis=1).max() / total)}
