"""A describer on exemplars that somebody else published, to see how much of a description is due to the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import SkipValidation

from describers.others import copy_needs
from harness.formats import ExemplarFormat
from harness.formats.evidence import ImportedEvidence
from harness.methods import Describer, DescriberCase, Draft, only_method, roles_of
from harness.records import Neuron, Split
from harness.subject import Subject
from harness.validation import OneOrMore, Positive, Whole, validated


class ImportedDescriber(Describer):
    """Another describer on exemplars of a published set, not on the run's own.

    The set's windows are split like the run's documents: the describer sees those of the explain and select splits. The
    description's detail names the set.
    """

    @validated
    def __init__(
        self,
        of: Annotated[Describer | Mapping[str, Describer], SkipValidation],
        path: OneOrMore[str],
        format: ExemplarFormat,
        splits: Mapping[Split, Positive],
        seed: Whole,
        where: Mapping[str, Any] | None = None,
    ) -> None:
        _, self._describer = only_method(of, Describer, "of")  # type: ignore[type-abstract]
        self._evidence = ImportedEvidence(path, format, where, splits, seed)
        self.inner = (self._describer,)
        copy_needs(self, self.inner)
        self.role, self.extra_roles = self._describer.role, roles_of(self.inner)
        self.llm_required, self.extractive = self._describer.llm_required, self._describer.extractive
        self.target_words = getattr(self._describer, "target_words", None)

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return self._evidence.inputs

    @property
    def checked(self) -> Describer:
        """The wrapped describer, because planted evidence is not the set's."""
        return self._describer.checked

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Read the set's windows of the neurons; the run checks the describer."""
        self._evidence.check(neurons)

    async def describe(self, case: DescriberCase) -> Draft:
        """Call the describer with the set's exemplars."""
        exemplars = self._evidence.of(case.neuron, (Split.EXPLAIN, Split.SELECT))
        draft = Draft.of(await self._describer.describe(dataclasses.replace(case, exemplars=exemplars)))
        return dataclasses.replace(
            draft, detail=f"exemplars of {self._evidence.files}, not of the run; {draft.detail}".rstrip("; ")
        )
