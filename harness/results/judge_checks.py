"""What judges are worth, where it is known which of two descriptions is better.

A pure function of ordinary records: contestants of known quality are described and judged like all others, and what
their quality is stands in the manifest. Figures are rounded to six decimals; one that has no observations is none.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness.records import Corruption, Description, Neuron, Score, Side, Status, Verdict, Vote, Winner
from harness.results.comparisons import Comparison, merge_verdicts
from harness.results.scores import value_of
from harness.stats.bootstrap import Interval, clustered_interval
from harness.stats.config import StatisticsConfig

Pair = tuple[str, str]
IntervalOf = Callable[[Sequence[tuple[Neuron, float]]], Interval | None]
ANOTHER_LENGTH = 1.5
"""Two equally good descriptions differ in length if one has this many times the words of the other."""


@dataclass(frozen=True)
class KnownPair:
    """How one judge decided between contestants of known quality.

    Attributes:
        judge: its name; a panel's member stands as ``panel/member``.
        better: the contestant of higher quality; of two equal ones, that whose name sorts first.
        worse: the other one.
        grade: what was done to the worse one.
        strength: how much.
        ordered: whether one is better; if not, ``accuracy`` is the rate of ``better`` and 1/2 is right.
        comparisons: decided comparisons, both orders together.
        failed: comparisons without a usable verdict.
        right: decided for the better one.
        ties: ties, among them those from two orders that disagree.
        wrong: decided for the worse one.
        accuracy: share decided for the better one, ties as half.
        interval: its bootstrap interval, clustered by neuron.
        brier: mean of (1 - p)^2, p the probability given to the better one: the judge's soft preference, averaged over
            the orders, where every order has one, else 0, 1/2 or 1. 0 is perfect, 1/4 knows nothing and says so, 1 is
            sure of the opposite. None for pairs of equal quality.
        soft: how many of the comparisons have a soft preference.
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
    """What one judge is worth where the truth is known.

    Attributes:
        judge: its name; a panel's member stands as ``panel/member``.
        kind: ``comparator`` or ``scorer`` (which prefers the description with the higher score).
        side: which side of the neuron a comparator is shown; none if its records do not say.
        comparisons: decided comparisons of a right description with a worse one.
        failed: such comparisons without a usable verdict.
        accuracy: share decided for the right one, ties as half.
        interval: its bootstrap interval, clustered by neuron.
        brier: as in :class:`KnownPair`, over the same comparisons.
        consistency: share of the comparisons asked in both orders whose orders agree; none if it was asked in one.
        first_position_rate: share of verdicts with a winner that the first one won; 1/2 is no preference for a place.
        length_effect: of two right descriptions, one at least half as long again as the other: the rate of the longer
            one, minus 1/2. 0 is no effect, 1/2 always prefers the longer.
        length_interval: its bootstrap interval, clustered by neuron.
        length_comparisons: how many comparisons that is.
        self_preference: how much oftener the judge prefers what its own model wrote than is right: the rate of its own
            less that of judges of other models on the same pairs, or less 1/2 where both are known to be equally good.
        self_interval: its bootstrap interval, clustered by neuron.
        self_comparisons: how many comparisons that is.
        retest: comparators: share of verdicts, asked for again with another seed, that are the same again; scorers:
            Pearson's correlation of the first and the second scores.
        retests: how many were asked for again and answered.
        retests_failed: how many were asked for again and have no usable second answer.
        preferences: verdicts with a soft preference.
        mass: mean probability that the judge put on the verdicts at all; none if it was never asked.
        pairs: one for each pair of contestants of known quality.
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
    """Compute what each judge is worth, from records in any order.

    *Assumptions.* The qualities are right: of a planted subject they are, of descriptions corrupted by rule only in so
    far as the source was right, and a judge that finds a corrupted description no worse may be right about the source.
    Accuracy is the mean over whatever corruptions are in the run: compare judges by it inside one run only, and read
    the pairs for what a judge can and cannot tell.

    *Degenerate cases.* No contestant of known quality: accuracy and what hangs on it are none, position, consistency
    and retest are those of all verdicts. Failed comparisons are counted, and part of no figure. Two descriptions of the
    same text (a corruption may leave a short one as it was) are left out: there is nothing to tell, and no judge was
    asked.

    Args:
        verdicts: of all comparators; the votes of panels count as judges of their own.
        scores: of all scorers.
        descriptions: for their texts' lengths, and for which are the same.
        known: the contestants of known quality. Of those of the highest quality, the ones to which least was done are
            the right ones, on which accuracy is measured: all judges on the same pairs, if all were asked them.
        seed: the run's seed, for the intervals.
        retests: verdicts given again.
        score_retests: scores given again.
        models: names of the models that each contestant and each judge asks, for self-preference; a panel's member is
            looked up as ``panel/member``.
        config: how many samples the intervals are of, and their coverage; none for the defaults.

    Raises:
        ValueError: if two records answer the same question.
    """
    interval_of = partial(_interval, seed=seed, config=config or StatisticsConfig())
    texts = {(item.neuron, item.describer): item.text for item in descriptions if item.status is Status.OK}
    words = {key: len(text.split()) for key, text in texts.items()}

    def alike(neuron: Neuron, one: str, two: str) -> bool:
        return (neuron, one) in texts and texts[neuron, one] == texts.get((neuron, two))

    said, again = (
        [item for item in with_members(records) if not alike(item.neuron, item.first, item.second)]
        for records in (verdicts, retests)
    )
    graded, regraded = list(scores), list(score_retests)
    judged = merge_verdicts(said)
    scored = [
        item
        for scorer in sorted({item.scorer for item in graded})
        for item in _compared(graded, scorer, known)
        if not alike(item.neuron, item.left, item.right)
    ]
    soft = _soft(said)
    own = _self_preferences(judged, known, models or {}, interval_of)
    checks = []
    # A scorer that was asked again has something to say without a contestant of known quality.
    asked_again = {item.scorer for item in regraded}
    lost = [("comparator", item.judge) for item in again if item.winner is None]
    lost += [("scorer", item.scorer) for item in regraded if item.value is None]
    for kind, comparisons, others in (("comparator", judged, set[str]()), ("scorer", scored, asked_again)):
        for judge in sorted({item.judge for item in comparisons} | others):
            mine = [item for item in comparisons if item.judge == judge]
            records = [item for item in said if item.judge == judge]
            retest, count = (
                _agreement(records, [item for item in again if item.judge == judge])
                if kind == "comparator"
                else _correlation(
                    [item for item in graded if item.scorer == judge],
                    [item for item in regraded if item.scorer == judge],
                )
            )
            check = _check(judge, kind, mine, records, known, soft, words, interval_of)
            rate, interval, asked = own.get((kind, judge), (None, None, 0))
            checks.append(
                replace(
                    check,
                    self_preference=rate,
                    self_interval=interval,
                    self_comparisons=asked,
                    retest=retest,
                    retests=count,
                    retests_failed=lost.count((kind, judge)),
                )
            )
    return tuple(checks)


def with_members(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts and, behind each panel's, the votes of its members as verdicts of judges ``panel/member``."""
    found = []
    for verdict in verdicts:
        found.append(verdict)
        found += [member_verdict(verdict, vote) for vote in verdict.votes]
    return found


def member_verdict(verdict: Verdict, vote: Vote) -> Verdict:
    """Return a member's vote as a verdict of its own; what it cost is told with the panel's."""
    return Verdict(
        neuron=verdict.neuron,
        judge=f"{verdict.judge}/{vote.judge}",
        first=verdict.first,
        second=verdict.second,
        symmetric=verdict.symmetric,
        winner=vote.winner,
        status=vote.status,
        reason=vote.reason,
        preference=vote.preference,
        mass=vote.mass,
    )


def _check(
    judge: str,
    kind: str,
    comparisons: Sequence[Comparison],
    verdicts: Sequence[Verdict],
    known: Mapping[str, Corruption],
    soft: Mapping[tuple[Neuron, str, str, str], float],
    words: Mapping[tuple[Neuron, str], int],
    interval_of: IntervalOf,
) -> JudgeCheck:
    best = max((item.quality for item in known.values()), default=math.inf)
    least = min((item.strength for item in known.values() if item.quality == best), default=math.inf)
    right = {name for name, item in known.items() if (item.quality, item.strength) == (best, least)}
    groups: dict[Pair, list[Comparison]] = defaultdict(list)
    for item in comparisons:
        if item.left in known and item.right in known:
            groups[item.left, item.right].append(item)
    pairs = tuple(_pair(judge, pair, items, known, soft, interval_of) for pair, items in sorted(groups.items()))
    tested = [
        (item, *_ordered((item.left, item.right), known))
        for items in groups.values()
        for item in items
        if known[item.left].quality != known[item.right].quality and right & {item.left, item.right}
    ]
    decided = [
        (item.neuron.unsigned, points, _given(item, better, soft))
        for item, better, _ in tested
        if (points := _points(item, better)) is not None
    ]
    longer = [
        (item.neuron.unsigned, points)
        for items in groups.values()
        for item in items
        if known[item.left].quality == known[item.right].quality == best
        and (name := _longer(item, words)) is not None
        and (points := _points(item, name)) is not None
    ]
    twice = [item.inconsistent for item in comparisons if item.both_orders and item.points is not None]
    ok = [item for item in verdicts if item.status is Status.OK and item.winner is not None]
    firsts = [item.winner is Winner.FIRST for item in ok if not item.symmetric and item.winner is not Winner.TIE]
    sides = {item.side for item in verdicts}
    return JudgeCheck(
        judge=judge,
        kind=kind,
        side=sides.pop() if len(sides) == 1 else None,
        comparisons=len(decided),
        failed=len(tested) - len(decided),
        accuracy=_mean([points for _, points, _ in decided]),
        interval=interval_of([(neuron, points) for neuron, points, _ in decided]),
        brier=_mean([(1 - given) ** 2 for _, _, given in decided]),
        consistency=None if not twice else _mean([not value for value in twice]),
        first_position_rate=_mean(firsts),
        length_effect=_mean([points - 0.5 for _, points in longer]),
        length_interval=interval_of([(neuron, points - 0.5) for neuron, points in longer]),
        length_comparisons=len(longer),
        self_preference=None,
        self_interval=None,
        self_comparisons=0,
        retest=None,
        retests=0,
        retests_failed=0,
        preferences=sum(item.preference is not None for item in ok),
        mass=_mean([item.mass for item in ok if item.mass is not None]),
        pairs=pairs,
    )


def _pair(
    judge: str,
    pair: Pair,
    comparisons: Sequence[Comparison],
    known: Mapping[str, Corruption],
    soft: Mapping[tuple[Neuron, str, str, str], float],
    interval_of: IntervalOf,
) -> KnownPair:
    better, worse = _ordered(pair, known)
    ordered = known[better].quality != known[worse].quality
    decided = [(item, value) for item in comparisons if (value := _points(item, better)) is not None]
    points = [value for _, value in decided]
    return KnownPair(
        judge=judge,
        better=better,
        worse=worse,
        grade=known[worse].grade,
        strength=known[worse].strength,
        ordered=ordered,
        comparisons=len(decided),
        failed=len(comparisons) - len(decided),
        right=points.count(1.0),
        ties=points.count(0.5),
        wrong=points.count(0.0),
        accuracy=_mean(points),
        interval=interval_of([(item.neuron.unsigned, value) for item, value in decided]),
        brier=_mean([(1 - _given(item, better, soft)) ** 2 for item, _ in decided]) if ordered else None,
        soft=sum((item.neuron, item.judge, item.left, item.right) in soft for item, _ in decided),
    )


def _ordered(pair: Pair, known: Mapping[str, Corruption]) -> Pair:
    """Return the better one first; of two equal ones, that to which less was done, then by name."""
    first, second = sorted(pair, key=lambda name: (-known[name].quality, known[name].strength, name))
    return first, second


def _points(comparison: Comparison, describer: str) -> float | None:
    if comparison.points is None or comparison.left == describer:
        return comparison.points
    return 1.0 - comparison.points


def _given(comparison: Comparison, describer: str, soft: Mapping[tuple[Neuron, str, str, str], float]) -> float:
    """Return the probability that the judge gave a describer: its soft preference, or else its points."""
    left = soft.get((comparison.neuron, comparison.judge, comparison.left, comparison.right), comparison.points)
    assert left is not None
    return left if comparison.left == describer else 1.0 - left


def _soft(verdicts: Iterable[Verdict]) -> dict[tuple[Neuron, str, str, str], float]:
    """Return the soft preference for the describer whose name sorts first, where every order asked has one."""
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


def _longer(comparison: Comparison, words: Mapping[tuple[Neuron, str], int]) -> str | None:
    """Return which of two describers wrote a description of another length than the other, the longer one."""
    left = words.get((comparison.neuron, comparison.left))
    right = words.get((comparison.neuron, comparison.right))
    if not left or not right or max(left, right) < ANOTHER_LENGTH * min(left, right):
        return None
    return comparison.left if left > right else comparison.right


def _compared(scores: Sequence[Score], scorer: str, known: Mapping[str, Corruption]) -> list[Comparison]:
    """Return what a scorer's figures say of each pair of contestants of known quality, as comparisons."""
    by_neuron: dict[Neuron, dict[str, Score]] = defaultdict(dict)
    for item in scores:
        if item.scorer == scorer and item.describer in known:
            if item.describer in by_neuron[item.neuron]:
                raise ValueError(f"two scores of {scorer} on {item.neuron} by {item.describer}; keep the last one")
            by_neuron[item.neuron][item.describer] = item
    found = []
    for neuron, own in sorted(by_neuron.items()):
        for left, right in itertools.combinations(sorted(own), 2):
            one, two = own[left], own[right]
            bad = [
                str(Status.FAILED if item.status is Status.OK else item.status)
                for item in (one, two)
                if value_of(item) is None
            ]
            points = None if bad else _higher(value_of(one), value_of(two))
            found.append(Comparison(neuron, scorer, left, right, points, False, False, tuple(bad)))
    return found


def _higher(one: float | None, two: float | None) -> float:
    assert one is not None
    assert two is not None
    return 0.5 if one == two else float(one > two)


def _agreement(verdicts: Sequence[Verdict], again: Sequence[Verdict]) -> tuple[float | None, int]:
    first = {(item.neuron, item.first, item.second): item.winner for item in verdicts if item.winner is not None}
    same = [
        first[key] is item.winner
        for item in again
        if item.winner is not None and (key := (item.neuron, item.first, item.second)) in first
    ]
    return _mean(same), len(same)


def _correlation(scores: Sequence[Score], again: Sequence[Score]) -> tuple[float | None, int]:
    first = {(item.neuron, item.describer): value for item in scores if (value := value_of(item)) is not None}
    both = [
        (first[key], value)
        for item in again
        if (value := value_of(item)) is not None and (key := (item.neuron, item.describer)) in first
    ]
    one, two = (np.array(values) for values in zip(*both, strict=True)) if both else (np.array([]), np.array([]))
    if len(both) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return None, len(both)
    return round(float(np.corrcoef(one, two)[0, 1]), 6), len(both)


def _self_preferences(
    comparisons: Sequence[Comparison],
    known: Mapping[str, Corruption],
    models: Mapping[str, Sequence[str]],
    interval_of: IntervalOf,
) -> dict[tuple[str, str], tuple[float | None, Interval | None, int]]:
    """Return, for each comparator that shares a model with a contestant, by how much it prefers that contestant."""
    judges = sorted({item.judge for item in comparisons})
    points = {
        (item.neuron, item.judge, item.left, item.right): item.points for item in comparisons if item.points is not None
    }
    found = {}
    for judge in judges:
        mine = set(models.get(judge, ()))
        strangers = [other for other in judges if other != judge and not mine & set(models.get(other, ()))]
        # A panel's members are inside the panel: they are no judges beside it.
        strangers = [
            name for name in strangers if not name.startswith(f"{judge}/") and not judge.startswith(f"{name}/")
        ]
        excess = []
        for item in comparisons:
            own = [name for name in (item.left, item.right) if mine & set(models.get(name, ()))]
            if item.judge != judge or item.points is None or len(own) != 1:
                continue
            if item.left in known and item.right in known and known[item.left].quality == known[item.right].quality:
                reference = 0.5
            else:
                beside = [points.get((item.neuron, other, item.left, item.right)) for other in strangers]
                said = [value for value in beside if value is not None]
                if not said:
                    continue
                reference = math.fsum(said) / len(said)
                reference = reference if item.left == own[0] else 1 - reference
            given = _points(item, own[0])
            assert given is not None
            excess.append((item.neuron.unsigned, given - reference))
        if excess:
            found["comparator", judge] = (_mean([value for _, value in excess]), interval_of(excess), len(excess))
    return found


def _interval(observations: Sequence[tuple[Neuron, float]], *, seed: int, config: StatisticsConfig) -> Interval | None:
    ordered = sorted(observations)
    found = clustered_interval(
        [value for _, value in ordered],
        [cluster for cluster, _ in ordered],
        seed=seed,
        draws=config.draws,
        confidence=config.confidence,
    )
    return None if found is None else (round(found[0], 6), round(found[1], 6))


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None
