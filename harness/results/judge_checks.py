"""Accuracy and biases of judges, measured on descriptions of known quality.

Contestants of known quality are described and judged like all others; the manifest states their quality. All metrics
are rounded to six decimals; a metric without observations is None.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.records import Corruption, Description, Neuron, Score, Side, Status, Verdict, Winner
from harness.results.comparisons import Comparison, merge_verdicts
from harness.results.rounding import mean, rounded, rounded_interval
from harness.results.scores import value_of
from harness.stats.bootstrap import Interval, clustered_interval
from harness.stats.config import StatisticsConfig
from harness.text import word_count

Observations = Sequence[tuple[Neuron, float]]
"""Values with the neuron (without sign) that each belongs to."""

LENGTH_RATIO = 1.5
"""Two equally good descriptions count as different in length if their word counts differ by at least this factor."""


@dataclass(frozen=True)
class KnownPair:
    """How one judge decided between two contestants of known quality.

    Attributes:
        judge: its name; ``panel/member`` for a member of a panel.
        better: the contestant of higher quality; if both are equal, the less corrupted one, then by name.
        worse: the other one.
        grade: the kind of corruption of the worse one.
        strength: the strength of that corruption.
        ordered: whether the qualities differ. If not, ``accuracy`` is the win rate of ``better``, and 1/2 is unbiased.
        comparisons: number of decided comparisons; the two orders of a pair are one comparison.
        failed: comparisons without a usable verdict.
        right: comparisons that the better one won.
        ties: ties, including pairs whose two orders disagree.
        wrong: comparisons that the worse one won.
        accuracy: win rate of the better one, ties as half.
        interval: its bootstrap interval, clustered by neuron.
        brier: Brier score, the mean of (1 - p)^2 with p the probability that the judge gave to the better one: its soft
            preference averaged over the orders if every order has one, otherwise 0, 1/2 or 1. 0 is perfect, 1/4 is
            an uninformed judge. None for pairs of equal quality.
        soft: number of comparisons with a soft preference.
    """

    judge: str
    better: str
    worse: str
    grade: str
    strength: float
    ordered: bool
    comparisons: int
    failed: int
    right: int
    ties: int
    wrong: int
    accuracy: float | None
    interval: Interval | None
    brier: float | None
    soft: int


@dataclass(frozen=True)
class JudgeCheck:
    """Accuracy and biases of one judge; :data:`harness.results.columns.CHECKS` defines the metrics.

    Intervals are bootstrap intervals, clustered by neuron.

    Attributes:
        judge: its name; ``panel/member`` for a member of a panel.
        kind: ``comparator`` or ``scorer``. A scorer counts as preferring the description with the higher score.
        side: the side of the neuron that a comparator sees; None if its records do not agree on one.
        length_effect: win rate of the longer of two right descriptions that differ in length, minus 1/2.
        length_comparisons: number of comparisons behind it.
        self_preference: win rate of descriptions written by the judge's own model, minus the win rate that judges with
            other models give them on the same pairs (minus 1/2 if both descriptions are known to be equally good).
        self_comparisons: number of comparisons behind it.
        retests: number of usable second answers.
        retests_failed: number of second answers that are not usable.
        preferences: number of verdicts with a soft preference.
        mass: mean probability that the judge's model puts on the possible verdicts together; None if unknown.
        pairs: one entry for each pair of contestants of known quality.
    """

    judge: str
    kind: str
    side: Side | None
    comparisons: int
    failed: int
    accuracy: float | None
    interval: Interval | None
    brier: float | None
    consistency: float | None
    first_position_rate: float | None
    length_effect: float | None
    length_interval: Interval | None
    length_comparisons: int
    self_preference: float | None
    self_interval: Interval | None
    self_comparisons: int
    retest: float | None
    retests: int
    retests_failed: int
    preferences: int
    mass: float | None
    pairs: tuple[KnownPair, ...]


def judge_checks(
    verdicts: Iterable[Verdict],
    scores: Iterable[Score],
    descriptions: Iterable[Description],
    known: Mapping[str, Corruption],
    *,
    seed: int,
    retests: Iterable[Verdict] = (),
    score_retests: Iterable[Score] = (),
    models: Mapping[str, Sequence[str]] | None = None,
    config: StatisticsConfig | None = None,
) -> tuple[JudgeCheck, ...]:
    """Measure each judge, from records in any order.

    *Assumptions.* The qualities are correct. For planted subjects they are. Descriptions corrupted by rule are worse
    only if their source was right, so a judge that does not prefer the source may be correct about it. Accuracy is a
    mean over the corruptions of the run: compare judges within one run, and read the pairs for details.

    *Degenerate cases.* Without contestants of known quality, accuracy and the metrics derived from it are None;
    position bias, consistency and retest use all verdicts. Failed comparisons are counted and not part of any other
    metric. Comparisons of two identical texts are left out, because no judge was asked about them.

    Args:
        verdicts: verdicts of all comparators. Votes of a panel's members are measured as judges of their own.
        scores: scores of all scorers.
        descriptions: their texts give lengths and show which descriptions are identical.
        known: the contestants of known quality. The least corrupted of the highest quality are the *right* ones, on
            which accuracy is measured.
        seed: the run's seed, for the intervals.
        retests: verdicts asked again with another seed.
        score_retests: scores asked again with another seed.
        models: names of the models that each contestant and judge uses, for self-preference; ``panel/member`` for a
            panel's members.
        config: bootstrap samples and coverage of the intervals; None for the defaults.

    Raises:
        ValueError: if two records answer the same question.
    """
    texts = {(item.neuron, item.describer): item.text for item in descriptions if item.status is Status.OK}

    def identical(neuron: Neuron, one: str, two: str) -> bool:
        return (neuron, one) in texts and texts[neuron, one] == texts.get((neuron, two))

    said, said_again = (
        [item for item in _with_members(records) if not identical(item.neuron, item.first, item.second)]
        for records in (verdicts, retests)
    )
    scored, scored_again = list(scores), list(score_retests)
    soft, words = _soft_preferences(said), {key: word_count(text) for key, text in texts.items()}
    measure = _Measure(known, soft, words, seed, config or StatisticsConfig())
    compared = merge_verdicts(said)
    checks = []
    for judge in sorted({item.judge for item in compared}):
        own = [item for item in said if item.judge == judge]
        again = [item for item in said_again if item.judge == judge]
        failed = sum(item.winner is None for item in again)
        excess = _self_preference(judge, compared, known, models or {})
        comparisons = [item for item in compared if item.judge == judge]
        checks.append(measure.check(judge, "comparator", comparisons, own, _agreement(own, again), failed, excess))
    # A scorer that was asked again has a retest metric even without contestants of known quality.
    names = {item.scorer for item in scored if item.describer in known} | {item.scorer for item in scored_again}
    for scorer in sorted(names):
        first, second = ([item for item in part if item.scorer == scorer] for part in (scored, scored_again))
        comparisons = [
            item
            for item in _score_comparisons(first, scorer, known)
            if not identical(item.neuron, item.left, item.right)
        ]
        failed = sum(item.value is None for item in second)
        if comparisons or second:
            checks.append(measure.check(scorer, "scorer", comparisons, [], _correlation(first, second), failed, []))
    return tuple(checks)


def _with_members(verdicts: Iterable[Verdict]) -> Iterator[Verdict]:
    """Yield the verdicts, each followed by the votes of its panel's members as verdicts of judges ``panel/member``."""
    for verdict in verdicts:
        yield verdict
        for vote in verdict.votes:
            shared = {name: getattr(verdict, name) for name in ("neuron", "first", "second", "symmetric")}
            yield Verdict(**shared, **{**vars(vote), "judge": f"{verdict.judge}/{vote.judge}"})


@dataclass(frozen=True)
class _Measure:
    """Measures judges on contestants of known quality.

    Attributes:
        known: the contestants of known quality.
        soft: soft preference for the left describer, by neuron, judge, left and right.
        words: length of each description in words, by neuron and describer.
        seed: the run's seed.
        config: bootstrap samples and coverage.
    """

    known: Mapping[str, Corruption]
    soft: Mapping[tuple[Neuron, str, str, str], float]
    words: Mapping[tuple[Neuron, str], int]
    seed: int
    config: StatisticsConfig

    @cached_property
    def best(self) -> float:
        return max((item.quality for item in self.known.values()), default=math.inf)

    @cached_property
    def right(self) -> set[str]:
        """The least corrupted contestants of the highest quality."""
        best = {name: item.strength for name, item in self.known.items() if item.quality == self.best}
        return {name for name, strength in best.items() if strength == min(best.values())}

    def check(
        self,
        judge: str,
        kind: str,
        comparisons: Sequence[Comparison],
        verdicts: Sequence[Verdict],
        retest: tuple[float | None, int],
        retests_failed: int,
        self_preference: Observations,
    ) -> JudgeCheck:
        pairs: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
        for item in comparisons:
            if item.left in self.known and item.right in self.known:
                pairs[self._better_first(item.left, item.right)].append(item)
        tested = 0
        decided: list[tuple[Neuron, float]] = []
        errors: list[float] = []
        longer: list[tuple[Neuron, float]] = []
        for (better, worse), items in pairs.items():
            quality = self.known[better].quality
            equal = quality == self.known[worse].quality
            for item in items:
                if not equal and self.right & {better, worse}:
                    tested += 1
                    if item.points is not None:
                        decided.append((item.neuron.unsigned, _points_of(item, better)))
                        errors.append((1 - self._probability(item, better)) ** 2)
                elif equal and quality == self.best and item.points is not None and (name := self._longer(item)):
                    longer.append((item.neuron.unsigned, _points_of(item, name) - 0.5))
        consistent = [not item.inconsistent for item in comparisons if item.both_orders and item.points is not None]
        ok = [item for item in verdicts if item.status is Status.OK and item.winner is not None]
        firsts = [item.winner is Winner.FIRST for item in ok if not item.symmetric and item.winner is not Winner.TIE]
        sides = {item.side for item in verdicts}
        return JudgeCheck(
            judge=judge,
            kind=kind,
            side=sides.pop() if len(sides) == 1 else None,
            comparisons=len(decided),
            failed=tested - len(decided),
            **self._estimate(decided, "accuracy", "interval"),
            brier=mean(errors),
            consistency=mean(consistent),
            first_position_rate=mean(firsts),
            **self._estimate(longer, "length_effect", "length_interval"),
            length_comparisons=len(longer),
            **self._estimate(self_preference, "self_preference", "self_interval"),
            self_comparisons=len(self_preference),
            retest=retest[0],
            retests=retest[1],
            retests_failed=retests_failed,
            preferences=sum(item.preference is not None for item in ok),
            mass=mean([item.mass for item in ok if item.mass is not None]),
            pairs=tuple(
                self._pair(judge, better, worse, items)
                for (better, worse), items in sorted(pairs.items(), key=lambda pair: sorted(pair[0]))
            ),
        )

    def _pair(self, judge: str, better: str, worse: str, comparisons: Sequence[Comparison]) -> KnownPair:
        ordered = self.known[better].quality != self.known[worse].quality
        decided = [item for item in comparisons if item.points is not None]
        points = [_points_of(item, better) for item in decided]
        neurons = [item.neuron.unsigned for item in decided]
        return KnownPair(
            judge=judge,
            better=better,
            worse=worse,
            grade=self.known[worse].grade,
            strength=self.known[worse].strength,
            ordered=ordered,
            comparisons=len(decided),
            failed=len(comparisons) - len(decided),
            right=points.count(1.0),
            ties=points.count(0.5),
            wrong=points.count(0.0),
            **self._estimate(list(zip(neurons, points, strict=True)), "accuracy", "interval"),
            brier=mean([(1 - self._probability(item, better)) ** 2 for item in decided]) if ordered else None,
            soft=sum((item.neuron, item.judge, item.left, item.right) in self.soft for item in decided),
        )

    def _better_first(self, left: str, right: str) -> tuple[str, str]:
        order = {name: (-self.known[name].quality, self.known[name].strength, name) for name in (left, right)}
        return (left, right) if order[left] < order[right] else (right, left)

    def _probability(self, comparison: Comparison, describer: str) -> float:
        """Return the judge's probability that a describer is better: its soft preference, otherwise its points."""
        soft = self.soft.get((comparison.neuron, comparison.judge, comparison.left, comparison.right))
        if soft is None:
            return _points_of(comparison, describer)
        return soft if comparison.left == describer else 1.0 - soft

    def _longer(self, comparison: Comparison) -> str | None:
        """Return the describer of the longer text; None if the lengths are similar."""
        left, right = (self.words.get((comparison.neuron, name), 0) for name in (comparison.left, comparison.right))
        if not left or not right or max(left, right) < LENGTH_RATIO * min(left, right):
            return None
        return comparison.left if left > right else comparison.right

    def _estimate(self, observations: Observations, name: str, interval: str) -> dict[str, Any]:
        """Return the mean and its interval under their names."""
        ordered = sorted(observations)
        neurons, values = [neuron for neuron, _ in ordered], [value for _, value in ordered]
        draws, confidence = self.config.draws, self.config.confidence
        bounds = clustered_interval(values, neurons, seed=self.seed, draws=draws, confidence=confidence)
        return {name: mean(values), interval: rounded_interval(bounds)}


def _points_of(comparison: Comparison, describer: str) -> float:
    """Return the points of one of the two describers in a decided comparison."""
    assert comparison.points is not None
    return comparison.points if comparison.left == describer else 1.0 - comparison.points


def _soft_preferences(verdicts: Iterable[Verdict]) -> dict[tuple[Neuron, str, str, str], float]:
    """Return the mean soft preference for the describer whose name sorts first, if every order has one."""
    groups: dict[tuple[Neuron, str, str, str], list[float | None]] = defaultdict(list)
    for item in verdicts:
        left, right = sorted((item.first, item.second))
        preference = item.preference
        if preference is not None and item.first != left:
            preference = 1.0 - preference
        groups[item.neuron, item.judge, left, right].append(preference)
    return {
        key: math.fsum(value for value in values if value is not None) / len(values)
        for key, values in groups.items()
        if None not in values
    }


def _score_comparisons(scores: Sequence[Score], scorer: str, known: Mapping[str, Corruption]) -> list[Comparison]:
    """Return one scorer's scores of contestants of known quality as comparisons; the higher score wins."""
    by_neuron: dict[Neuron, dict[str, Score]] = defaultdict(dict)
    for item in scores:
        if item.describer in known:
            if item.describer in by_neuron[item.neuron]:
                raise ValueError(f"two scores of {scorer} on {item.neuron} by {item.describer}; keep the last one")
            by_neuron[item.neuron][item.describer] = item
    found = []
    for neuron, own in sorted(by_neuron.items()):
        for left, right in itertools.combinations(sorted(own), 2):
            one, two = value_of(own[left]), value_of(own[right])
            points = None if one is None or two is None else 0.5 if one == two else float(one > two)
            failures = tuple(
                str(Status.FAILED if item.status is Status.OK else item.status)
                for item in (own[left], own[right])
                if value_of(item) is None
            )
            found.append(Comparison(neuron, scorer, left, right, points, False, False, failures))
    return found


def _agreement(verdicts: Sequence[Verdict], again: Sequence[Verdict]) -> tuple[float | None, int]:
    """Return the fraction of equal verdicts among those with two usable answers, and their number."""
    first = {(item.neuron, item.first, item.second): item.winner for item in verdicts if item.winner is not None}
    same = [
        first[key] is item.winner
        for item in again
        if item.winner is not None and (key := (item.neuron, item.first, item.second)) in first
    ]
    return mean(same), len(same)


def _correlation(scores: Sequence[Score], again: Sequence[Score]) -> tuple[float | None, int]:
    """Return Pearson's correlation of items with two usable scores (None if one is constant), and their number."""
    first, second = (
        {(item.neuron, item.describer): value for item in part if (value := value_of(item)) is not None}
        for part in (scores, again)
    )
    both = np.array([(first[key], value) for key, value in second.items() if key in first]).reshape(-1, 2)
    if len(both) < 2 or not np.ptp(both, axis=0).all():
        return None, len(both)
    return rounded(np.corrcoef(both.T)[0, 1]), len(both)


def _self_preference(
    judge: str,
    comparisons: Sequence[Comparison],
    known: Mapping[str, Corruption],
    models: Mapping[str, Sequence[str]],
) -> list[tuple[Neuron, float]]:
    """Return by how much a judge prefers what its own model wrote, for each comparison with one such description.

    The reference is 1/2 for descriptions of equal known quality, otherwise the mean points from judges that share no
    model with this one; without either the comparison is left out.
    """
    own_models = set(models.get(judge, ()))
    if not own_models:
        return []
    others: dict[tuple[Neuron, str, str], list[float]] = defaultdict(list)
    for item in comparisons:
        # A panel and its members are not independent of each other.
        related = f"{item.judge}/".startswith(f"{judge}/") or judge.startswith(f"{item.judge}/")
        if item.points is not None and not related and not own_models & set(models.get(item.judge, ())):
            others[item.neuron, item.left, item.right].append(item.points)
    excess = []
    for item in comparisons:
        own = [name for name in (item.left, item.right) if own_models & set(models.get(name, ()))]
        if item.judge != judge or item.points is None or len(own) != 1:
            continue
        reference = 0.5
        if not {item.left, item.right} <= set(known) or known[item.left].quality != known[item.right].quality:
            points = others[item.neuron, item.left, item.right]
            if not points:
                continue
            average = math.fsum(points) / len(points)
            reference = average if item.left == own[0] else 1 - average
        excess.append((item.neuron.unsigned, _points_of(item, own[0]) - reference))
    return excess
