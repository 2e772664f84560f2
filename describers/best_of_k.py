"""The best of several descriptions by another describer, each made from other evidence.

Source: Choi et al. 2024 (Transluce), *Scaling automatic neuron description*: k candidates at temperature 1 from
resampled exemplars; the winner scores best on text that is used neither to make nor to judge the descriptions.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import SkipValidation

from describers.evidence import shares, total
from describers.others import copy_needs
from harness.errors import HarnessError
from harness.llm.client import LLMClient, Unanswered, WrappedClient
from harness.methods import Describer, DescriberCase, Draft, JudgeCase, Scorer, only_method, outcome, reading, roles_of
from harness.records import Neuron, Source, Split, Status, VectorKind
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject
from harness.validation import Count, Fraction, NonNegative, validated

T = TypeVar("T")
#: Share of the select split's documents that a scorer calibrates itself on; it grades on the others.
CALIBRATE = 0.25


@dataclass(frozen=True)
class _Candidate:
    """A description with its score; without one of them, ``status`` and ``detail`` say why."""

    draft: Draft | None
    score: float | None = None
    status: Status = Status.OK
    detail: str = ""

    def __str__(self) -> str:
        if self.draft is None:
            return f"no description: {self.detail}"
        return f"{self.detail if self.score is None else f'{self.score:.4f}'}: {self.draft.text}"


class BestOfK(Describer):
    """Keeps, out of k descriptions by another describer, the one with the best score on the select split.

    Each candidate is made from its own resample of the explain split's windows and of the channels, at ``temperature``
    and with its own seed. A budget is divided equally among the candidates. Failed candidates count among the k; of
    equal scores, the first wins. The wrapped describer does not see the select split; the scorer takes it for its
    held-out evidence.

    ``of`` and ``by`` are a method, or a mapping of its name to it.
    """

    needs_exemplars = True

    @validated
    def __init__(
        self,
        of: Annotated[Describer | Mapping[str, Describer], SkipValidation],
        by: Annotated[Scorer | Mapping[str, Scorer], SkipValidation],
        k: Count = 5,
        windows: Fraction = 0.5,
        channels: Fraction = 0.8,
        temperature: NonNegative = 1.0,
    ) -> None:
        self._of, self._describer = only_method(of, Describer, "of")  # type: ignore[type-abstract]
        self._by, self._scorer = only_method(by, Scorer, "by")  # type: ignore[type-abstract]
        if self._scorer.needs_steered or self._scorer.needs_effects:
            made = "steered texts" if self._scorer.needs_steered else "measured effects"
            raise ValueError(
                f"by={self._by} looks at {made}, and these are made for the judges, not to choose by: take a scorer of "
                "the input side, such as embedding_simulation or own_words"
            )
        self._k, self._windows, self._channels, self._temperature = k, windows, channels, temperature
        self.inner = (self._describer, self._scorer)
        copy_needs(self, [self._describer])
        self.needs_exemplars = True
        self.role, self.extra_roles = self._describer.role, roles_of(self.inner)
        self.extractive = self._describer.extractive
        self.target_words = getattr(self._describer, "target_words", None)

    @property
    def checked(self) -> Describer:
        """The wrapped describer: planted evidence has no select split to choose by."""
        return self._describer.checked

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Check the scorer; the run checks the describer."""
        try:
            self._scorer.check(neurons)
        except HarnessError as error:
            raise HarnessError(f"by={self._by}: {error}") from error

    async def describe(self, case: DescriberCase) -> Draft:
        """Make the candidates, grade them, and keep the best."""
        held_out = _judge_case(case, self._scorer)
        budgets = shares(case.budget, self._k)
        made = await asyncio.gather(*(self._candidate(case, index, budget) for index, budget in enumerate(budgets)))
        # Equal texts are graded once.
        texts = dict.fromkeys(one.draft.text for one in made if one.draft is not None)
        read = reading(one.draft for one in made if one.draft is not None)
        held_out = dataclasses.replace(held_out, rivals=tuple(texts), **read)
        grades = dict(zip(texts, await asyncio.gather(*(self._grade(held_out, text) for text in texts)), strict=True))
        candidates = [one if one.draft is None else dataclasses.replace(one, **grades[one.draft.text]) for one in made]
        drafts = [one.draft for one in candidates if one.draft is not None]
        undescribed = [one for one in candidates if one.draft is None]
        ungraded = [one for one in candidates if one.draft is not None and one.score is None]
        lost = [
            f"{len(group)} of {self._k} {what}: {group[0].status}, {group[0].detail}"
            for what, group in (("without a description", undescribed), ("without a score", ungraded))
            if group
        ]
        scored = [(one.score, one.draft) for one in candidates if one.draft is not None and one.score is not None]
        if not scored:
            raise Unanswered((ungraded or undescribed)[0].status, "no candidate to choose; " + "; ".join(lost))
        score, best = max(scored, key=lambda one: one[0])  # the first of equal ones
        return dataclasses.replace(
            best,
            detail="; ".join([f"best of {self._k} by {self._of} ({self._by} {score:.4f} on the select split)", *lost]),
            steps=tuple(map(str, candidates)),
            evidence=total(draft.evidence for draft in drafts),
        )

    async def _candidate(self, case: DescriberCase, index: int, budget: int | None) -> _Candidate:
        windows = {source: case.windows(Split.EXPLAIN, source) for source in Source}
        channels = {kind: case.channels_of(kind) for kind in VectorKind}
        roles = self._describer.roles
        seed = derive_seed(case.seed, "best_of_k answer", case.neuron, index) % 2**31
        llms = {role: _resampled(llm, self._temperature, seed) for role, llm in case.llms.items() if role in roles}
        given = dataclasses.replace(
            case,
            exemplars=_some(case, windows, self._windows, "windows", index),
            channels=_some(case, channels, self._channels, "channels", index),
            budget=budget,
            llm=llms.get(self._describer.role or ""),
            llms=llms,
        )
        made, status, detail = await outcome(self._describer.describe(given))
        if made is None:
            return _Candidate(None, status=status, detail=detail)
        draft = Draft.of(made)
        text = " ".join(draft.text.split())
        if not text:
            return _Candidate(None, status=Status.FAILED, detail="the description is empty")
        return _Candidate(dataclasses.replace(draft, text=text))

    async def _grade(self, case: JudgeCase, text: str) -> dict[str, Any]:
        """Return the fields of a candidate that its grade sets."""
        grade, status, detail = await outcome(self._scorer.score(case, text))
        if grade is None:
            return {"status": status, "detail": detail}
        if not math.isfinite(grade.value):
            return {"status": Status.FAILED, "detail": f"the score is {grade.value}"}
        return {"score": grade.value}


def _resampled(client: LLMClient, temperature: float, seed: int) -> LLMClient:
    """Return the client with another temperature and seed, so that candidates differ but are reproducible."""
    resampled, given = WrappedClient(client), client.sampling
    resampled.sampling = dataclasses.replace(
        given,
        temperature=None if given.temperature is None else temperature,
        seed=None if given.seed is None else seed,
    )
    return resampled


def _some(case: DescriberCase, groups: Mapping[Any, Sequence[T]], share: float, what: str, index: int) -> tuple[T, ...]:
    """Return a resample for candidate ``index``: a share of the items of each group, in their order."""
    found: list[T] = []
    for group, items in groups.items():
        rng = derive_rng(case.seed, "best_of_k", case.neuron, what, group, index)
        chosen = rng.choice(len(items), math.ceil(share * len(items)), replace=False)
        found += [items[position] for position in sorted(chosen.tolist())]
    return tuple(found)


def _judge_case(case: DescriberCase, scorer: Scorer) -> JudgeCase:
    """Return a judge's case made from the select split alone; raises ``Unanswered`` if it has no windows.

    A quarter of its documents become the calibrate split, the others the report split. If that leaves the report split
    without top windows, all documents become the report split.
    """
    assert {window.split for window in case.exemplars} <= {Split.EXPLAIN, Split.SELECT}, "a describer saw too much"
    select = [window for window in case.exemplars if window.split is Split.SELECT]
    if not select:
        raise Unanswered(Status.FAILED, "no windows of the select split to choose a candidate by")
    documents = sorted(
        {window.document for window in select}, key=lambda one: derive_seed(case.seed, "best_of_k calibrate", one)
    )
    calibrate = set(documents[: int(CALIBRATE * len(documents))])
    if all(window.document in calibrate for window in select if window.source is Source.TOP):
        calibrate = set()
    llms = {role: case.llms[role] for role in scorer.roles if role in case.llms}
    return JudgeCase(
        case.neuron,
        tuple(
            dataclasses.replace(window, split=Split.CALIBRATE if window.document in calibrate else Split.REPORT)
            for window in select
        ),
        case.subject,
        llms.get(scorer.role or ""),
        case.seed,
        llms=llms,
        reader=case.reader,
    )
