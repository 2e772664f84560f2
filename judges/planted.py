"""Scores descriptions of a planted subject by the planted concepts that they name, without an LLM or text."""

from __future__ import annotations

from functools import cached_property

from harness.llm.client import Unanswered
from harness.methods import Grade, JudgeCase, Scorer
from harness.planted import Planting, Seen, Truth, naming
from harness.records import Status
from harness.validation import Count, validated


class PlantedTruth(Scorer):
    """Scores a description by the planted concepts that it names: the harmonic mean of recall and precision.

    ``recall`` is the share of the neuron's concepts that are named, ``precision`` the share of the description's words
    that belong to one of them (:func:`harness.planted.named.naming`). ``recall, X`` is the recall of the
    concepts that can be found in X (:class:`harness.planted.Seen`).

    Raises:
        HarnessError: if the subject is not a planted one, so that there are no settings.
    """

    @validated
    def __init__(self, planting: Planting | None, words: Count = 2) -> None:
        self._planting, self._words = Planting.of(planting), words

    @cached_property
    def _truth(self) -> Truth:
        from harness.planted import truth_of  # imports PyTorch

        return truth_of(self._planting)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Compare the description with the truth."""
        planted = self._truth.planted(case.neuron)
        if not planted:
            raise Unanswered(Status.FAILED, f"nothing was planted in {case.neuron} at this sign")
        found = naming(description, planted, self._words)
        recall, precision = found.recall or 0.0, found.precision or 0.0
        value = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        metrics = {"recall": recall, "precision": precision}
        for seen in Seen:
            hits = [hit for item, hit in zip(planted, found.named, strict=True) if item.seen is seen]
            if hits:
                metrics[f"recall, {seen}"] = sum(hits) / len(hits)
        return Grade(value, metrics)
