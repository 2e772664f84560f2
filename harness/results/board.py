"""One board: the metrics of one judge, or of all judges together, from its comparisons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from harness.results.comparisons import STATUSES, Bools, ComparisonTable, Floats, Ints, VerdictTable
from harness.results.rounding import rounded, rounded_interval
from harness.results.schema import Board, Cell, Cycles, Graph, LengthEffect, PairTest, Row
from harness.results.tally import Tally, standings, tables_by_cluster
from harness.results.transitivity import majority_cycles
from harness.results.trust import check_controls
from harness.stats import bradley_terry, length
from harness.stats.bootstrap import Interval, Resamples, percentiles, ratio
from harness.stats.bradley_terry import Design
from harness.stats.config import StatisticsConfig
from harness.stats.permutation import holm, sign_flip_p_value, standardised_effect


@dataclass(frozen=True)
class BoardInputs:
    """Inputs of the board of some judges.

    Attributes:
        verdicts: single verdicts.
        table: comparisons, including failed ones.
        tally: the points of the decided comparisons.
        triads: cyclic, decisive and tied triads, clusters x judges x 3.
        drawn_triads: cyclic and decisive triads in each bootstrap sample, draws x judges x 2.
        words: mean length of each describer's descriptions.
        sides: side of the neurons that each judge sees, by judge, as far as it is one and recorded.
        controls: names of the controls.
        informed: those of them that know the neuron.
        seed: the run's seed.
        config: how the statistics are computed.
    """

    verdicts: VerdictTable
    table: ComparisonTable
    tally: Tally
    triads: Floats
    drawn_triads: Floats
    words: Mapping[str, float | None]
    sides: Mapping[str, str]
    controls: Collection[str]
    informed: Collection[str]
    seed: int
    config: StatisticsConfig

    def of(self, judge: int) -> BoardInputs:
        """Return the inputs of one judge alone."""
        return replace(
            self,
            verdicts=self.verdicts.where(self.verdicts.judge == judge),
            table=self.table.where(self.table.judge == judge),
            tally=self.tally.of([judge]),
            triads=self.triads[:, [judge]],
            drawn_triads=self.drawn_triads[:, [judge]],
        )


@dataclass(frozen=True)
class _Estimate:
    """A metric of each describer and its intervals; NaN and None where it has no value."""

    values: Floats
    intervals: Sequence[Interval | None]


@dataclass(frozen=True)
class _Ranking:
    strength: _Estimate
    rank: _Estimate
    best: Floats


def make_board(judge: str | None, inputs: BoardInputs) -> Board:
    """Compute the board of a judge, or of all judges together (None)."""
    names, config = inputs.table.describers, inputs.config
    decided = inputs.table.where(inputs.table.decided)
    pairs = inputs.tally.pairs()
    rates, drawn = pairs.win_rates()
    seen_in = decided.seen_in()
    intervals = percentiles(drawn, decided.seen_in(pairs.opponents), config.confidence)
    graph = _graph(pairs, names)
    ranking = _ranking(pairs, graph, seen_in, config)
    adjusted, effect = _length(inputs.tally, graph, seen_in, config)
    cells = _cells(inputs, pairs, decided)
    tests = _tests(inputs, pairs, decided, (rates, drawn), seen_in)
    rows = _rows(inputs, _Estimate(rates, intervals), ranking, adjusted)
    head_to_head = np.full((len(names), len(names)), np.nan)
    head_to_head[pairs.left, pairs.right] = ratio(pairs.points, pairs.counts)
    head_to_head[pairs.right, pairs.left] = 1 - head_to_head[pairs.left, pairs.right]
    cyclic, decisive, tied = inputs.triads.sum(axis=(0, 1))
    cyclic_rates = ratio(*inputs.drawn_triads.sum(axis=1).T)[:, None]
    with_triads = int(inputs.triads[:, :, 1].any(axis=1).sum())
    cycles = Cycles(
        rate=rounded(ratio(cyclic, decisive)),
        interval=rounded_interval(percentiles(cyclic_rates, [with_triads], config.confidence)[0]),
        triads=int(decisive),
        tied=int(tied),
        majority=tuple((names[a], names[b], names[c]) for a, b, c in majority_cycles(head_to_head)),
    )
    trust = check_controls(pairs, decided, tests, inputs.controls, inputs.informed, config)
    sides = {inputs.sides.get(name) for name in (inputs.table.judges if judge is None else (judge,))}
    side = sides.pop() if len(sides) == 1 else None
    neurons = len(np.unique(inputs.table.cluster))
    return Board(judge, side, neurons, rows, cells, tests, effect, graph, cycles, trust)


def _rows(inputs: BoardInputs, rates: _Estimate, ranking: _Ranking, adjusted: _Estimate) -> tuple[Row, ...]:
    table, verdicts = inputs.table, inputs.verdicts
    raw, opponents = verdicts.where(~np.isnan(verdicts.points)), inputs.tally.opponents
    blind = np.array([name in inputs.controls and name not in inputs.informed for name in table.describers], np.bool_)
    control_rates, drawn = inputs.tally.win_rates(blind)
    met = table.where(table.decided).seen_in(blind)
    control_intervals = percentiles(drawn, met, inputs.config.confidence)
    raw_points = raw.sums(raw.points, 1 - raw.points, opponents)
    raw_rates = ratio(raw_points, raw.sums(np.ones(len(raw)), np.ones(len(raw)), opponents))

    def counts(as_left: Floats | Bools, as_right: Floats | Bools) -> Ints:
        whole: Ints = table.sums(as_left, as_right, opponents).astype(np.int64)
        return whole

    points = table.points
    won, lost, tied = (counts(points == a, points == b) for a, b in ((1, 0), (0, 1), (0.5, 0.5)))
    inconsistent, failed = counts(table.inconsistent, table.inconsistent), counts(~table.decided, ~table.decided)
    rows = []
    for place, name in enumerate(table.describers):
        rank, rank_interval = ranking.rank.values[place], ranking.rank.intervals[place]
        rows.append(
            Row(
                describer=name,
                control=name in inputs.controls,
                win_rate=rounded(rates.values[place]),
                interval=rounded_interval(rates.intervals[place]),
                control_win_rate=rounded(control_rates[place]),
                control_interval=rounded_interval(control_intervals[place]),
                raw_win_rate=rounded(raw_rates[place]),
                adjusted_win_rate=rounded(adjusted.values[place]),
                adjusted_interval=rounded_interval(adjusted.intervals[place]),
                strength=rounded(ranking.strength.values[place]),
                strength_interval=rounded_interval(ranking.strength.intervals[place]),
                rank=None if np.isnan(rank) else int(rank),
                rank_interval=None if rank_interval is None else (int(rank_interval[0]), int(rank_interval[1])),
                best=rounded(ranking.best[place]),
                comparisons=int(won[place] + lost[place] + tied[place]),
                wins=int(won[place]),
                losses=int(lost[place]),
                ties=int(tied[place]),
                inconsistent=int(inconsistent[place]),
                failed=int(failed[place]),
                mean_words=inputs.words.get(name),
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.win_rate is None, -(row.win_rate or 0.0), row.describer)))


def _cells(inputs: BoardInputs, pairs: Tally, decided: ComparisonTable) -> tuple[Cell, ...]:
    table, names = inputs.table, inputs.table.describers
    rates = dict(zip(zip(pairs.left, pairs.right, strict=True), ratio(pairs.points, pairs.counts), strict=True))
    met = np.unique(decided.pair * decided.clusters + decided.cluster) // max(1, decided.clusters)  # once per neuron
    places = pairs.left * len(names) + pairs.right
    seen_in = np.searchsorted(met, places, "right") - np.searchsorted(met, places, "left")
    spans = percentiles(ratio(pairs.drawn_points, pairs.drawn_counts), seen_in, inputs.config.confidence)
    intervals = dict(zip(rates, map(rounded_interval, spans), strict=True))
    odds = _win_odds(inputs, decided)
    cells = []
    for code in np.unique(table.pair).tolist():
        left, right = divmod(code, len(names))
        rows = np.flatnonzero(table.pair == code)
        points = table.points[rows]
        ties, failed = int(np.sum(points == 0.5)), int(np.isnan(points).sum())
        found = np.unique(table.failures[rows], return_counts=True)
        failures = {STATUSES[status]: int(count) for status, count in zip(*found, strict=True) if status}
        rate, interval = rounded(rates.get((left, right))), intervals.get((left, right))
        wins, losses = int(np.sum(points == 1)), int(np.sum(points == 0))
        for swap in (False, True):
            won, lost = (losses, wins) if swap else (wins, losses)
            cells.append(
                Cell(
                    row=names[right if swap else left],
                    column=names[left if swap else right],
                    win_rate=rounded(1 - rates[left, right]) if swap and rate is not None else rate,
                    interval=_mirrored(interval) if swap else interval,
                    comparisons=len(rows) - failed,
                    wins=won,
                    losses=lost,
                    ties=ties,
                    wins_to_losses=rounded(won / lost) if lost else None,
                    wins_to_losses_interval=_odds_interval(odds.get(code), swap) if lost else None,
                    failed=failed,
                    failures=dict(sorted(failures.items())),
                )
            )
    return tuple(sorted(cells, key=lambda cell: (cell.row, cell.column)))


def _mirrored(interval: Interval | None) -> Interval | None:
    return None if interval is None else rounded_interval((1 - interval[1], 1 - interval[0]))


def _win_odds(inputs: BoardInputs, decided: ComparisonTable) -> dict[int, Interval | None]:
    """Return by pair the interval of the share that the left describer won of the comparisons without a tie."""
    decisive = decided.where(decided.points != 0.5)
    pairs, column = np.unique(decisive.pair, return_inverse=True)
    shape, values = (decided.clusters, len(pairs)), (decisive.points, np.ones(len(decisive)))
    won, counts = (tables_by_cluster(decisive.cluster, column, each, shape) for each in values)
    shares = ratio(*Resamples(decided.clusters, inputs.seed, inputs.config.draws).sums(won, counts))
    spans = percentiles(shares, (counts > 0).sum(axis=0), inputs.config.confidence)
    return dict(zip(pairs.tolist(), spans, strict=True))


def _odds_interval(shares: Interval | None, swap: bool) -> Interval | None:
    """Turn the interval of a share into that of share / (1 - share); None where that is infinite."""
    if shares is None:
        return None
    low, high = (1 - shares[1], 1 - shares[0]) if swap else shares
    return rounded_interval((low / (1 - low), high / (1 - high))) if high < 1 else None


def _tests(
    inputs: BoardInputs,
    pairs: Tally,
    decided: ComparisonTable,
    win_rates: tuple[Floats, Floats],
    seen_in: Ints,
) -> tuple[PairTest, ...]:
    names, (rates, drawn) = inputs.table.describers, win_rates
    fewer = np.minimum(seen_in[pairs.left], seen_in[pairs.right])
    overall = percentiles(drawn[:, pairs.left] - drawn[:, pairs.right], fewer, inputs.config.confidence)
    found = []
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        rows = decided.pair == left * len(names) + right
        counts = np.bincount(decided.cluster[rows], minlength=decided.clusters)
        totals = np.bincount(decided.cluster[rows], 2 * decided.points[rows] - 1, decided.clusters)[counts > 0]
        p_value = sign_flip_p_value(totals, seed=inputs.seed, flips=inputs.config.flips)
        found.append((p_value, len(totals), standardised_effect(totals / counts[counts > 0])))
    corrected = holm([p_value for p_value, _, _ in found])
    apart = 2 * ratio(pairs.points, pairs.counts) - 1
    drawn_apart = 2 * ratio(pairs.drawn_points, pairs.drawn_counts) - 1
    spans = percentiles(drawn_apart, [neurons for _, neurons, _ in found], inputs.config.confidence)
    return tuple(
        PairTest(
            left=names[left],
            right=names[right],
            neurons=neurons,
            difference=rounded(apart[place]),
            difference_interval=rounded_interval(spans[place]),
            overall_difference=rounded(rates[left] - rates[right]),
            overall_interval=rounded_interval(overall[place]),
            effect=rounded(effect),
            p_value=p_value,
            p_holm=p_holm,
        )
        for place, (left, right, (p_value, neurons, effect), p_holm) in enumerate(
            zip(pairs.left, pairs.right, found, corrected, strict=True)
        )
    )


def _graph(pairs: Tally, names: Sequence[str]) -> Graph:
    """Return how comparisons connect the describers, without those that were not compared."""
    compared = set(pairs.left.tolist()) | set(pairs.right.tolist())
    design = pairs.design()

    def named(beaten: bool) -> list[tuple[str, ...]]:
        found = bradley_terry.groups(design, pairs.points, pairs.counts, beaten=beaten)
        return [tuple(names[place] for place in group) for group in found if group[0] in compared]

    joined, unbeaten = named(False), named(True)
    if len(joined) > 1:
        parts = "; ".join(", ".join(group) for group in joined)
        words = f"No chain of comparisons connects these groups, so their strengths cannot be compared: {parts}."
        return Graph(tuple(joined), tuple(unbeaten), words)
    everyone = np.ones(len(names), dtype=np.bool_)
    rates = dict(zip(names, ratio(*standings(pairs, pairs.points, pairs.counts, everyone)).tolist(), strict=True))
    unbeaten.sort(key=lambda group: (-sum(rates[name] for name in group) / len(group), group))
    words = ""
    if len(unbeaten) > 1:
        ladder = " above ".join(" and ".join(group) for group in unbeaten)
        words = (
            f"No describer of a higher group lost a point to a lower one: {ladder}. The distance of their strengths "
            "depends on the ridge penalty."
        )
    return Graph(tuple(joined), tuple(unbeaten), words)


def _compact(pairs: Tally, *, length: bool = False) -> tuple[Ints, Design]:
    """Return the describers that were compared, and the design restricted to them."""
    present = np.unique(np.concatenate([pairs.left, pairs.right]))
    left, right = (np.searchsorted(present, column) for column in (pairs.left, pairs.right))
    return present, Design(len(present), left, right, pairs.length if length else None)


def _spread(width: int, present: Ints, values: Floats, intervals: Sequence[Interval | None]) -> _Estimate:
    """Expand the values of the compared describers to all describers."""
    expanded = np.full(width, np.nan)
    expanded[present] = values
    spans: list[Interval | None] = [None] * width
    for place, interval in zip(present.tolist(), intervals, strict=True):
        spans[place] = interval
    return _Estimate(expanded, spans)


def _ranking(pairs: Tally, graph: Graph, seen_in: Ints, config: StatisticsConfig) -> _Ranking:
    width = pairs.describers
    nothing = _Estimate(np.full(width, np.nan), [None] * width)
    if len(graph.groups) != 1:
        return _Ranking(nothing, nothing, np.full(width, np.nan))
    present, design = _compact(pairs)
    fitted = bradley_terry.fit(design, pairs.points, pairs.counts, config.ridge)
    drawn = bradley_terry.refit(design, pairs.drawn_points, pairs.drawn_counts, config.ridge, fitted)
    places = bradley_terry.ranks(drawn)
    best = np.full(width, np.nan)
    best[present] = (places == 1).mean(axis=0) if seen_in.max() > 1 else np.nan
    return _Ranking(
        _spread(width, present, fitted, percentiles(drawn, seen_in[present], config.confidence)),
        _spread(
            width,
            present,
            bradley_terry.ranks(fitted),
            percentiles(places, seen_in[present], config.confidence, whole=True),
        ),
        best,
    )


def _length(tally: Tally, graph: Graph, seen_in: Ints, config: StatisticsConfig) -> tuple[_Estimate, LengthEffect]:
    """Return the win rates at equal length and the effect of length."""
    known = tally.of_known_length()
    comparisons = int(known.counts.sum())
    unknown = int(tally.counts.sum()) - comparisons
    nothing = _Estimate(np.full(tally.describers, np.nan), [None] * tally.describers)
    apart = known.length != 0
    longer = np.where(known.length > 0, known.points, known.counts - known.points)[apart].sum()
    longer_rate = rounded(ratio(longer, known.counts[apart].sum()))
    own = None
    if not comparisons:
        words = "No comparison of two descriptions of known length was decided."
    elif len(graph.groups) != 1:
        words = "The comparisons do not connect all describers."
    else:
        present, design = _compact(known, length=True)
        own = length.own_share(design, known.counts)
        if own is None:
            words = "All compared descriptions are equally long."
        elif own < length.LEAST_OWN:
            words = "Each describer has its own length, so the effects of length and describer cannot be separated."
        else:
            words = ""
    if words:
        return nothing, LengthEffect(None, None, longer_rate, rounded(own), comparisons, unknown, words)
    fitted = bradley_terry.fit(design, known.points, known.counts, config.ridge)
    drawn = bradley_terry.refit(design, known.drawn_points, known.drawn_counts, config.ridge, fitted)
    pairs = known.pairs()
    _, among = _compact(pairs)
    rates = _expected(pairs, among, fitted[:-1], pairs.counts)[present]
    estimates = _expected(pairs, among, drawn[:, :-1], pairs.drawn_counts)[:, present]
    neurons = int(seen_in.max())
    effect = LengthEffect(
        rounded(fitted[-1]),
        rounded_interval(percentiles(drawn[:, -1:], [neurons], config.confidence)[0]),
        longer_rate,
        rounded(own),
        comparisons,
        unknown,
        words,
    )
    spans = percentiles(estimates, seen_in[present], config.confidence)
    return _spread(tally.describers, present, rates, spans), effect


def _expected(pairs: Tally, design: Design, strengths: Floats, counts: Floats) -> Floats:
    """Return the win rates that strengths predict for the comparisons that were made, (..., K)."""
    chance = expit(strengths[..., design.left] - strengths[..., design.right])
    return ratio(*standings(pairs, counts * chance, counts, pairs.opponents))
