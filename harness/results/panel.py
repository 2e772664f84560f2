"""The judges together: their agreement, and the ranking without each of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set

import numpy as np

from harness.records import Status, Usage
from harness.results.comparisons import STATUSES, ComparisonTable, Floats, Ints, VerdictTable
from harness.results.rounding import rounded, rounded_interval
from harness.results.schema import Agreement, JudgeHealth, LeftOut, LeftOutRow
from harness.results.tally import Tally
from harness.stats.agreement import NO_LABEL, kappa_interval
from harness.stats.bootstrap import percentiles, ratio
from harness.stats.bradley_terry import ranks
from harness.stats.concordance import kendall_tau
from harness.stats.config import StatisticsConfig


def judge_health(
    judge: str, table: ComparisonTable, verdicts: VerdictTable, usage: Usage, with_people: Agreement | None
) -> JudgeHealth:
    """Return the metrics of one comparator from its comparisons and verdicts, and its agreement with people."""
    decided = table.decided
    twice = decided & table.both_orders
    decisive = ~verdicts.symmetric & ~np.isnan(verdicts.points) & (verdicts.points != 0.5)
    won_by_first = (verdicts.points == 1) != verdicts.flipped
    counts = np.bincount(verdicts.status, minlength=len(STATUSES))
    return JudgeHealth(
        judge=judge,
        comparisons=int(decided.sum()),
        ties=int(np.sum(table.points == 0.5)),
        failed=int(np.sum(~decided)),
        inconsistent=int(np.sum(table.inconsistent & twice)),
        inconsistency=rounded(ratio(np.sum(table.inconsistent & twice), np.sum(twice))),
        first_position_rate=rounded(ratio(np.sum(won_by_first & decisive), np.sum(decisive))),
        people_kappa=with_people.kappa if with_people else None,
        people_interval=with_people.interval if with_people else None,
        people_items=with_people.items if with_people else 0,
        statuses={str(status): int(counts[place]) for place, status in enumerate(Status)},
        usage=usage,
    )


def outcome_labels(table: ComparisonTable) -> tuple[Ints, Ints]:
    """Return the outcome by each judge of each pair on each neuron, items x judges, and the first row of each item.

    Labels: 0 if the describer whose name sorts first lost, 1 for a tie, 2 if it won.
    """
    width = len(table.describers)
    key = table.neuron * width * width + table.pair
    _, first, item = np.unique(key, return_index=True, return_inverse=True)
    labels = np.full((len(first), len(table.judges)), NO_LABEL, dtype=np.int64)
    decided = table.decided
    labels[item[decided], table.judge[decided]] = (2 * table.points[decided]).astype(np.int64)
    return labels, first


def agreement(table: ComparisonTable, seed: int, config: StatisticsConfig) -> tuple[Agreement, ...]:
    """Return the agreement of each pair of judges, and of all judges if there are more than two."""
    if len(table.judges) < 2:
        return ()
    labels, first = outcome_labels(table)
    panels = [*itertools.combinations(range(len(table.judges)), 2)]
    if len(table.judges) > 2:
        panels.append(tuple(range(len(table.judges))))  # type: ignore[arg-type]
    found = []
    for panel in panels:
        own = labels[:, panel]
        given = (own != NO_LABEL).sum(axis=1)
        pairs = [own[:, [a, b]] for a, b in itertools.combinations(range(len(panel)), 2)]
        known = [(pair != NO_LABEL).all(axis=1) for pair in pairs]
        equal = sum(int(np.sum(pair[mask, 0] == pair[mask, 1])) for pair, mask in zip(pairs, known, strict=True))
        # Count each item also with its describers exchanged: the order of their names has no meaning.
        exchanged = np.where(own == NO_LABEL, NO_LABEL, 2 - own)
        owners = table.cluster[first]
        kappa, interval = kappa_interval(
            np.concatenate([own, exchanged]),
            np.concatenate([owners, owners]),
            seed=seed,
            draws=config.draws,
            confidence=config.confidence,
        )
        found.append(
            Agreement(
                judges=tuple(table.judges[place] for place in panel),
                items=int(np.sum(given >= 2)),
                equal=rounded(ratio(equal, sum(int(mask.sum()) for mask in known))),
                kappa=rounded(kappa),
                interval=rounded_interval(interval),
            )
        )
    return tuple(found)


def with_people(judge: str, found: Sequence[Agreement], people: Set[str]) -> Agreement | None:
    """Return the agreement of a judge with the judge of people with which it decided most comparisons, or None."""
    pairs = [one for one in found if len(one.judges) == 2 and judge in one.judges and judge not in people]
    return max((one for one in pairs if people & {*one.judges}), key=lambda one: one.items, default=None)


def left_out(
    tally: Tally, table: ComparisonTable, order: Sequence[str], config: StatisticsConfig
) -> tuple[LeftOut, ...]:
    """Return the win rates without each judge in turn; empty with a single judge.

    Args:
        tally: the points of all judges.
        table: all comparisons.
        order: the describers in the order of the board of all judges.
        config: coverage of the intervals.
    """
    if len(table.judges) < 2:
        return ()
    whole, _ = tally.pairs().win_rates()
    found = []
    for judge, name in enumerate(table.judges):
        rates, drawn = tally.of(set(range(len(table.judges))) - {judge}).pairs().win_rates()
        seen_in = table.where(table.decided & (table.judge != judge)).seen_in(tally.opponents)
        spans = percentiles(drawn, seen_in, config.confidence)
        places = _ranked(rates)
        entries = {
            describer: LeftOutRow(describer, rounded(rates[k]), rounded_interval(spans[k]), places[k])
            for k, describer in enumerate(table.describers)
        }
        tau = rounded(kendall_tau(whole, rates))
        found.append(LeftOut(name, tuple(entries[describer] for describer in order), tau))
    return tuple(found)


def _ranked(rates: Floats) -> list[int | None]:
    """Return ranks, 1 for the highest rate; None for NaN."""
    places = ranks(rates)
    return [None if np.isnan(rate) else int(place) for rate, place in zip(rates, places, strict=True)]
