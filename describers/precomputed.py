"""Descriptions from files, so that published sets of descriptions can compete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from harness.errors import HarnessError
from harness.formats import DescriptionSet, Format, Several
from harness.llm.client import Unanswered
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Neuron, Part, Status
from harness.subject import Subject
from harness.validation import OneOrMore, validated


class Precomputed(Describer):
    """Looks up a neuron's description in a published set, or in a table of the user.

    The run ends before it starts if an entry cannot be read, a description is not text, a neuron has several
    descriptions, or, unless ``gaps`` is ``fail``, a neuron of the run has none.
    """

    extractive = False

    @validated
    def __init__(
        self,
        path: OneOrMore[str],
        columns: Mapping[str, str | None] | None = None,
        where: Mapping[str, Any] | None = None,
        gaps: Literal["refuse", "fail"] = "refuse",
        format: Format = "table",
        several: Several = "refuse",
    ) -> None:
        self._set, self._gaps = DescriptionSet(path, format, columns, where, several), gaps

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return self._set.inputs

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Read the set, and check that it describes the neurons."""
        missing = [neuron for neuron in neurons if neuron not in self._set.chosen]
        if not missing:
            return
        what = f"{self._set.name} describes {len(neurons) - len(missing)} of the run's {len(neurons)} neurons"
        if len(missing) == len(neurons):
            raise HarnessError(f"{what}: it is about another model or other layers, or 'columns' is wrong")
        if self._gaps == "refuse":
            shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise HarnessError(f"{what} and lacks {shown}: choose others, or count them as failures with gaps=fail")

    async def describe(self, case: DescriberCase) -> Draft:
        """Look up the neuron."""
        found = self._set.chosen.get(case.neuron)
        if found is None:
            raise Unanswered(Status.FAILED, f"{self._set.files} does not describe the neuron")
        if found.parts:
            return Draft.of_parts([Part(text, 1.0) for text in found.parts], found.origin)
        return Draft(found.text, found.origin)
