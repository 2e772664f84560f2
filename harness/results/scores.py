"""Scores: means, paired tests between describers, and agreement with the ranking by comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from harness.records import Score, Status
from harness.results.comparisons import ComparisonTable, Floats
from harness.results.rounding import count_statuses, mean, rounded, rounded_interval, total_usage
from harness.results.schema import Concordance, ScoreRow, ScoreTest
from harness.stats.bootstrap import clustered_intervals, percentiles, ratio
from harness.stats.concordance import kendall_tau
from harness.stats.config import StatisticsConfig
from harness.stats.permutation import holm, sign_flip_p_value, standardised_effect


@dataclass(frozen=True)
class Grades:
    """Scores by neuron, scorer and describer; S * K columns, scorer by scorer.

    Attributes:
        scorers: names of the scorers, sorted.
        describers: names of the describers, sorted.
        totals: sum of the ok scores, neurons x (S * K).
        counts: number of ok scores, neurons x (S * K).
        drawn_totals: ``totals`` in each bootstrap sample, draws x (S * K).
        drawn_counts: ``counts`` in each bootstrap sample, draws x (S * K).
    """

    scorers: tuple[str, ...]
    describers: tuple[str, ...]
    totals: Floats
    counts: Floats
    drawn_totals: Floats
    drawn_counts: Floats

    def columns(self, scorer: int) -> slice:
        """Return the columns of a scorer."""
        return slice(scorer * len(self.describers), (scorer + 1) * len(self.describers))


def value_of(score: Score) -> float | None:
    """Return the value of a score, or None if it is not ok or not finite."""
    usable = score.status is Status.OK and score.value is not None and math.isfinite(score.value)
    return score.value if usable else None


def polysemanticity_of(score: Score) -> float | None:
    """Return the polysemanticity of a usable score, or None if the score is not usable or has none."""
    return None if value_of(score) is None else score.metrics.get("polysemanticity")


def score_rows(
    scores: Sequence[Score], grades: Grades, shares: Grades, controls: Collection[str], config: StatisticsConfig
) -> tuple[ScoreRow, ...]:
    """Return the mean score of each describer by each scorer, with its interval.

    Args:
        scores: the scores.
        grades: their values.
        shares: their polysemanticity, from the same samples.
        controls: names of the controls.
        config: coverage of the intervals.
    """
    groups: dict[tuple[str, str], list[Score]] = {}
    for item in scores:
        groups.setdefault((item.scorer, item.describer), []).append(item)
    spans, share_spans = (
        percentiles(ratio(one.drawn_totals, one.drawn_counts), (one.counts > 0).sum(axis=0), config.confidence)
        for one in (grades, shares)
    )
    rows = []
    for (scorer, describer), items in groups.items():
        values = [value for value in map(value_of, items) if value is not None]
        failed = [item.status is Status.OK and value_of(item) is None for item in items]
        statuses = count_statuses(
            Status.FAILED if bad else item.status for item, bad in zip(items, failed, strict=True)
        )
        column = grades.scorers.index(scorer) * len(grades.describers) + grades.describers.index(describer)
        rows.append(
            ScoreRow(
                scorer=scorer,
                describer=describer,
                control=describer in controls,
                mean=mean(values),
                interval=rounded_interval(spans[column]),
                scores=len(values),
                polysemanticity=mean([share for share in map(polysemanticity_of, items) if share is not None]),
                polysemanticity_interval=rounded_interval(share_spans[column]),
                statuses=statuses,
                usage=total_usage(item.usage for item in items),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.scorer, row.mean is None, -(row.mean or 0.0), row.describer)))


def score_tests(grades: Grades, seed: int, config: StatisticsConfig) -> tuple[ScoreTest, ...]:
    """Compare the scores of describers in pairs, by neuron (the mean of its scores if it has several).

    Neurons with a score of only one of the two are counted as unpaired.
    """
    means = ratio(grades.totals, grades.counts)
    found: list[ScoreTest] = []
    for place, scorer in enumerate(grades.scorers):
        values = means[:, grades.columns(place)]
        tests = []
        for left, right in itertools.combinations(range(len(grades.describers)), 2):
            apart = values[:, left] - values[:, right]
            paired = apart[~np.isnan(apart)]
            unpaired = int(np.sum(np.isnan(values[:, left]) != np.isnan(values[:, right])))
            if not len(paired):
                continue
            interval = clustered_intervals(
                paired[:, None],
                np.ones((len(paired), 1)),
                seed=seed,
                draws=config.draws,
                confidence=config.confidence,
            )[0]
            p_value = sign_flip_p_value(paired, seed=seed, flips=config.flips)
            tests.append((left, right, len(paired), unpaired, paired, interval, p_value))
        for (left, right, neurons, unpaired, paired, interval, p_value), p_holm in zip(
            tests, holm([test[-1] for test in tests]), strict=True
        ):
            found.append(
                ScoreTest(
                    scorer=scorer,
                    left=grades.describers[left],
                    right=grades.describers[right],
                    neurons=neurons,
                    unpaired=unpaired,
                    difference=round(float(paired.mean()), 6),
                    difference_interval=rounded_interval(interval),
                    effect=rounded(standardised_effect(paired)),
                    p_value=p_value,
                    p_holm=p_holm,
                )
            )
    return tuple(found)


def concordances(
    judge: str | None,
    win_rates: tuple[Floats, Floats],
    table: ComparisonTable,
    grades: Grades,
    config: StatisticsConfig,
) -> list[Concordance]:
    """Return the agreement of each scorer's ranking with a board.

    Args:
        judge: the judge of the board; None for all judges together.
        win_rates: win rate of each describer, (K,), and in each sample, draws x K.
        table: the comparisons of the board.
        grades: the scores, from the same samples.
        config: coverage of the intervals.
    """
    found = []
    for place, scorer in enumerate(grades.scorers):
        columns = grades.columns(place)
        means = ratio(grades.totals[:, columns].sum(axis=0), grades.counts[:, columns].sum(axis=0))
        drawn = ratio(grades.drawn_totals[:, columns], grades.drawn_counts[:, columns])
        scored = np.flatnonzero(grades.counts[:, columns].any(axis=1))
        neurons = min(len(np.unique(table.cluster[table.decided])), len(scored))
        tau = rounded(kendall_tau(win_rates[0], means))
        interval = percentiles(kendall_tau(win_rates[1], drawn)[:, None], [neurons], config.confidence)[0]
        both = int(np.sum(~np.isnan(win_rates[0]) & ~np.isnan(means)))
        found.append(Concordance(judge, scorer, both, tau, None if tau is None else rounded_interval(interval)))
    return found
