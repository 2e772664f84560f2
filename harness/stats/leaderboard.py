"""The leaderboard: who was preferred how often, how surely, and what failed on the way.

It is a pure function of the records: independent of their order, with every random draw seeded. Figures are rounded to
six decimals; a figure that has no observations is none, never NaN and never zero.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import Description, Neuron, Score, Status, Usage, Verdict
from harness.stats.boards import Board, Cell, DescriptionRow, JudgeHealth, Leaderboard, Row, ScoreRow
from harness.stats.bootstrap import Interval, clustered_intervals
from harness.stats.comparisons import Comparison, effective_status, merge_verdicts


def build_leaderboard(
    verdicts: Iterable[Verdict],
    scores: Iterable[Score],
    descriptions: Iterable[Description],
    *,
    controls: Collection[str],
    seed: int,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Leaderboard:
    """Compute every statistic of a run from its records, in any order.

    A record that claims to be ok but carries no verdict, or no finite value, counts as failed.

    Args:
        verdicts: the comparators' verdicts, one per question.
        scores: the scorers' grades, one per question.
        descriptions: the describers' descriptions, one per question.
        controls: names of the describers that are controls.
        seed: the run's seed, for the bootstrap.
        draws: number of bootstrap samples.
        confidence: nominal coverage of the intervals, strictly between 0 and 1.

    Raises:
        ValueError: if two records answer the same question, or ``draws`` or ``confidence`` is out of range.
    """
    ordered_verdicts = sorted(verdicts, key=lambda item: (item.neuron, item.judge, item.first, item.second))
    ordered_scores = _sorted_unique(scores, lambda item: (item.neuron, item.scorer, item.describer), "scores")
    ordered_descriptions = _sorted_unique(descriptions, lambda item: (item.neuron, item.describer), "descriptions")
    bootstrap = _Bootstrap(seed, draws, confidence)
    comparisons = merge_verdicts(ordered_verdicts)
    names = sorted(
        {item.describer for item in ordered_descriptions}
        | {item.describer for item in ordered_scores}
        | {name for item in comparisons for name in (item.left, item.right)}
    )
    written = [
        _description_row(name, name in controls, [item for item in ordered_descriptions if item.describer == name])
        for name in names
    ]
    words = {row.describer: row.mean_words for row in written}
    judges = sorted({item.judge for item in comparisons})
    by_judge = {judge: [item for item in comparisons if item.judge == judge] for judge in judges}
    return Leaderboard(
        seed=seed,
        draws=draws,
        confidence=confidence,
        neurons=len({item.neuron.whole for item in comparisons}),
        overall=_board(None, comparisons, names, words, controls, bootstrap),
        judges=tuple(_board(judge, by_judge[judge], names, words, controls, bootstrap) for judge in judges),
        health=tuple(
            _health(judge, by_judge[judge], [item for item in ordered_verdicts if item.judge == judge])
            for judge in judges
        ),
        scores=_score_rows(ordered_scores, controls, bootstrap),
        descriptions=tuple(written),
    )


@dataclass(frozen=True)
class _Bootstrap:
    """The settings of every interval on one leaderboard."""

    seed: int
    draws: int
    confidence: float

    def intervals(self, columns: Sequence[Mapping[Neuron, tuple[float, int]]]) -> list[Interval | None]:
        """Return the interval of each column, which holds the total and the count of its neurons."""
        neurons = sorted({neuron for column in columns for neuron in column})
        shape = (len(neurons), len(columns))
        sums = np.array([[column.get(n, (0.0, 0)) for column in columns] for n in neurons]).reshape(*shape, 2)
        found = clustered_intervals(
            sums[..., 0], sums[..., 1], seed=self.seed, draws=self.draws, confidence=self.confidence
        )
        return [None if item is None else (round(item[0], 6), round(item[1], 6)) for item in found]


def _sorted_unique(records: Iterable[Any], identity: Callable[[Any], tuple[object, ...]], name: str) -> list[Any]:
    ordered = sorted(records, key=identity)
    for one, following in itertools.pairwise(ordered):
        if identity(one) == identity(following):
            asked = ", ".join(map(str, identity(one)))
            raise ValueError(f"two {name} answer the same question ({asked}); keep the last one")
    return ordered


def _board(
    judge: str | None,
    comparisons: Sequence[Comparison],
    names: Sequence[str],
    words: Mapping[str, float | None],
    controls: Collection[str],
    bootstrap: _Bootstrap,
) -> Board:
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in comparisons:
        pairs.setdefault((item.left, item.right), []).append(item)
        pairs.setdefault((item.right, item.left), []).append(item)
    cells = tuple(_cell(row, column, items) for (row, column), items in sorted(pairs.items()))
    own = {name: [item for item in comparisons if name in (item.left, item.right)] for name in names}
    clusters = [_per_neuron((item.neuron.whole, _points(item, name)) for item in own[name]) for name in names]
    rows = [
        _row(name, name in controls, own[name], interval, words[name])
        for name, interval in zip(names, bootstrap.intervals(clusters), strict=True)
    ]
    rows.sort(key=lambda row: (row.win_rate is None, -(row.win_rate or 0.0), row.describer))
    return Board(judge, tuple(rows), cells)


def _row(
    name: str, control: bool, comparisons: Sequence[Comparison], interval: Interval | None, words: float | None
) -> Row:
    points = [_points(item, name) for item in comparisons]
    decided = [value for value in points if value is not None]
    return Row(
        describer=name,
        control=control,
        win_rate=_mean(decided),
        interval=interval,
        comparisons=len(decided),
        wins=decided.count(1.0),
        losses=decided.count(0.0),
        ties=decided.count(0.5),
        inconsistent=sum(item.inconsistent for item in comparisons),
        failed=points.count(None),
        mean_words=words,
    )


def _cell(row: str, column: str, comparisons: Sequence[Comparison]) -> Cell:
    points = [_points(item, row) for item in comparisons]
    decided = [value for value in points if value is not None]
    failures = Counter(status for item in comparisons for status in item.failures)
    return Cell(
        row,
        column,
        _mean(decided),
        len(decided),
        decided.count(0.5),
        points.count(None),
        dict(sorted(failures.items())),
    )


def _health(judge: str, comparisons: Sequence[Comparison], verdicts: Sequence[Verdict]) -> JudgeHealth:
    decided = [item for item in comparisons if item.points is not None]
    asked_twice = [item.inconsistent for item in decided if item.both_orders]
    firsts = [
        item.winner == "first"
        for item in verdicts
        if not item.symmetric and item.status is Status.OK and item.winner in ("first", "second")
    ]
    return JudgeHealth(
        judge=judge,
        comparisons=len(decided),
        ties=sum(item.points == 0.5 for item in decided),
        failed=len(comparisons) - len(decided),
        inconsistent=sum(asked_twice),
        inconsistency=_mean(asked_twice),
        first_position_rate=_mean(firsts),
        statuses=_statuses(effective_status(item) for item in verdicts),
        usage=_total([item.usage for item in verdicts]),
    )


def _score_rows(scores: Sequence[Score], controls: Collection[str], bootstrap: _Bootstrap) -> tuple[ScoreRow, ...]:
    groups: dict[tuple[str, str], list[Score]] = {}
    for item in scores:
        groups.setdefault((item.scorer, item.describer), []).append(item)
    clusters = [_per_neuron((item.neuron.whole, _value(item)) for item in items) for items in groups.values()]
    rows = []
    for ((scorer, describer), items), interval in zip(groups.items(), bootstrap.intervals(clusters), strict=True):
        values = [value for value in map(_value, items) if value is not None]
        statuses = _statuses(
            Status.FAILED if item.status is Status.OK and _value(item) is None else item.status for item in items
        )
        usage = _total([item.usage for item in items])
        control = describer in controls
        rows.append(ScoreRow(scorer, describer, control, _mean(values), interval, len(values), statuses, usage))
    rows.sort(key=lambda row: (row.scorer, row.mean is None, -(row.mean or 0.0), row.describer))
    return tuple(rows)


def _description_row(name: str, control: bool, descriptions: Sequence[Description]) -> DescriptionRow:
    return DescriptionRow(
        describer=name,
        control=control,
        mean_words=_mean([len(item.text.split()) for item in descriptions if item.status is Status.OK]),
        statuses=_statuses(item.status for item in descriptions),
        usage=_total([item.usage for item in descriptions]),
    )


def _points(comparison: Comparison, describer: str) -> float | None:
    if comparison.points is None or comparison.left == describer:
        return comparison.points
    return 1.0 - comparison.points


def _value(score: Score) -> float | None:
    usable = score.status is Status.OK and score.value is not None and math.isfinite(score.value)
    return score.value if usable else None


def _per_neuron(observations: Iterable[tuple[Neuron, float | None]]) -> dict[Neuron, tuple[float, int]]:
    """Return the total and the count of the observations of each neuron, failures left out."""
    sums: dict[Neuron, tuple[float, int]] = {}
    for neuron, value in observations:
        if value is not None:
            total, count = sums.get(neuron, (0.0, 0))
            sums[neuron] = total + value, count + 1
    return sums


def _mean(values: Sequence[float]) -> float | None:
    return round(math.fsum(values) / len(values), 6) if values else None


def _statuses(statuses: Iterable[Status]) -> dict[str, int]:
    counts = Counter(statuses)
    return {str(status): counts[status] for status in Status}


def _total(usages: Sequence[Usage]) -> Usage:
    """Sum what was asked and answered; not the seconds, so that equal answers make an equal leaderboard."""
    return Usage(
        calls=sum(item.calls for item in usages),
        prompt_tokens=sum(item.prompt_tokens for item in usages),
        completion_tokens=sum(item.completion_tokens for item in usages),
    )
