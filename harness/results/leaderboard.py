"""The leaderboard of a run, computed from its records.

It does not depend on the order of the records, and every random draw is seeded. All intervals come from the same
resampled neurons. Rounding and None are as in :mod:`harness.results.schema`.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from harness.records import Description, PlantedAnswer, Score, Status, Usage, Verdict
from harness.results.board import BoardInputs, make_board
from harness.results.comparisons import (
    Bools,
    ComparisonTable,
    Floats,
    compare,
    opponents_of,
    verdict_table,
)
from harness.results.explainer_check import explainer_rows
from harness.results.facets import Facets
from harness.results.panel import agreement, judge_health, left_out, with_people
from harness.results.rounding import count_statuses, mean, rounded, rounded_interval, total_usage
from harness.results.schema import AlignmentRow, BreakdownRow, DescriptionRow, Leaderboard
from harness.results.scores import Grades, concordances, polysemanticity_of, score_rows, score_tests, value_of
from harness.results.tally import Tally, grouped, tables_by_cluster, tally
from harness.results.transitivity import triads
from harness.stats.bootstrap import Resamples, percentiles, ratio
from harness.stats.config import StatisticsConfig
from harness.stats.length import covariate
from harness.stats.threads import one_thread
from harness.text import word_count


@one_thread
def build_leaderboard(
    verdicts: Iterable[Verdict],
    scores: Iterable[Score],
    descriptions: Iterable[Description],
    *,
    controls: Collection[str],
    informed: Collection[str] = (),
    people: Set[str] = frozenset(),
    seed: int,
    config: StatisticsConfig | None = None,
    facets: Facets | None = None,
    planted: Iterable[PlantedAnswer] = (),
    alignment: Sequence[AlignmentRow] = (),
) -> Leaderboard:
    """Compute all statistics of a run from its records, in any order.

    A record with status ok but without a verdict or a finite value counts as failed.

    Args:
        verdicts: the comparators' verdicts, one per judge, neuron and order of a pair.
        scores: the scores, one per scorer, neuron and describer.
        descriptions: the descriptions, one per neuron and describer.
        controls: names of the describers that are controls.
        informed: those of them that know the neuron, and may win.
        people: names of the judges whose verdicts come from people.
        seed: the run's seed, for the bootstrap.
        config: settings of the statistics.
        facets: divisions of the neurons for the breakdown of win rates.
        planted: the explainer's answers on planted concepts.
        alignment: alignment of the neurons with tokens (:mod:`harness.results.alignment`).

    Raises:
        ValueError: if there are two records of the same item.
    """
    config = config or StatisticsConfig()
    given = list(verdicts)
    ordered_scores = _sorted_unique(scores, lambda item: (item.neuron, item.scorer, item.describer), "scores")
    ordered_descriptions = _sorted_unique(descriptions, lambda item: (item.neuron, item.describer), "descriptions")
    raw = verdict_table(given)
    names = sorted(
        {*raw.describers, *(r.describer for r in ordered_scores), *(r.describer for r in ordered_descriptions)}
    )
    raw = raw.among(names)
    table = compare(raw, [item.neuron for item in ordered_scores])
    written = _description_rows(ordered_descriptions, names, controls)
    counts = _count(
        table, opponents_of(names, controls), ordered_scores, ordered_descriptions, facets or {}, seed, config
    )
    words = {row.describer: row.mean_words for row in written}
    seen: dict[str, set[str | None]] = defaultdict(set)
    for verdict in given:
        seen[verdict.judge].add(verdict.side)
    sides = {judge: str(side) for judge, found in seen.items() for side in found if len(found) == 1 and side}
    known = words, sides, controls, informed, seed, config
    together = BoardInputs(raw, table, counts.tally, counts.triads, counts.drawn_triads, *known)
    inputs: dict[str | None, BoardInputs] = {None: together}
    inputs |= {judge: together.of(place) for place, judge in enumerate(table.judges)}
    boards = [make_board(judge, given) for judge, given in inputs.items()]
    usages: dict[str, list[Usage]] = defaultdict(list)
    for verdict in given:
        usages[verdict.judge].append(verdict.usage)
    agreements = agreement(table, seed, config)
    return Leaderboard(
        seed=seed,
        draws=config.draws,
        confidence=config.confidence,
        ridge=config.ridge,
        neurons=len(np.unique(table.cluster)),
        overall=boards[0],
        judges=tuple(boards[1:]),
        health=tuple(
            judge_health(
                *(name, inputs[name].table, inputs[name].verdicts, total_usage(usages[name])),
                with_people(name, agreements, people),
            )
            for name in table.judges
        ),
        agreement=agreements,
        left_out=left_out(counts.tally, table, [row.describer for row in boards[0].rows], config),
        scores=score_rows(ordered_scores, counts.grades, counts.shares, controls, config),
        score_tests=score_tests(counts.grades, seed, config),
        concordance=tuple(
            item
            for judge, given in inputs.items()
            for item in concordances(judge, given.tally.pairs().win_rates(), given.table, counts.grades, config)
        ),
        breakdown=_breakdown(table, counts, facets or {}, controls, config),
        descriptions=written,
        explainer=explainer_rows(planted, seed=seed, config=config),
        alignment=tuple(alignment),
    )


@dataclass(frozen=True)
class _Counts:
    """All counts that are resampled, in the data and in each bootstrap sample.

    Attributes:
        tally: points of the decided comparisons.
        triads: cyclic, decisive and tied triads, clusters x judges x 3.
        drawn_triads: cyclic and decisive triads in each sample, draws x judges x 2.
        grades: the scores.
        shares: their polysemanticity.
        parts: the facets and their parts, in the order of the columns of ``drawn_parts``.
        drawn_parts: points and comparisons of each describer in each part and sample, draws x (parts * K) each.
    """

    tally: Tally
    triads: Floats
    drawn_triads: Floats
    grades: Grades
    shares: Grades
    parts: list[tuple[str, str]]
    drawn_parts: tuple[Floats, Floats]


def _count(
    table: ComparisonTable,
    opponents: Bools,
    scores: Sequence[Score],
    descriptions: Sequence[Description],
    facets: Facets,
    seed: int,
    config: StatisticsConfig,
) -> _Counts:
    """Count everything, and resample the neurons once for all metrics."""
    decided, judges = table.where(table.decided), len(table.judges)
    lengths = _lengths(decided, descriptions)
    group, first = grouped(decided, lengths)
    values, shape = (decided.points, np.ones(len(decided))), (table.clusters, len(first))
    blocks = [tables_by_cluster(decided.cluster, group, each, shape) for each in values]
    found = [triads(table.where(table.judge == judge)) for judge in range(judges)]
    by_judge = np.stack(found, axis=1) if found else np.zeros((table.clusters, 0, 3))
    scorers = tuple(sorted({item.scorer for item in scores}))
    columns = {(s, d): k for k, (s, d) in enumerate(itertools.product(scorers, table.describers))}
    sums = [np.zeros((table.clusters, len(columns))) for _ in range(4)]
    cluster_of = table.cluster_of
    for item in scores:
        for place, value in enumerate((value_of(item), polysemanticity_of(item))):
            if value is not None:
                cell = cluster_of[item.neuron.unsigned], columns[item.scorer, item.describer]
                sums[2 * place][cell] += value
                sums[2 * place + 1][cell] += 1
    parts, part_blocks = _part_blocks(decided, opponents, facets)
    cycles = by_judge[..., :2].reshape(table.clusters, 2 * judges)
    drawn = Resamples(table.clusters, seed, config.draws).sums(*blocks, cycles, *sums, *part_blocks)
    return _Counts(
        tally=tally(decided, opponents, lengths, group, first, (drawn[0], drawn[1])),
        triads=by_judge,
        drawn_triads=drawn[2].reshape(config.draws, judges, 2),
        grades=Grades(scorers, table.describers, sums[0], sums[1], drawn[3], drawn[4]),
        shares=Grades(scorers, table.describers, sums[2], sums[3], drawn[5], drawn[6]),
        parts=parts,
        drawn_parts=(drawn[7], drawn[8]),
    )


def _lengths(table: ComparisonTable, descriptions: Sequence[Description]) -> Floats:
    """Return the length covariate of each comparison, NaN where a description is missing."""
    neurons = {neuron: place for place, neuron in enumerate(table.neurons)}
    places = {name: place for place, name in enumerate(table.describers)}
    words = np.full((len(neurons), len(places)), np.nan)
    for item in descriptions:
        if item.status is Status.OK and item.neuron in neurons:
            words[neurons[item.neuron], places[item.describer]] = word_count(item.text)
    return covariate(words[table.neuron, table.left], words[table.neuron, table.right])


def _part_blocks(
    table: ComparisonTable, opponents: Bools, facets: Facets
) -> tuple[list[tuple[str, str]], list[sparse.csr_array]]:
    """Return the parts, and each describer's points and comparisons in them by neuron."""
    parts = [(facet, part) for facet, of in facets.items() for part in sorted(set(of.values()), key=_natural)]
    places = {part: place for place, part in enumerate(parts)}
    width = len(table.describers)
    rows, columns, points = [], [], []
    for facet, of in facets.items():
        # -1 where the facet does not know the neuron
        known = np.array([places.get((facet, of.get(n, "")), -1) for n in table.neurons], dtype=np.int64)
        part = known[table.neuron]
        inside = part >= 0
        for side, other, won in (
            (table.left, table.right, table.points),
            (table.right, table.left, 1 - table.points),
        ):
            kept = inside & opponents[other]
            rows.append(table.cluster[kept])
            columns.append(part[kept] * width + side[kept])
            points.append(won[kept])
    row, column = (np.concatenate([np.zeros(0, dtype=np.int64), *x]) for x in (rows, columns))
    won = np.concatenate([np.zeros(0), *points])
    shape = (table.clusters, len(parts) * width)
    return parts, [tables_by_cluster(row, column, values, shape) for values in (won, np.ones(len(won)))]


def _natural(part: str) -> tuple[int, str]:
    """Return a sort key: numbers by value, thirds from low to high."""
    if part.isdigit():
        return int(part), ""
    return {"low": 0, "middle": 1, "high": 2}.get(part, 0), part


def _breakdown(
    table: ComparisonTable, counts: _Counts, facets: Facets, controls: Collection[str], config: StatisticsConfig
) -> tuple[BreakdownRow, ...]:
    width = len(table.describers)
    labels = {facet: np.array([of.get(neuron) for neuron in table.neurons], object) for facet, of in facets.items()}
    rows = []
    for place, (facet, part) in enumerate(counts.parts):
        chosen = (labels[facet] == part)[table.neuron]
        decided, failed = table.where(chosen & table.decided), table.where(chosen & ~table.decided)
        opponents = counts.tally.opponents
        seen_in = decided.seen_in(opponents)
        columns = slice(place * width, (place + 1) * width)
        drawn = ratio(counts.drawn_parts[0][:, columns], counts.drawn_parts[1][:, columns])
        spans = percentiles(drawn, seen_in, config.confidence)
        points = decided.sums(decided.points, 1 - decided.points, opponents)
        sizes, lost = (x.sums(np.ones(len(x)), np.ones(len(x)), opponents) for x in (decided, failed))
        for k, name in enumerate(table.describers):
            if sizes[k] + lost[k]:
                rows.append(
                    BreakdownRow(
                        facet=facet,
                        part=part,
                        describer=name,
                        control=name in controls,
                        win_rate=rounded(ratio(points[k], sizes[k])),
                        interval=rounded_interval(spans[k]),
                        comparisons=int(sizes[k]),
                        failed=int(lost[k]),
                        neurons=int(seen_in[k]),
                    )
                )
    return tuple(rows)


def _description_rows(
    descriptions: Sequence[Description], names: Sequence[str], controls: Collection[str]
) -> tuple[DescriptionRow, ...]:
    rows = []
    for name in names:
        written = [item for item in descriptions if item.describer == name]
        good = [item for item in written if item.status is Status.OK]
        words = [word_count(item.text) for item in good]
        rows.append(
            DescriptionRow(
                describer=name,
                control=name in controls,
                mean_words=mean(words),
                median_words=rounded(np.median(words)) if words else None,
                mean_windows=mean([item.evidence.windows for item in good]),
                mean_tokens=mean([item.evidence.tokens for item in good]),
                repeated=_repeated([item.text for item in good]),
                mean_parts=mean([max(1, len(item.parts)) for item in good]),
                missing_parts=sum(item.missing_parts for item in good),
                statuses=count_statuses(item.status for item in written),
                usage=total_usage(item.usage for item in written),
            )
        )
    return tuple(rows)


def _repeated(texts: Sequence[str]) -> float | None:
    """Return the share of the texts that another one equals, by their words alone; None with fewer than two texts."""
    words = [re.findall(r"\w+", text.casefold()) for text in texts]
    counts = Counter(map(tuple, words))
    return mean([counts[tuple(one)] > 1 for one in words]) if len(texts) > 1 else None


def _sorted_unique(records: Iterable[Any], identity: Callable[[Any], tuple[object, ...]], name: str) -> list[Any]:
    def place(item: Any) -> tuple[object, ...]:
        return (*item.neuron.order, *identity(item)[1:])

    ordered = sorted(records, key=place)
    for one, following in itertools.pairwise(ordered):
        if place(one) == place(following):
            item = ", ".join(map(str, identity(one)))
            raise ValueError(f"two {name} of the same item ({item}); keep the last one")
    return ordered
