"""Ensembles: several kinds of evidence in one prompt, or several descriptions joined.

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (raw and concatenated ensembles).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from describers.answers import ExplainerDescriber, extract, joined
from describers.evidence import Group, ShowsEvidence, shares, total
from describers.others import copy_needs
from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Describer, DescriberCase, Draft, Mode
from harness.records import SignedTokens, Status, TokenRole
from harness.signed_text import read_tokens
from harness.validation import Count, Fraction, OneOrMore, validated


class EnsembleRaw(ExplainerDescriber):
    """Describes a neuron from the evidence of several describers in one prompt.

    In extractive mode, the description takes tokens from each describer in turn. A budget is divided equally among the
    describers. Each describer in ``of`` must be able to return its evidence (:class:`ShowsEvidence`).
    """

    prompt = Prompt("describers", "prompts/ensemble_raw.j2")

    @validated
    def __init__(
        self,
        of: Mapping[str, Describer],
        min_shown: Fraction = 0.5,
        target_words: Count = 30,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(target_words, mode)
        _require_two(of)
        for name, describer in of.items():
            if not isinstance(describer, ShowsEvidence):
                raise ValueError(f"{name} cannot show its evidence without a description: take it out of 'of'")
        self._of, self._min_shown = dict(of), min_shown
        self.inner = tuple(of.values())
        copy_needs(self, of.values())

    async def describe(self, case: DescriberCase) -> Draft:
        """Show all evidence to the explainer, or list tokens of each describer in turn."""
        found: dict[str, Any] = {}  # evidence with an explainer, else extractive descriptions
        missing: list[str] = []
        for (name, describer), part in zip(self._of.items(), shares(case.budget, len(self._of)), strict=True):
            assert isinstance(describer, ShowsEvidence)
            inner = dataclasses.replace(case, llm=None, llms={}, budget=part)
            try:
                found[name] = Draft.of(await describer.describe(inner)) if case.llm is None else describer.show(inner)
            except Unanswered as error:
                missing.append(f"{name}: {error.detail}")
        detail = _detail(
            "tokens of" if case.llm is None else "from the evidence of", list(found), missing, self._min_shown
        )
        if case.llm is not None:
            groups: list[Group] = [group for shown in found.values() for group in shown]
            text = await self.explain(case.llm, self.prompt, groups=groups)
            return Draft(text, detail, evidence=total(group.size for group in groups))
        turns = zip_longest(*(_strongest_first(read_tokens(draft.text, draft.tokens)) for draft in found.values()))
        tokens = extract((item for turn in turns for item in turn if item is not None), self.target_words)
        steps = tuple(f"{name}: {draft.text}" for name, draft in found.items())
        return Draft(tokens.text, detail, steps, total(draft.evidence for draft in found.values()), tokens)


class EnsembleConcat(Describer):
    """Joins the descriptions that several describers of the run gave.

    The result is longer than each description, and a budget limits each describer, not their sum; length and evidence
    are recorded.
    """

    @validated
    def __init__(self, of: OneOrMore[str], min_described: Fraction = 0.5) -> None:
        _require_two(of)
        self.after = tuple(dict.fromkeys(of))
        self._min_described = min_described

    async def describe(self, case: DescriberCase) -> Draft:
        """Join the descriptions that exist."""
        made = {name: case.others[name].get(case.neuron) for name in self.after}
        found = {name: given for name, given in made.items() if given is not None and given.status is Status.OK}
        missing = [
            f"{name}: {given.status}, {given.detail}" if given is not None else f"{name}: no description"
            for name, given in made.items()
            if name not in found
        ]
        detail = _detail("joined from", list(found), missing, self._min_described)
        steps = tuple(f"{name}: {given.text}" for name, given in found.items())
        size = total(given.evidence for given in found.values())
        lists = [given.tokens for given in found.values()]
        extractive = [tokens for tokens in lists if tokens is not None]
        if len(extractive) < len(lists):
            return Draft(joined([given.text for given in found.values()]), detail, steps, size)
        together = SignedTokens.of(dict.fromkeys(item for tokens in extractive for item in tokens.items))
        return Draft(together.text, detail, steps, size, together)


def _strongest_first(tokens: SignedTokens) -> list[tuple[TokenRole, str]]:
    """Return the tokens with their roles, one of each role in turn."""
    groups = [[(role, token) for token in getattr(tokens, role)] for role in TokenRole]
    return [item for turn in zip_longest(*groups) for item in turn if item is not None]


def _require_two(of: Mapping[str, Describer] | Sequence[str]) -> None:
    if len(set(of)) < 2:
        raise ValueError("an ensemble needs at least two describers (of)")


def _detail(how: str, found: Sequence[str], missing: Sequence[str], min_share: float) -> str:
    """Return what an ensemble is made of; raises ``Unanswered`` if less than ``min_share`` of it is found."""
    if len(found) < min_share * (len(found) + len(missing)):
        raise Unanswered(Status.FAILED, f"{len(missing)} of the ensemble are missing ({'; '.join(missing)})")
    return f"{how} {', '.join(found)}" + (f" (missing: {'; '.join(missing)})" if missing else "")
