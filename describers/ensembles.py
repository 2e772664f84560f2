"""Ensembles: several kinds of evidence in one prompt, or several descriptions joined.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (raw and concatenated ensembles).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from describers.answers import ExplainerDescriber, explanation, extract, joined
from describers.evidence import Group, ShowsEvidence, shares, total
from describers.nested import take_needs
from harness.checks import require
from harness.llm.asking import ask
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft
from harness.records import EvidenceSize, Status


class EnsembleRaw(ExplainerDescriber):
    """Describes a neuron from the evidence of several describers, all of it in one prompt.

    In the extractive form: the tokens that each of them would name, in turn. A budget is divided equally among them.

    Args:
        of: the describers by name; each can hand over its evidence undescribed (``ShowsEvidence``).
        min_shown: the neuron fails if a smaller share of them has evidence of it.
        target_words: length asked of the description; in the extractive form, the number of tokens.
        mode: ``auto``, ``llm`` or ``extractive``.
    """

    prompt = Prompt("describers", "prompts/ensemble_raw.j2")

    def __init__(
        self, of: Mapping[str, Describer], min_shown: float = 0.5, target_words: int = 30, mode: str = "auto"
    ) -> None:
        super().__init__(target_words, mode)
        require(0 < min_shown <= 1, "min_shown", min_shown, "above 0 and at most 1")
        _require_some(of)
        for name, describer in of.items():
            if not isinstance(describer, Describer) or not isinstance(describer, ShowsEvidence):
                raise ValueError(f"{name} has no evidence that could be shown undescribed: take it out of 'of'")
        self._of, self._min_shown = dict(of), min_shown
        self.inner = tuple(of.values())
        take_needs(self, of.values())

    async def describe(self, case: DescriberCase) -> Draft:
        """Show everything and ask, or name tokens of each kind of evidence in turn."""
        if case.llm is None:
            return await self._extract(case)
        shown: dict[str, Sequence[Group]] = {}
        missing: list[str] = []
        for (name, describer), part in zip(self._of.items(), shares(case.budget, len(self._of)), strict=True):
            assert isinstance(describer, ShowsEvidence)
            try:
                shown[name] = describer.show(_without_llm(case, part))
            except Unanswered as error:
                missing.append(f"{name}: {error.detail}")
        detail = _told("from the evidence of", list(shown), missing, self._min_shown)
        groups = [group for found in shown.values() for group in found]
        answer = await ask(
            case.llm, self.prompt.render(groups=groups, words=self.target_words), explanation(self.target_words)
        )
        return Draft(answer.description, detail, evidence=total(group.size for group in groups))

    async def _extract(self, case: DescriberCase) -> Draft:
        drafts: dict[str, Draft] = {}
        missing: list[str] = []
        for (name, describer), part in zip(self._of.items(), shares(case.budget, len(self._of)), strict=True):
            try:
                made = await describer.describe(_without_llm(case, part))
            except Unanswered as error:
                missing.append(f"{name}: {error.detail}")
            else:
                drafts[name] = Draft(made) if isinstance(made, str) else made
        detail = _told("tokens of", list(drafts), missing, self._min_shown)
        turns = zip_longest(*(draft.text.split(", ") for draft in drafts.values()), fillvalue="")
        text = extract((word for turn in turns for word in turn), self.target_words)
        parts = tuple(f"{name}: {draft.text}" for name, draft in drafts.items())
        return Draft(text, detail, parts, total(draft.evidence for draft in drafts.values()))


class EnsembleConcat(Describer):
    """Joins the descriptions of several describers of the run into one.

    It is longer than any of them, and made from the evidence of all: a budget holds for each of them, not for their
    sum. Length and evidence are recorded.

    Args:
        of: names of the describers.
        min_described: the neuron fails if a smaller share of them has described it.
    """

    def __init__(self, of: Sequence[str], min_described: float = 0.5) -> None:
        require(0 < min_described <= 1, "min_described", min_described, "above 0 and at most 1")
        _require_some(of)
        self.after = tuple(dict.fromkeys(of))
        self._min_described = min_described

    async def describe(self, case: DescriberCase) -> Draft:
        """Join what is there."""
        made = {name: case.others[name].get(case.neuron) for name in self.after}
        texts = {name: given.text for name, given in made.items() if given is not None and given.status is Status.OK}
        missing = [
            f"{name}: {given.status}, {given.detail}" if given is not None else f"{name}: no description"
            for name, given in made.items()
            if name not in texts
        ]
        detail = _told("joined from", list(texts), missing, self._min_described)
        size = total(given.evidence if given else EvidenceSize() for name, given in made.items() if name in texts)
        parts = tuple(f"{name}: {text}" for name, text in texts.items())
        return Draft(joined(list(texts.values())), detail, parts, size)


def _without_llm(case: DescriberCase, budget: int | None) -> DescriberCase:
    return dataclasses.replace(case, llm=None, llms={}, budget=budget)


def _require_some(of: Mapping[str, Describer] | Sequence[str]) -> None:
    if len(set(of)) < 2:
        raise ValueError("an ensemble is of at least two describers (of)")


def _told(how: str, there: Sequence[str], missing: Sequence[str], least: float) -> str:
    """Say what an ensemble is made of.

    Raises:
        Unanswered: if that is too little of it.
    """
    if len(there) < least * (len(there) + len(missing)):
        raise Unanswered(Status.FAILED, f"{len(missing)} of the ensemble are missing ({'; '.join(missing)})")
    return f"{how} {', '.join(there)}" + (f" (missing: {'; '.join(missing)})" if missing else "")
