"""The scores that a published set gives its own descriptions, next to those of the run's judges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.formats import DescriptionSet, Format, Several
from harness.llm.client import Unanswered
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Neuron, Status
from harness.validation import OneOrMore, validated


class PublishedScore(Scorer):
    """Looks up the score that a published set gives its description, measured by the set's authors on their evidence.

    It grades the descriptions of one describer, which reads the same set, and skips neurons without a score. A
    description that differs from the set's is a failure.
    """

    @validated
    def __init__(
        self,
        path: OneOrMore[str],
        format: Format,
        describer: str = "precomputed",
        where: Mapping[str, Any] | None = None,
        several: Several = "refuse",
    ) -> None:
        if format == "table":
            raise ValueError("format must be that of a published set; a table has no scores")
        self._set, self._describer = DescriptionSet(path, format, None, where, several), describer

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return self._set.inputs

    def covers(self, neuron: Neuron, describer: str) -> bool:
        """Return whether the set scores its description of the neuron."""
        if describer != self._describer:
            return False
        found = self._set.chosen.get(neuron)
        return found is not None and found.score is not None

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Look up the score."""
        found = self._set.chosen[case.neuron]
        if found.score is None or " ".join(found.text.split()) != description:
            raise Unanswered(Status.FAILED, f"{self._set.files} has no score of this description")
        return Grade(found.score)
