"""Stage: every judge looks at the descriptions, on evidence that no describer saw."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from harness.folder import Journal, RunFolder
from harness.llm.client import LLMClient, Unasked
from harness.llm.serving import Serving
from harness.methods import Comparator, JudgeCase, Judgement, Scorer
from harness.records import Description, Exemplar, Neuron, Score, Split, Status, Usage, Verdict, Winner
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.setup import Setup

OPEN_TO_JUDGES = (Split.CALIBRATE, Split.REPORT)
Pair = tuple[Neuron, str, str]
CaseOf = Callable[[Neuron, Comparator | Scorer, Mapping[str, LLMClient]], JudgeCase]


def pending_verdicts(setup: Setup, journal: Journal[Verdict]) -> dict[str, list[Pair]]:
    """Return, for each comparator, the pairs it has yet to judge: all of them, in both orders if the order matters."""
    pairs = list(itertools.combinations(sorted(setup.describers), 2))
    pending = {}
    for name, comparator in setup.comparators.items():
        shown = pairs if comparator.symmetric else [order for a, b in pairs for order in ((a, b), (b, a))]
        asked = ((neuron, first, second) for neuron in setup.described for first, second in shown)
        pending[name] = [pair for pair in asked if not journal.done((pair[0], name, pair[1], pair[2]))]
    return pending


def pending_scores(setup: Setup, journal: Journal[Score]) -> dict[str, list[tuple[Neuron, str]]]:
    """Return, for each scorer, the descriptions it has yet to grade."""
    return {
        name: [
            (neuron, describer)
            for neuron in setup.described
            for describer in setup.describers
            if not journal.done((neuron, name, describer))
        ]
        for name in setup.scorers
    }


async def judge(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Give every verdict and score that is not there yet."""
    verdicts, scores = folder.verdicts(), folder.scores()
    comparisons, questions = pending_verdicts(setup, verdicts), pending_scores(setup, scores)
    if not any(comparisons.values()) and not any(questions.values()):
        return
    made = {(record.neuron, record.describer): record for record in folder.descriptions().records()}
    held_out: dict[Neuron, list[Exemplar]] = defaultdict(list)
    for exemplar in folder.read_exemplars():
        if exemplar.split in OPEN_TO_JUDGES:
            held_out[exemplar.neuron].append(exemplar)

    def case(neuron: Neuron, judge: Comparator | Scorer, llms: Mapping[str, LLMClient]) -> JudgeCase:
        llm = llms.get(judge.role or "")
        return JudgeCase(neuron, tuple(held_out[neuron]), setup.subject, llm, setup.seed, llms=llms)

    for name, pairs in comparisons.items():
        if pairs:
            comparator = setup.comparators[name]
            compare = partial(_compare, case, made, name, comparator, clients_of(name, comparator, setup, serving))
            await answer_all(f"compare with {name}", "pairs", pairs, compare, verdicts)
    verdicts.close()
    for name, asked in questions.items():
        if asked:
            scorer = setup.scorers[name]
            grade = partial(_score, case, made, name, scorer, clients_of(name, scorer, setup, serving))
            await answer_all(f"score with {name}", "descriptions", asked, grade, scores)
    scores.close()


async def _compare(
    case: CaseOf,
    made: Mapping[tuple[Neuron, str], Description],
    name: str,
    comparator: Comparator,
    llms: Clients,
    pair: Pair,
) -> Verdict:
    neuron, first, second = pair
    one, two = _made(made, neuron, first), _made(made, neuron, second)

    def verdict(winner: Winner | None, status: Status, reason: str, usage: Usage) -> Verdict:
        return Verdict(neuron, name, first, second, comparator.symmetric, winner, status, reason, usage)

    missing = _missing(one, two)
    if missing:
        return verdict(None, Status.FAILED, missing, Usage())
    if one.text == two.text:
        return verdict(Winner.TIE, Status.OK, "the two descriptions are the same", Usage())
    judged, status, reason, usage = await attempt(
        llms, lambda metered: comparator.compare(case(neuron, comparator, metered), one.text, two.text)
    )
    if not isinstance(judged, Judgement):
        return verdict(None, status, reason, usage)
    return verdict(judged.winner, status, judged.reason, usage)


async def _score(
    case: CaseOf,
    made: Mapping[tuple[Neuron, str], Description],
    name: str,
    scorer: Scorer,
    llms: Clients,
    question: tuple[Neuron, str],
) -> Score:
    neuron, describer = question
    description = _made(made, neuron, describer)
    missing = _missing(description)
    if missing:
        return Score(neuron, name, describer, None, Status.FAILED, missing)
    grade, status, detail, usage = await attempt(
        llms, lambda metered: scorer.score(case(neuron, scorer, metered), description.text)
    )
    if grade is None:
        return Score(neuron, name, describer, None, status, detail, usage=usage)
    if not math.isfinite(grade.value):
        return Score(neuron, name, describer, None, Status.FAILED, f"the score is {grade.value}", usage=usage)
    metrics = {metric: round(value, 6) for metric, value in grade.metrics.items() if math.isfinite(value)}
    return Score(neuron, name, describer, round(grade.value, 6), status, metrics=metrics, usage=usage)


def _made(made: Mapping[tuple[Neuron, str], Description], neuron: Neuron, describer: str) -> Description:
    if (neuron, describer) not in made:  # in a run that was interrupted, when nothing is to be asked
        raise Unasked
    return made[neuron, describer]


def _missing(*descriptions: Description) -> str:
    """Say which description is not there to be judged, if one is not."""
    bad = [item for item in descriptions if item.status is not Status.OK]
    return "; ".join(f"no description by {item.describer}: {item.status} ({item.detail})" for item in bad)
