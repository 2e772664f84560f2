"""A judge on exemplars that somebody else published, to see how much of a ranking is due to the evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import SkipValidation

from harness.formats import ExemplarFormat
from harness.formats.evidence import ImportedEvidence
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Method, Scorer, only_method, roles_of
from harness.records import Neuron, Split
from harness.validation import OneOrMore, Positive, Whole, validated


class _OnImported(Method):
    """What both kinds of judges have in common."""

    def __init__(self, judge: Method, evidence: ImportedEvidence) -> None:
        self._evidence = evidence
        self.inner = (judge,)
        self.role, self.needs_logprobs, self.extra_roles = judge.role, judge.needs_logprobs, roles_of([judge])
        self.llm_required, self.is_human = judge.llm_required, judge.is_human
        self.needs_effects, self.needs_steered = judge.needs_effects, judge.needs_steered

    @property
    def inputs(self) -> str:
        """A hash of the files."""
        return self._evidence.inputs

    def _case(self, case: JudgeCase) -> JudgeCase:
        exemplars = self._evidence.of(case.neuron, (Split.CALIBRATE, Split.REPORT))
        # The sets do not say of how many windows theirs are a sample.
        return dataclasses.replace(case, exemplars=exemplars, report_windows=0)


class ImportedComparator(_OnImported, Comparator):
    """Another comparator on exemplars of a published set, not on the run's own."""

    def __init__(self, judge: Comparator, evidence: ImportedEvidence) -> None:
        super().__init__(judge, evidence)
        self._judge, self.symmetric, self.side = judge, judge.symmetric, judge.side

    def check(self, neurons: Sequence[Neuron], describers: Sequence[str]) -> None:
        """Read the set's windows of the neurons, and let the comparator check."""
        self._evidence.check(neurons)
        self._judge.check(neurons, describers)

    def covers(self, neuron: Neuron, first: str, second: str) -> bool:
        """Return whether the comparator covers the pair."""
        return self._judge.covers(neuron, first, second)

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Call the comparator with the set's exemplars."""
        return await self._judge.compare(self._case(case), first, second)


class ImportedScorer(_OnImported, Scorer):
    """Another scorer on exemplars of a published set, not on the run's own."""

    def __init__(self, judge: Scorer, evidence: ImportedEvidence) -> None:
        super().__init__(judge, evidence)
        self._judge = judge

    def check(self, neurons: Sequence[Neuron]) -> None:
        """Read the set's windows of the neurons, and let the scorer check."""
        self._evidence.check(neurons)
        self._judge.check(neurons)

    def covers(self, neuron: Neuron, describer: str) -> bool:
        """Return whether the scorer grades the description."""
        return self._judge.covers(neuron, describer)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Call the scorer with the set's exemplars."""
        return await self._judge.score(self._case(case), description)


@validated
def on_imported(
    of: Annotated[Any, SkipValidation],
    path: OneOrMore[str],
    format: ExemplarFormat,
    splits: Mapping[Split, Positive],
    seed: Whole,
    where: Mapping[str, Any] | None = None,
) -> ImportedComparator | ImportedScorer:
    """Return a judge on exemplars of a published set.

    Args:
        of: the comparator or scorer, by its name.
        path: files, or folders with such files at any depth.
        format: their format.
        splits: share of the windows of each split; the judge sees those of calibrate and report.
        seed: seed of the splits.
        where: only windows with these values in these columns are used.
    """
    _, judge = only_method(of, Method, "of")
    evidence = ImportedEvidence(path, format, where, splits, seed)
    if isinstance(judge, Comparator):
        return ImportedComparator(judge, evidence)
    if isinstance(judge, Scorer):
        return ImportedScorer(judge, evidence)
    raise ValueError("of must be a comparator or a scorer")
