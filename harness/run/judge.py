"""Stage: every judge judges the descriptions, on evidence that no describer saw."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from harness.folder import Journal, RunFolder
from harness.llm.client import LLMClient, NotCached
from harness.llm.serving import Serving
from harness.methods import Comparator, JudgeCase, Judgement, Scorer, reading
from harness.records import Description, Neuron, Score, Split, Status, SteeredText, Usage, Verdict, Winner
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.describe import pending_descriptions
from harness.run.open_evidence import OpenEvidence
from harness.run.setup import Setup
from harness.seeds import derive_rng

OPEN_TO_JUDGES = (Split.CALIBRATE, Split.REPORT)
#: A neuron and the two describers in the order in which their descriptions are shown.
Pair = tuple[Neuron, str, str]
#: A neuron and a describer.
Question = tuple[Neuron, str]
Item = TypeVar("Item", Pair, Question)


@dataclass(frozen=True)
class _Part:
    """Descriptions that are judged on the same text.

    Attributes:
        answers: the folder of the verdicts and scores.
        descriptions: the folder of the descriptions.
        judges: the judges that judge them.
        own_corpus: whether the text is held-out text of the run's corpus although judges see another corpus.
    """

    answers: RunFolder
    descriptions: RunFolder
    judges: Collection[str]
    own_corpus: bool = False


def _parts(setup: Setup, folder: RunFolder) -> list[_Part]:
    """Return all that is judged: first the first descriptions, which are a run's results."""
    judges = setup.judges
    # People have seen the first descriptions and their evidence only.
    machines = [name for name, one in judges.items() if not any(inner.is_human for inner in one.walk)]
    parts = [_Part(folder, folder, list(judges))]
    for draw in setup.draws.all:
        if not draw.resampled:
            parts.append(_Part(folder.draw(draw), folder.draw(draw), machines))
    if setup.report_corpus is not None:
        on_text = [name for name in machines if not (judges[name].needs_effects or judges[name].needs_steered)]
        parts.append(_Part(folder.own_corpus, folder, on_text, own_corpus=True))
    return parts


def pending_verdicts(setup: Setup, journal: Journal[Verdict]) -> dict[str, list[Pair]]:
    """Return, for each comparator, the pairs it has yet to compare, in both orders if the order matters."""
    pending = {}
    for name, comparator in setup.comparators.items():
        pairs = [
            (neuron, first, second)
            for neuron in setup.comparisons.judged(name, setup.described)
            for a, b in setup.comparisons.pairs(setup.describers)
            for first, second in (((a, b),) if comparator.symmetric else ((a, b), (b, a)))
            if comparator.covers(neuron, first, second)
        ]
        pending[name] = _open(name, pairs, journal)
    return pending


def pending_scores(setup: Setup, journal: Journal[Score]) -> dict[str, list[Question]]:
    """Return, for each scorer, the descriptions it has yet to grade."""
    return {
        name: _open(
            name,
            [
                question
                for question in itertools.product(setup.comparisons.judged(name, setup.described), setup.describers)
                if setup.scorers[name].covers(*question)
            ],
            journal,
        )
        for name in setup.judges
        if name in setup.scorers
    }


def open_items(setup: Setup, folder: RunFolder) -> dict[str, list[tuple[Any, ...]]]:
    """Return all open items of each method, of draws and of the run's own corpus too: neurons, pairs and questions."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for draw in (None, *setup.draws.all):
        journal = folder.draw(draw).descriptions()
        for name, neurons in pending_descriptions(setup, journal).items():
            found[name] += [(neuron,) for neuron in neurons]
    for part in _parts(setup, folder):
        judged: dict[str, list[Any]] = {**pending_verdicts(setup, part.answers.verdicts())}
        judged |= pending_scores(setup, part.answers.scores())
        for name in part.judges:
            found[name] += judged[name]
    return found


def _open(name: str, items: Sequence[Any], journal: Journal[Any]) -> list[Any]:
    """Return the items to which a judge has no usable answer yet."""
    return [item for item in items if not journal.done((item[0], name, *item[1:]))]


def asked_again(setup: Setup, name: str, items: Sequence[Item]) -> list[Item]:
    """Return the items that a judge is asked a second time: each is drawn with probability ``comparisons.retest``."""
    share = setup.comparisons.retest
    return [item for item in items if share and derive_rng(setup.seed, "retest", name, *item).random() < share]


@dataclass(frozen=True)
class _Task:
    """What differs between comparators and scorers: their open items by judge, and how an item is answered."""

    verb: str
    unit: str
    pending: Mapping[str, Sequence[Any]]
    answer: Callable[[str, Clients, Any], Awaitable[Any]]
    journal: Journal[Any]
    retests: Journal[Any]
    answered: Callable[[], Iterator[tuple[str, Any]]]


async def judge(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Give every verdict and score that is still missing, and ask for some of the first descriptions' again."""
    for part in _parts(setup, folder):
        await _judge(setup, folder, serving, part)


async def _judge(setup: Setup, folder: RunFolder, serving: Serving, part: _Part) -> None:
    verdicts, scores = part.answers.verdicts(), part.answers.scores()
    comparisons, questions = (
        {name: items for name, items in pending.items() if name in part.judges}
        for pending in (pending_verdicts(setup, verdicts), pending_scores(setup, scores))
    )
    retest = setup.comparisons.retest > 0 and part.answers is folder
    if not any(comparisons.values()) and not any(questions.values()) and not retest:
        return
    first, made = (
        {(record.neuron, record.describer): record for record in one.descriptions().records()}
        for one in (folder, part.descriptions)
    )
    judging = _Judging(setup, folder, first, made, own_corpus=part.own_corpus)
    where = "" if part.answers is folder else f" ({part.answers.path.name})"

    def compared() -> Iterator[tuple[str, Pair]]:
        for record in verdicts.records():
            # No judge was asked about two equal texts.
            one, two = (made.get((record.neuron, name)) for name in (record.first, record.second))
            if record.status is Status.OK and one and two and one.text != two.text:
                yield record.judge, (record.neuron, record.first, record.second)

    def graded() -> Iterator[tuple[str, Question]]:
        for record in scores.records():
            if record.status is Status.OK:
                yield record.scorer, (record.neuron, record.describer)

    tasks = (
        _Task("compare", "pairs", comparisons, judging.compare, verdicts, part.answers.retests(), compared),
        _Task("score", "descriptions", questions, judging.score, scores, part.answers.score_retests(), graded),
    )
    for task in tasks:
        for name, items in task.pending.items():
            if items:
                work = partial(task.answer, name, clients_of(name, setup.judges[name], setup, serving))
                await answer_all(f"{task.verb} with {name}{where}", task.unit, items, work, task.journal)
        task.journal.close()
    for task in tasks if retest else ():
        answered: dict[str, list[Any]] = defaultdict(list)
        for name, item in task.answered():
            answered[name].append(item)
        for name in task.pending:
            items = _open(name, asked_again(setup, name, answered[name]), task.retests)
            if items:
                # The run's seed stays, so that the judge shows the same excerpts in the same order; the LLM's changes.
                llms = clients_of(name, setup.judges[name], setup, serving).reseeded(1)
                work = partial(task.answer, name, llms)
                await answer_all(f"ask {name} again", task.unit, items, work, task.retests)
        task.retests.close()
    judging.close()


class JudgeCases:
    """What judges see of the neurons of a run, given the first descriptions by neuron and describer.

    A judged description takes the place of its describer's first one among the rivals, so that draws of one describer
    do not change what judges see of another one.

    ``own_corpus``: whether they see text of the run's corpus although the run has another one for judges.
    """

    def __init__(
        self, setup: Setup, folder: RunFolder, first: Mapping[Question, Description], *, own_corpus: bool = False
    ) -> None:
        other = setup.report_corpus is not None and not own_corpus
        self._evidence = OpenEvidence(setup, folder, OPEN_TO_JUDGES, text=folder.report_corpus if other else None)
        manifest = folder.read_manifest() if folder.manifest.exists() else {}  # the trial of a plan has none
        corpus = manifest.get("report_corpus" if other else "corpus") or {}
        self._report_windows = int(corpus.get("report_windows", 0))
        self._rivals: dict[Neuron, dict[str, Description]] = defaultdict(dict)
        for (neuron, name), description in sorted(first.items()):
            if description.status is Status.OK and name in setup.describers:
                self._rivals[neuron][name] = description
        texts = itertools.groupby(folder.read(SteeredText), key=lambda text: text.neuron)
        self._steered = {neuron: tuple(found) for neuron, found in texts}

    def case(self, judge: Comparator | Scorer, llms: Mapping[str, LLMClient], *judged: Description) -> JudgeCase:
        """Return what a judge sees of the neuron of some descriptions."""
        rivals = {**self._rivals[judged[0].neuron], **{one.describer: one for one in judged}}.values()
        return JudgeCase(
            **self._evidence.fields(judged[0].neuron, judge, llms),
            contestants=tuple(one.describer for one in judged),
            **reading(list(rivals)),
            report_windows=self._report_windows,
            rivals=tuple(dict.fromkeys(one.text for one in rivals)),
            steered=self._steered if judge.needs_steered else {},
        )

    def close(self) -> None:
        """Free the subject model, if it was loaded."""
        self._evidence.close()


class _Judging(JudgeCases):
    """Answers single items and makes their records, given the first descriptions and those that are judged."""

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        first: Mapping[Question, Description],
        made: Mapping[Question, Description],
        *,
        own_corpus: bool,
    ) -> None:
        super().__init__(setup, folder, first, own_corpus=own_corpus)
        self._setup, self._made = setup, made

    async def compare(self, name: str, llms: Clients, pair: Pair) -> Verdict:
        """Compare two descriptions of a neuron."""
        neuron, first, second = pair
        comparator = self._setup.comparators[name]
        one, two = self._description(neuron, first), self._description(neuron, second)
        usage = Usage()
        if missing := _missing(one, two):
            judged = Judgement(None, missing, status=Status.FAILED)
        elif one.text == two.text:
            judged = Judgement(Winner.TIE, "the two descriptions are the same")
        else:
            given, status, reason, usage = await attempt(
                llms,
                lambda metered: comparator.compare(self.case(comparator, metered, one, two), one.text, two.text),
            )
            judged = given if isinstance(given, Judgement) else Judgement(None, reason, status=status)
            if judged.winner is None and judged.status is Status.OK:
                judged = Judgement(None, judged.reason or "the comparator gave no verdict", status=Status.FAILED)
        return Verdict(
            *(neuron, name, first, second, comparator.symmetric),
            *(judged.winner, judged.status, judged.reason, usage),
            *(comparator.side, judged.preference, judged.mass, judged.votes),
        )

    async def score(self, name: str, llms: Clients, question: Question) -> Score:
        """Grade one description of a neuron."""
        neuron, describer = question
        scorer = self._setup.scorers[name]
        description = self._description(neuron, describer)
        if missing := _missing(description):
            return Score(neuron, name, describer, None, Status.FAILED, missing)
        grade, status, detail, usage = await attempt(
            llms,
            lambda metered: scorer.score(self.case(scorer, metered, description), description.text),
        )
        if grade is not None and not math.isfinite(grade.value):
            status, detail, grade = Status.FAILED, f"the score is {grade.value}", None
        if grade is None:
            return Score(neuron, name, describer, None, status, detail, usage=usage)
        metrics = {metric: round(value, 6) for metric, value in grade.metrics.items() if math.isfinite(value)}
        return Score(neuron, name, describer, round(grade.value, 6), status, metrics=metrics, usage=usage)

    def _description(self, neuron: Neuron, describer: str) -> Description:
        if (neuron, describer) not in self._made:  # of an interrupted run, if only cached answers are read
            raise NotCached
        return self._made[neuron, describer]


def _missing(*descriptions: Description) -> str:
    """Return why descriptions cannot be judged; empty if all can be."""
    bad = [item for item in descriptions if item.status is not Status.OK]
    return "; ".join(f"no description by {item.describer}: {item.status} ({item.detail})" for item in bad)
