"""All answers of a run by method: their statuses and their cost."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.folder import RunFolder
from harness.records import Description, PlantedAnswer, Score, Usage, Verdict, total_roles

#: Stage of the explainer's answers on planted concepts, which are about no neuron.
CHECK = "check explainer"
#: Stage of all answers about a further description.
DRAW = "draw"
Answer = Description | Verdict | Score | PlantedAnswer


@dataclass(frozen=True)
class MethodAnswers:
    """The answers of one describer or judge in one stage.

    Attributes:
        stage: ``check explainer`` (on planted concepts), ``describe``, ``compare``, ``score``, ``ask again`` for
            retests, ``compare on own corpus`` and ``score on own corpus`` if judges see
            another corpus, or ``draw`` for all answers about one draw of further descriptions.
        method: its name.
        statuses: number of answers by status.
        reasons: the first reason or detail for each status.
        usage: total usage.
    """

    stage: str
    method: str
    statuses: Mapping[str, int]
    reasons: Mapping[str, str]
    usage: Usage

    @property
    def answers(self) -> int:
        """Number of answers."""
        return sum(self.statuses.values())


def answers_of(folder: RunFolder) -> tuple[MethodAnswers, ...]:
    """Return :func:`by_method` of all answers of a run."""
    return by_method(folder, folder.descriptions().records(), folder.verdicts().records(), folder.scores().records())


def by_method(
    folder: RunFolder, descriptions: Sequence[Description], verdicts: Sequence[Verdict], scores: Sequence[Score]
) -> tuple[MethodAnswers, ...]:
    """Return the answers by stage and method, in the order of stages and names; the other answers are in the folder."""
    stages: list[tuple[str, Sequence[Answer]]] = [
        (CHECK, folder.explainer_check().records()),
        ("describe", descriptions),
        ("compare", verdicts),
        ("score", scores),
        ("ask again", folder.retests().records()),
        ("ask again", folder.score_retests().records()),
        ("compare on own corpus", folder.own_corpus.verdicts().records()),
        ("score on own corpus", folder.own_corpus.scores().records()),
    ]
    for draw in folder.read_draws():
        journals = draw.descriptions(), draw.verdicts(), draw.scores()
        stages += [(DRAW, journal.records()) for journal in journals]
    found = []
    for stage, answers in stages:
        groups: dict[str, list[Answer]] = defaultdict(list)
        for answer in answers:
            groups[_method(answer)].append(answer)
        found += [_total(stage, method, group) for method, group in sorted(groups.items())]
    return tuple(found)


def _method(answer: Answer) -> str:
    if isinstance(answer, Description | PlantedAnswer):
        return answer.describer
    return answer.judge if isinstance(answer, Verdict) else answer.scorer


def _total(stage: str, method: str, answers: Sequence[Answer]) -> MethodAnswers:
    reasons: dict[str, str] = {}
    for answer in answers:
        reasons.setdefault(answer.status.value, answer.reason if isinstance(answer, Verdict) else answer.detail)
    usages = [answer.usage for answer in answers]
    calls, prompt, completion = (
        sum(getattr(usage, name) for usage in usages) for name in ("calls", "prompt_tokens", "completion_tokens")
    )
    usage = Usage(calls, prompt, completion, math.fsum(usage.seconds for usage in usages), total_roles(usages))
    return MethodAnswers(stage, method, Counter(answer.status.value for answer in answers), reasons, usage)
