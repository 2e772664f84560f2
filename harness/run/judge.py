"""Stage: every judge looks at the descriptions, on evidence that no describer saw."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from harness.errors import HarnessError
from harness.evidence import TextReader
from harness.folder import Answer, Journal, RunFolder, write_json
from harness.llm.client import LLMClient, NotCached
from harness.llm.reseeding import ReseededClient
from harness.llm.serving import Serving
from harness.methods import Comparator, JudgeCase, Judgement, Scorer
from harness.records import (
    Activity,
    Description,
    Effect,
    Neuron,
    Score,
    Split,
    Status,
    SteeredText,
    Usage,
    Verdict,
    Winner,
)
from harness.results.comparisons import merge_verdicts
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.open_evidence import Evidence
from harness.run.schedule import Orders, Plan, first_round, next_round, shuffled
from harness.run.setup import Setup
from harness.seeds import derive_rng

OPEN_TO_JUDGES = (Split.CALIBRATE, Split.REPORT)
Pair = tuple[Neuron, str, str]
Question = tuple[Neuron, str]
Item = TypeVar("Item", Pair, Question)
CaseOf = Callable[[Neuron, Comparator | Scorer, Mapping[str, LLMClient], tuple[str, ...]], JudgeCase]


class Rounds:
    """The rounds of comparisons by each judge: what is planned, what is still to be asked, and what comes next.

    An adaptive plan is written down before it is carried out, so that a run that is taken up again goes on with it,
    whatever the answers that are there by then.
    """

    def __init__(self, setup: Setup, folder: RunFolder, journal: Journal[Verdict]) -> None:
        self._setup, self._folder, self._journal = setup, folder, journal
        self._order = shuffled(setup.described, setup.seed)
        self._rounds: dict[str, list[Plan]] = self._read()
        self._orders = {name: self._covered(comparator) for name, comparator in setup.comparators.items()}
        for name, orders in self._orders.items():
            if not self._rounds.get(name):
                self._rounds[name] = [first_round(setup.comparisons, orders)]

    def _covered(self, comparator: Comparator) -> Orders:
        """Return the neurons on which a comparator has anything to say of each pair, in their random order."""
        signs: dict[Neuron, list[Neuron]] = defaultdict(list)
        for neuron in self._setup.described:
            signs[neuron.unsigned].append(neuron)
        return {
            (a, b): [
                whole
                for whole in self._order
                if any(comparator.covers(neuron, *pair) for neuron in signs[whole] for pair in ((a, b), (b, a)))
            ]
            for a, b in self._setup.comparisons.pairs(self._setup.describers)
        }

    def pending(self, name: str) -> list[Pair]:
        """Return what a comparator has yet to judge of all that is planned, in both orders if the order matters."""
        return [
            (neuron, first, second)
            for neuron, first, second in self._planned(name)
            if not self._journal.done((neuron, name, first, second))
        ]

    def _planned(self, name: str, since: Plan | None = None) -> list[Pair]:
        """Return all that is planned for a comparator, or that only which has come since an earlier plan."""
        comparator, orders, before = self._setup.comparators[name], self._orders[name], since or {}
        chosen = {
            pair: set(orders[pair][before.get(pair, 0) : count]) for pair, count in self._rounds[name][-1].items()
        }
        asked = (
            (neuron, *order)
            for neuron in self._setup.described
            for (a, b), neurons in chosen.items()
            if neuron.unsigned in neurons
            for order in (((a, b),) if comparator.symmetric else ((a, b), (b, a)))
        )
        return [(neuron, first, second) for neuron, first, second in asked if comparator.covers(neuron, first, second)]

    def fails(self, name: str) -> bool:
        """Tell whether more than half of what an LLM was asked in a comparator's newest round came back as failures.

        Then it is out of order, or unable: what a further round would cost tells nothing, and the open pairs would look
        as if they were close.
        """
        rounds = self._rounds[name]
        newest = self._planned(name, rounds[-2] if len(rounds) > 1 else None)
        records = (self._journal.of((neuron, name, first, second)) for neuron, first, second in newest)
        asked = [record.status is Status.FAILED for record in records if record is not None and record.usage.calls]
        return sum(asked) > len(asked) / 2

    def extend(self, name: str) -> bool:
        """Plan a comparator's next round from what it said so far; return whether there is one.

        There is none while it fails: its questions are asked again when the run is started again, which plans on.
        """
        if self._setup.comparisons.schedule == "adaptive" and self.fails(name):
            return False
        said = merge_verdicts(record for record in self._journal.records() if record.judge == name)
        plan = next_round(self._setup.comparisons, self._rounds[name], said, self._orders[name])
        if plan is None:
            return False
        self._rounds[name].append(plan)
        return True

    def write(self) -> None:
        """Write the plans down, if they are not the same for every judge and run."""
        if self._setup.comparisons.schedule == "adaptive":
            rounds = {
                name: [[[*pair, count] for pair, count in plan.items()] for plan in plans]
                for name, plans in self._rounds.items()
            }
            write_json(self._folder.schedule, rounds)

    def _read(self) -> dict[str, list[Plan]]:
        path = self._folder.schedule
        if self._setup.comparisons.schedule != "adaptive" or not path.exists():
            return {}
        try:
            found = json.loads(path.read_text())
            return {
                name: [{(a, b): int(count) for a, b, count in plan} for plan in plans] for name, plans in found.items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise HarnessError(
                f"{path} is damaged ({error}); delete it: it is planned anew from the verdicts"
            ) from error


def pending_verdicts(setup: Setup, folder: RunFolder, journal: Journal[Verdict]) -> dict[str, list[Pair]]:
    """Return, for each comparator, what it has yet to judge in the round that it is in."""
    rounds = Rounds(setup, folder, journal)
    pending = {}
    for name in setup.comparators:
        pending[name] = rounds.pending(name)
        if not pending[name] and rounds.extend(name):
            pending[name] = rounds.pending(name)
    return pending


def pending_scores(setup: Setup, journal: Journal[Score]) -> dict[str, list[Question]]:
    """Return, for each scorer, the descriptions it has yet to grade."""
    return {
        name: [
            (neuron, describer)
            for neuron in setup.described
            for describer in setup.describers
            if not journal.done((neuron, name, describer))
        ]
        for name in setup.judges
        if name in setup.scorers
    }


async def judge(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Give every verdict and score that is not there yet, and ask for some again."""
    verdicts, scores = folder.verdicts(), folder.scores()
    comparisons, questions = pending_verdicts(setup, folder, verdicts), pending_scores(setup, scores)
    if not any(comparisons.values()) and not any(questions.values()) and not setup.comparisons.retest:
        return
    made = {(record.neuron, record.describer): record for record in folder.descriptions().records()}
    held_out = Evidence(folder.exemplar_table(), folder.read(Activity), OPEN_TO_JUDGES)

    effects: dict[Neuron, list[Effect]] = defaultdict(list)
    for effect in folder.read(Effect):
        if effect.split in OPEN_TO_JUDGES:
            effects[effect.neuron].append(effect)
    texts: dict[Neuron, list[SteeredText]] = defaultdict(list)
    for text in folder.read(SteeredText):
        texts[text.neuron].append(text)
    steered = {neuron: tuple(own) for neuron, own in texts.items()}

    reader = TextReader(setup.subject, setup.neurons, setup.executor.device)

    def case(
        neuron: Neuron,
        judge: Comparator | Scorer,
        llms: Mapping[str, LLMClient],
        contestants: tuple[str, ...],
    ) -> JudgeCase:
        return JudgeCase(
            neuron,
            held_out.exemplars(neuron),
            setup.subject,
            llms.get(judge.role or ""),
            setup.seed,
            llms=llms,
            activity=held_out.activity(neuron),
            contestants=contestants,
            reader=reader,
            effects=tuple(effects[neuron]) if judge.needs_effects else (),
            steered=steered if judge.needs_steered else {},
        )

    def comparing(name: str, llms: Clients, *, again: bool = False) -> Callable[[Pair], Awaitable[Verdict]]:
        # Asked again, it shows the same excerpts in the same order, for which the run's seed stands: the LLM's differs.
        asked = _reseeded(llms) if again else llms
        return partial(_compare, case, made, name, setup.comparators[name], asked)

    def scoring(name: str, *, again: bool = False) -> Callable[[Question], Awaitable[Score]]:
        scorer = setup.scorers[name]
        llms = clients_of(name, scorer, setup, serving)
        asked = _reseeded(llms) if again else llms
        return partial(_score, case, made, name, scorer, asked)

    rounds = Rounds(setup, folder, verdicts)
    for name in setup.comparators:
        # What failed in this run is tried again by the next run, not by the next round.
        tried: set[Pair] = set()
        # Once for all rounds, which have one failure budget together.
        llms = clients_of(name, setup.comparators[name], setup, serving)
        while True:
            pairs = [pair for pair in rounds.pending(name) if pair not in tried]
            if pairs:
                rounds.write()
                await answer_all(f"compare with {name}", "pairs", pairs, comparing(name, llms), verdicts)
                tried.update(pairs)
            if llms.budget.spent or not rounds.extend(name):
                break
    verdicts.close()
    for name, asked in questions.items():
        if asked:
            await answer_all(f"score with {name}", "descriptions", asked, scoring(name), scores)
    scores.close()

    second_verdicts, second_scores = folder.retests(), folder.score_retests()
    for name in setup.comparators:
        given = [
            (item.neuron, item.first, item.second)
            for item in _ok(verdicts)
            # Of two equal texts no judge was asked, so none can agree with itself.
            if item.judge == name and made[item.neuron, item.first].text != made[item.neuron, item.second].text
        ]
        again = [
            pair
            for pair in asked_again(setup, name, given)
            if not second_verdicts.done((pair[0], name, pair[1], pair[2]))
        ]
        if again:
            llms = clients_of(name, setup.comparators[name], setup, serving)
            work = comparing(name, llms, again=True)
            await answer_all(f"ask {name} again", "pairs", again, work, second_verdicts)
    second_verdicts.close()
    for name in setup.scorers:
        graded = [(item.neuron, item.describer) for item in _ok(scores) if item.scorer == name]
        once_more = [
            question
            for question in asked_again(setup, name, graded)
            if not second_scores.done((question[0], name, question[1]))
        ]
        if once_more:
            await answer_all(f"ask {name} again", "descriptions", once_more, scoring(name, again=True), second_scores)
    second_scores.close()
    reader.close()


def _ok(journal: Journal[Answer]) -> list[Answer]:
    return [record for record in journal.records() if record.status is Status.OK]


def asked_again(setup: Setup, name: str, items: Sequence[Item]) -> list[Item]:
    """Return the share of a judge's answers that is asked for again: each by a draw of its own."""
    share = setup.comparisons.retest
    return [item for item in items if share and derive_rng(setup.seed, "retest", name, *item).random() < share]


def _reseeded(llms: Clients) -> Clients:
    return Clients({role: ReseededClient(llm) for role, llm in llms.items()}, llms.prices, llms.budget)


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
        side = comparator.side
        return Verdict(neuron, name, first, second, comparator.symmetric, winner, status, reason, usage, side=side)

    missing = _missing(one, two)
    if missing:
        return verdict(None, Status.FAILED, missing, Usage())
    if one.text == two.text:
        return verdict(Winner.TIE, Status.OK, "the two descriptions are the same", Usage())
    judged, status, reason, usage = await attempt(
        llms,
        lambda metered: comparator.compare(case(neuron, comparator, metered, (first, second)), one.text, two.text),
    )
    if not isinstance(judged, Judgement):
        return verdict(None, status, reason, usage)
    if judged.winner is None and judged.status is Status.OK:
        return verdict(None, Status.FAILED, judged.reason or "the comparator gave no verdict", usage)
    given = verdict(judged.winner, judged.status, judged.reason, usage)
    return dataclasses.replace(given, preference=judged.preference, mass=judged.mass, votes=judged.votes)


async def _score(
    case: CaseOf,
    made: Mapping[tuple[Neuron, str], Description],
    name: str,
    scorer: Scorer,
    llms: Clients,
    question: Question,
) -> Score:
    neuron, describer = question
    description = _made(made, neuron, describer)
    missing = _missing(description)
    if missing:
        return Score(neuron, name, describer, None, Status.FAILED, missing)
    grade, status, detail, usage = await attempt(
        llms, lambda metered: scorer.score(case(neuron, scorer, metered, (describer,)), description.text)
    )
    if grade is None:
        return Score(neuron, name, describer, None, status, detail, usage=usage)
    if not math.isfinite(grade.value):
        return Score(neuron, name, describer, None, Status.FAILED, f"the score is {grade.value}", usage=usage)
    metrics = {metric: round(value, 6) for metric, value in grade.metrics.items() if math.isfinite(value)}
    return Score(neuron, name, describer, round(grade.value, 6), status, metrics=metrics, usage=usage)


def _made(made: Mapping[tuple[Neuron, str], Description], neuron: Neuron, describer: str) -> Description:
    if (neuron, describer) not in made:  # in a run that was interrupted, when nothing is to be asked
        raise NotCached
    return made[neuron, describer]


def _missing(*descriptions: Description) -> str:
    """Say which description is not there to be judged, if one is not."""
    bad = [item for item in descriptions if item.status is not Status.OK]
    return "; ".join(f"no description by {item.describer}: {item.status} ({item.detail})" for item in bad)
