"""The best of several descriptions by another describer, each from other evidence.

Source: Choi et al. 2024 (Transluce), *Scaling automatic neuron description*: k candidates at temperature 1 from
resampled exemplars; the one wins that scores best on text which neither it was made from nor is judged on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from describers.evidence import shares, total
from describers.nested import handed_on, roles_of, take_needs, the_only
from harness.checks import require, require_count
from harness.errors import HarnessError
from harness.llm.client import Completion, LLMClient, Message, PromptLogprobs, Sampling, Unanswered
from harness.methods import Describer, DescriberCase, Draft, JudgeCase, Scorer
from harness.records import Channel, Exemplar, Neuron, Source, Split, Status, VectorKind
from harness.seeds import derive_rng, derive_seed
from harness.subject import Subject

#: Share of the select split's documents that a scorer gets to calibrate itself on; the others it grades by.
CALIBRATE = 0.25


@dataclass(frozen=True)
class _Candidate:
    """One description with its score, or why it has none (``detail``); without a description ``draft`` is none."""

    draft: Draft | None
    score: float | None = None
    detail: str = ""
    status: Status = Status.FAILED

    def __str__(self) -> str:
        if self.draft is None:
            return f"no description: {self.detail}"
        return f"{self.detail if self.score is None else f'{self.score:.4f}'}: {self.draft.text}"


class BestOfK(Describer):
    """Keeps, of k descriptions by another describer, the one that a scorer grades best on the select split.

    Each candidate is made from its own resample of the explain split's windows and of the channels, and the LLMs that
    make it are asked at ``temperature``, each time with another seed. A budget is divided equally among the candidates.
    Those that fail are counted among the k; equal scores go to the earlier one.

    Args:
        of: the describer, or a mapping of its name to it. It does not see the select split.
        by: the scorer, or a mapping of its name to it. What it takes for held-out evidence is the select split. It
            cannot be one that looks at steered texts or measured effects, which are made for the judges.
        k: candidates.
        windows: share of the windows of each source that a candidate is made from.
        channels: share of the channels of each weight vector that a candidate is made from.
        temperature: at which candidates are drawn, unless the role's sampling leaves it to the server.
    """

    needs_exemplars = True

    def __init__(
        self,
        of: Describer | Mapping[str, Describer],
        by: Scorer | Mapping[str, Scorer],
        k: int = 5,
        windows: float = 0.5,
        channels: float = 0.8,
        temperature: float = 1.0,
    ) -> None:
        require_count("k", k, 1)
        require(0 < windows <= 1, "windows", windows, "above 0 and at most 1")
        require(0 < channels <= 1, "channels", channels, "above 0 and at most 1")
        require(0 <= temperature < math.inf, "temperature", temperature, "at least 0")
        self._of, self._describer = the_only(of, Describer, "of")  # type: ignore[type-abstract]
        self._by, self._scorer = the_only(by, Scorer, "by")  # type: ignore[type-abstract]
        if self._scorer.needs_steered or self._scorer.needs_effects:
            made = "steered texts" if self._scorer.needs_steered else "measured effects"
            raise ValueError(
                f"by={self._by} looks at {made}, and these are made for the judges, not to choose by: take a scorer of "
                "the input side, such as embedding_simulation or own_words"
            )
        self._k, self._windows, self._channels, self._temperature = k, windows, channels, temperature
        self.inner = (self._describer, self._scorer)
        take_needs(self, [self._describer])
        self.needs_exemplars = True
        self.role, self.extra_roles = self._describer.role, roles_of(self.inner)
        self.extractive = self._describer.extractive
        self.target_words = getattr(self._describer, "target_words", None)

    def check(self, neurons: Sequence[Neuron], subject: Subject) -> None:
        """Ask the scorer; the run asks the describer."""
        try:
            self._scorer.check(neurons)
        except HarnessError as error:
            raise HarnessError(f"by={self._by}: {error}") from error

    async def describe(self, case: DescriberCase) -> Draft:
        """Make the candidates, grade them, and keep the best."""
        judged_on = _for_the_scorer(case, self._scorer)
        room = shares(case.budget, self._k)
        made = await asyncio.gather(*(self._candidate(case, place, room[place]) for place in range(self._k)))
        # A text that came twice is graded once.
        texts = dict.fromkeys(one.draft.text for one in made if one.draft is not None)
        grades = dict(zip(texts, await asyncio.gather(*(self._grade(judged_on, text) for text in texts)), strict=True))
        candidates = [one if one.draft is None else dataclasses.replace(one, **grades[one.draft.text]) for one in made]
        graded = [one for one in candidates if one.draft is not None and one.score is not None]
        undescribed = [one for one in candidates if one.draft is None]
        ungraded = [one for one in candidates if one.draft is not None and one.score is None]
        lost = [
            f"{len(group)} of {self._k} {what}: {group[0].status}, {group[0].detail}"
            for what, group in (("without a description", undescribed), ("without a score", ungraded))
            if group
        ]
        if not graded:
            raise Unanswered((ungraded or undescribed)[0].status, "no candidate to choose; " + "; ".join(lost))
        best = max(graded, key=lambda one: one.score if one.score is not None else -math.inf)  # the first of equal ones
        assert best.draft is not None
        detail = f"best of {self._k} by {self._of} ({self._by} {best.score:.4f} on the select split)"
        return Draft(
            best.draft.text,
            "; ".join([detail, *lost]),
            tuple(map(str, candidates)),
            total(one.draft.evidence for one in candidates if one.draft is not None),
        )

    async def _candidate(self, case: DescriberCase, place: int, budget: int | None) -> _Candidate:
        given = handed_on(
            case,
            self._describer,
            exemplars=_some_windows(case, self._windows, place),
            channels=_some_channels(case, self._channels, place),
            budget=budget,
        )
        seed = derive_seed(case.seed, "best_of_k answer", case.neuron, place) % 2**31
        llms = {role: _Drawn(llm, self._temperature, seed) for role, llm in given.llms.items()}
        try:
            made = await self._describer.describe(
                dataclasses.replace(given, llm=llms.get(self._describer.role or ""), llms=llms)
            )
        except HarnessError:
            raise
        except Unanswered as error:
            return _Candidate(None, detail=error.detail, status=error.status)
        except Exception as error:  # as the run does: one candidate's mistake is not the others'
            return _Candidate(None, detail=f"{type(error).__name__}: {error}")
        draft = Draft(made) if isinstance(made, str) else made
        text = " ".join(draft.text.split())
        if not text:
            return _Candidate(None, detail="the description is empty")
        return _Candidate(dataclasses.replace(draft, text=text))

    async def _grade(self, case: JudgeCase, text: str) -> dict[str, Any]:
        """Return a candidate's score, or why there is none, as fields of it."""
        try:
            value = (await self._scorer.score(case, text)).value
        except HarnessError:
            raise
        except Unanswered as error:
            return {"detail": error.detail, "status": error.status}
        except Exception as error:
            return {"detail": f"{type(error).__name__}: {error}"}
        return {"score": value} if math.isfinite(value) else {"detail": f"the score is {value}"}


class _Drawn(LLMClient):
    """Asks ``client`` at a temperature and with a seed of its own, so that candidates differ and come back the same."""

    def __init__(self, client: LLMClient, temperature: float, seed: int) -> None:
        own = client.sampling
        self._client = client
        self.sampling = dataclasses.replace(
            own,
            temperature=None if own.temperature is None else temperature,
            seed=None if own.seed is None else seed,
        )

    async def generate(
        self, messages: Sequence[Message], *, schema: Mapping[str, Any] | None = None, sampling: Sampling | None = None
    ) -> Completion:
        return await self._client.generate(messages, schema=schema, sampling=sampling or self.sampling)

    async def token_logprobs(self, messages: Sequence[Message], *, top: int = 20) -> PromptLogprobs:
        return await self._client.token_logprobs(messages, top=top)


def _some_windows(case: DescriberCase, share: float, place: int) -> tuple[Exemplar, ...]:
    """Return a resample of the explain split: a share of the windows of each source, in their order."""
    return tuple(
        window
        for source in Source
        for window in _sample(case, case.windows(Split.EXPLAIN, source), share, "windows", source, place)
    )


def _some_channels(case: DescriberCase, share: float, place: int) -> tuple[Channel, ...]:
    """Return a resample of the channels: a share of those of each weight vector, in their order."""
    return tuple(
        channel
        for kind in VectorKind
        for channel in _sample(case, case.channels_of(kind), share, "channels", kind, place)
    )


def _sample(case: DescriberCase, items: Sequence[Any], share: float, *identity: object) -> list[Any]:
    rng = derive_rng(case.seed, "best_of_k", case.neuron, *identity)
    chosen = rng.choice(len(items), math.ceil(share * len(items)), replace=False)
    return [items[at] for at in sorted(chosen.tolist())]


def _for_the_scorer(case: DescriberCase, scorer: Scorer) -> JudgeCase:
    """Return a judge's case made of the select split alone.

    A quarter of its documents stand for the calibrate split, the others for the report split; all for the latter, if it
    would have no top windows otherwise.

    Raises:
        Unanswered: if there are no windows of the select split.
    """
    assert {window.split for window in case.exemplars} <= {Split.EXPLAIN, Split.SELECT}, "a describer saw too much"
    select = [window for window in case.exemplars if window.split is Split.SELECT]
    if not select:
        raise Unanswered(Status.FAILED, "no windows of the select split to choose a candidate by")
    documents = sorted(
        {window.document for window in select}, key=lambda one: derive_seed(case.seed, "best_of_k calibrate", one)
    )
    apart = set(documents[: int(CALIBRATE * len(documents))])
    if all(window.document in apart for window in select if window.source is Source.TOP):
        apart = set()
    llms = {role: case.llms[role] for role in scorer.roles if role in case.llms}
    activity = case.activity.get(Split.SELECT)
    return JudgeCase(
        case.neuron,
        tuple(
            dataclasses.replace(window, split=Split.CALIBRATE if window.document in apart else Split.REPORT)
            for window in select
        ),
        case.subject,
        llms.get(scorer.role or ""),
        case.seed,
        llms=llms,
        activity={} if activity is None else {Split.REPORT: dataclasses.replace(activity, split=Split.REPORT)},
        reader=case.reader,
    )
