"""What win rates and scores vary with: variance components, the stability of descriptions, and the shift to other text.

Further descriptions (``draws`` in the config), and verdicts and scores on the run's own corpus if judges see another
one, count in no other table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.folder import RunFolder
from harness.records import Description, Neuron, Score, Status, Verdict
from harness.results.comparisons import Floats, Ints, compare, opponents_of, verdict_table
from harness.results.rounding import mean, rounded, rounded_interval
from harness.results.schema import ShiftRow, StabilityRow, VarianceRow
from harness.results.scores import value_of
from harness.signed_text import read_tokens
from harness.stats.bootstrap import Resamples, clustered_interval, percentiles, ratio
from harness.stats.config import StatisticsConfig
from harness.stats.variance import COMPONENTS, variance_components


@dataclass(frozen=True)
class Answers:
    """Descriptions, and what judges say about them."""

    descriptions: Sequence[Description]
    verdicts: Sequence[Verdict]
    scores: Sequence[Score]

    @classmethod
    def of(cls, folder: RunFolder) -> Answers:
        """Read the answers of a run, or of one draw."""
        return cls(folder.descriptions().records(), folder.verdicts().records(), folder.scores().records())


@dataclass(frozen=True)
class _Measure:
    """Values of one measure: describers x neurons x draws x raters, where a rater is a judge with one prompt."""

    name: str
    judges: Sequence[str]  # the judge of each rater
    values: Floats
    again: Floats | None  # without the axis of draws: those of the first draw when all judges answer again


def judge_families(config: Mapping[str, object]) -> dict[str, str]:
    """Return for each entry of the config's ``judges`` the first one whose options differ at most in ``template``."""
    first: dict[str, str] = {}
    found = {}
    for name, entry in sorted(config.items()):
        options = {key: value for key, value in entry.items() if key != "template"} if isinstance(entry, dict) else name
        found[name] = first.setdefault(json.dumps(options, sort_keys=True, default=str), name)
    return found


def variation_of(
    folder: RunFolder,
    first: Answers,
    options: Mapping[str, Any],
    *,
    controls: Collection[str],
    seed: int,
    config: StatisticsConfig,
) -> dict[str, Any]:
    """Return the fields of :class:`~harness.results.schema.Leaderboard` that say what results vary with.

    Args:
        folder: the run folder.
        first: the answers about the first descriptions, which the rest of the leaderboard is about.
        options: the run's config.
        controls: the describers that are controls.
        seed: the run's seed, for the intervals.
        config: bootstrap samples and coverage of the intervals.
    """
    repeated, resampled = ([Answers.of(one) for one in folder.read_draws(resampled=kind)] for kind in (False, True))
    again = None  # some comparisons do not give the win rate on a neuron a second time
    if (options.get("comparisons") or {}).get("retest") == 1:
        again = Answers((), folder.retests().records(), folder.score_retests().records())
    families = judge_families(options.get("judges") or {})
    known: Any = {"controls": controls, "seed": seed, "config": config}
    own = folder.own_corpus
    return {
        "variance": variance_rows([first, *repeated], again, families=families, **known),
        "stability": stability_rows(first.descriptions, repeated, resampled, **known),
        "corpus_shift": shift_rows(Answers.of(own), first, **known) if own.path.is_dir() else (),
    }


def variance_rows(
    draws: Sequence[Answers],
    again: Answers | None,
    *,
    families: Mapping[str, str],
    controls: Collection[str],
    seed: int,
    config: StatisticsConfig,
) -> tuple[VarianceRow, ...]:
    """Return the variance components of each describer's win rate on a neuron, and of its scores.

    *Method.* :mod:`harness.stats.variance`. The win rate on a neuron is that of one judge with one prompt in one draw,
    against the real methods. Scores have the unit of their scorer, so scorers are not compared with each other. Judges
    that see different sides of the neurons are different measures. *Asked again* is half the mean squared difference of
    the two answers of a judge to the same questions.

    *Degenerate cases.* A measure with one judge, one prompt and one draw has no row. A component that cannot be
    estimated is None, and so are all shares if the values do not vary.

    Args:
        draws: the answers about the first descriptions, then those about each repeated draw.
        again: the judges' second answers to all questions about the first descriptions, with another seed. None
            without them.
        families: the judge that each judge counts as; judges with the same one differ in their prompt.
        controls: the describers that are controls.
        seed: the run's seed, for the intervals.
        config: bootstrap samples and coverage of the intervals.
    """
    neurons, clusters, describers = _axes(draws)
    resamples = Resamples(int(clusters.max(initial=-1)) + 1, seed, config.draws)
    return tuple(
        _variance_row(measure, place, name, name in controls, clusters, resamples, config)
        for measure in _measures(draws, again, families, neurons, describers, controls)
        for place, name in enumerate(describers)
        if measure.values.shape[2:] != (1, 1) and not np.isnan(measure.values[place]).all()
    )


def _axes(answers: Sequence[Answers]) -> tuple[list[Neuron], Ints, list[str]]:
    """Return the judged neurons, the cluster of each (both signs are one), and the describers, all sorted."""
    neurons = sorted({item.neuron for one in answers for items in (one.verdicts, one.scores) for item in items})
    places: dict[Neuron, int] = {}
    clusters = [places.setdefault(neuron.unsigned, len(places)) for neuron in neurons]
    describers = {name for one in answers for item in one.verdicts for name in (item.first, item.second)}
    describers |= {item.describer for one in answers for item in one.scores}
    return neurons, np.array(clusters, dtype=np.int64), sorted(describers)


def _measures(
    draws: Sequence[Answers],
    again: Answers | None,
    families: Mapping[str, str],
    neurons: Sequence[Neuron],
    describers: Sequence[str],
    controls: Collection[str],
) -> Iterator[_Measure]:
    sides = {item.judge: item.side for draw in draws for item in draw.verdicts}
    one_side = len(set(sides.values())) == 1 or None in sides.values()
    grouped: dict[str, list[str]] = {}
    for judge in sorted(sides):
        grouped.setdefault("win_rate" if one_side else f"win_rate/{sides[judge]}", []).append(judge)
    for name, raters in grouped.items():
        rates = [ratio(*_points(draw, neurons, raters, describers, controls)) for draw in draws]
        repeated = None if again is None else ratio(*_points(again, neurons, raters, describers, controls))
        judges = [families.get(rater, rater) for rater in raters]
        yield _Measure(name, judges, np.stack(rates, axis=2), repeated)
    scorers: dict[str, list[str]] = {}
    for scorer in sorted({item.scorer for draw in draws for item in draw.scores}):
        scorers.setdefault(families.get(scorer, scorer), []).append(scorer)
    for name, raters in scorers.items():
        values = [_values(draw.scores, neurons, raters, describers) for draw in draws]
        repeated = None if again is None else _values(again.scores, neurons, raters, describers)
        yield _Measure(name, [name] * len(raters), np.stack(values, axis=2), repeated)


def _points(
    answers: Answers,
    neurons: Sequence[Neuron],
    raters: Sequence[str],
    describers: Sequence[str],
    controls: Collection[str],
) -> tuple[Floats, Floats]:
    """Return points and decided comparisons of each describer, describers x neurons x raters."""
    table = compare(verdict_table([item for item in answers.verdicts if item.judge in raters]).among(describers))
    table = table.where(table.decided)
    places = {neuron: number for number, neuron in enumerate(neurons)}
    neuron = np.array([places[item] for item in table.neurons], dtype=np.int64)[table.neuron]
    rater = np.array([raters.index(item) for item in table.judges], dtype=np.int64)[table.judge]
    opponents = opponents_of(describers, controls)
    totals, counts = (np.zeros((len(describers), len(neurons), len(raters))) for _ in range(2))
    for own, other, points in ((table.left, table.right, table.points), (table.right, table.left, 1 - table.points)):
        np.add.at(totals, (own, neuron, rater), points * opponents[other])
        np.add.at(counts, (own, neuron, rater), opponents[other])
    return totals, counts


def _values(
    scores: Iterable[Score], neurons: Sequence[Neuron], raters: Sequence[str], describers: Sequence[str]
) -> Floats:
    """Return the score of each description by each scorer, describers x neurons x raters; NaN if it is not usable."""
    place = {neuron: number for number, neuron in enumerate(neurons)}
    values = np.full((len(describers), len(neurons), len(raters)), np.nan)
    for item in scores:
        if item.scorer in raters and (value := value_of(item)) is not None:
            values[describers.index(item.describer), place[item.neuron], raters.index(item.scorer)] = value
    return values


def _variance_row(
    measure: _Measure,
    place: int,
    describer: str,
    control: bool,
    clusters: Ints,
    resamples: Resamples,
    config: StatisticsConfig,
) -> VarianceRow:
    values = measure.values[place]
    known = ~np.isnan(values)
    judges = {name: number for number, name in enumerate(dict.fromkeys(measure.judges))}
    found = variance_components(values, [judges[name] for name in measure.judges], clusters, resamples)
    total, drawn_total = sum(one.variance for one in found), sum(one.drawn for one in found)
    parts = {one.name: (one.variance, one.drawn) for one in found}
    if measure.again is not None:
        parts["asked_again"] = _asked_again(values[:, 0], measure.again[place], clusters, resamples)
    drawn = np.array([ratio(one, drawn_total) for _, one in parts.values()]).reshape(len(parts), resamples.draws).T
    seen = len(np.unique(clusters[known.any(axis=(1, 2))]))
    intervals = map(rounded_interval, percentiles(drawn, [seen] * len(parts), config.confidence))
    components: dict[str, Any] = dict.fromkeys((*COMPONENTS, "asked_again"))
    components |= {name: rounded(ratio(variance, total)) for name, (variance, _) in parts.items()}
    components |= {f"{name}_interval": None for name in components}
    components |= {f"{name}_interval": interval for name, interval in zip(parts, intervals, strict=True)}
    words = [f"{one.name} includes {' and '.join(one.includes)}" for one in found if one.includes]
    return VarianceRow(
        measure=measure.name,
        describer=describer,
        control=control,
        neurons=int(known.any(axis=(1, 2)).sum()),
        draws=int(known.any(axis=(0, 2)).sum()),
        judges=len({measure.judges[rater] for rater in np.flatnonzero(known.any(axis=(0, 1)))}),
        prompts=int(known.any(axis=(0, 1)).sum()),
        total=rounded(total) if found else None,
        **components,
        words="; ".join(words).replace("_", " "),
    )


def _asked_again(first: Floats, second: Floats, clusters: Ints, resamples: Resamples) -> tuple[float, Floats]:
    """Return half the mean squared difference of two answers, neurons x raters, and that of each bootstrap sample."""
    half = (second - first) ** 2 / 2
    of_cluster = (np.arange(resamples.clusters)[:, None] == clusters).astype(np.float64)
    tables = [(of_cluster @ one.sum(axis=1))[:, None] for one in (np.nan_to_num(half), ~np.isnan(half))]
    return float(ratio(tables[0].sum(), tables[1].sum())), ratio(*resamples.sums(*tables))[:, 0]


def shift_rows(
    own: Answers, other: Answers, *, controls: Collection[str], seed: int, config: StatisticsConfig
) -> tuple[ShiftRow, ...]:
    """Return each describer's win rate and scores on two corpora, and the difference, by the judges that used both.

    *Method.* The same neurons are resampled for both corpora, so the interval of the difference is that of a paired
    comparison. Win rates are against the real methods, all these judges together.

    *Degenerate cases.* A value without usable answers is None, as is its difference.
    """
    neurons, clusters, describers = _axes([own, other])
    judges = sorted({item.judge for item in own.verdicts} & {item.judge for item in other.verdicts})
    measures: list[tuple[str, list[tuple[Floats, Floats]]]] = []
    if judges:
        counted = [_points(one, neurons, judges, describers, controls) for one in (own, other)]
        measures.append(("win_rate", [(totals.sum(axis=2), counts.sum(axis=2)) for totals, counts in counted]))
    for scorer in sorted({item.scorer for item in own.scores} & {item.scorer for item in other.scores}):
        values = [_values(one.scores, neurons, [scorer], describers)[..., 0] for one in (own, other)]
        measures.append((scorer, [(np.nan_to_num(one), (~np.isnan(one)).astype(np.float64)) for one in values]))
    resamples = Resamples(int(clusters.max(initial=-1)) + 1, seed, config.draws)
    of_cluster = (np.arange(resamples.clusters)[:, None] == clusters).astype(np.float64)
    rows = []
    for measure, corpora in measures:
        tables = [of_cluster @ table.T for pair in corpora for table in pair]  # clusters x describers
        seen = [(tables[place] > 0).sum(axis=0) for place in (1, 3)]
        means = [ratio(tables[place].sum(axis=0), tables[place + 1].sum(axis=0)) for place in (0, 2)]
        sums = resamples.sums(*tables)
        drawn = [ratio(sums[place], sums[place + 1]) for place in (0, 2)]
        spans = [percentiles(one, count, config.confidence) for one, count in zip(drawn, seen, strict=True)]
        apart = percentiles(drawn[1] - drawn[0], np.minimum(*seen), config.confidence)
        for place, name in enumerate(describers):
            rows.append(
                ShiftRow(
                    measure=measure,
                    describer=name,
                    control=name in controls,
                    own=rounded(means[0][place]),
                    own_interval=rounded_interval(spans[0][place]),
                    other=rounded(means[1][place]),
                    other_interval=rounded_interval(spans[1][place]),
                    shift=rounded(means[1][place] - means[0][place]),
                    shift_interval=rounded_interval(apart[place]),
                )
            )
    return tuple(rows)


def stability_rows(
    first: Sequence[Description],
    repeated: Sequence[Answers],
    resampled: Sequence[Answers],
    *,
    controls: Collection[str],
    seed: int,
    config: StatisticsConfig,
) -> tuple[StabilityRow, ...]:
    """Return how similar each describer's further descriptions of a neuron are to its first one.

    *Method.* Jaccard index of the tokens that the two descriptions name, with their signs
    (:func:`harness.signed_text.read_tokens`). *By chance* is that of the first description of a neuron and a further
    one of the next neuron. Intervals resample neurons.

    *Degenerate cases.* Empty without further descriptions. A pair without two usable descriptions is counted as failed,
    and part of no other metric. Two descriptions that name no token are equal.
    """
    found = []
    for evidence, draws in (("same", repeated), ("resampled", resampled)):
        further = [{(item.neuron, item.describer): item for item in draw.descriptions} for draw in draws]
        for describer in sorted({item.describer for item in first}) if draws else ():
            own = sorted((item for item in first if item.describer == describer), key=lambda item: item.neuron)
            pairs, chance, failed = list[tuple[Neuron, float]](), list[float](), 0
            for following, item in zip((*own[1:], *own[:1]), own, strict=True):
                for draw in further:
                    other, foreign = (draw.get((one.neuron, describer)) for one in (item, following))
                    if (same := _jaccard(item, other)) is None:
                        failed += 1
                    else:
                        pairs.append((item.neuron.unsigned, same))
                    if len(own) > 1 and (unlike := _jaccard(item, foreign)) is not None:
                        chance.append(unlike)
            values, neurons = [value for _, value in pairs], [neuron for neuron, _ in pairs]
            interval = clustered_interval(values, neurons, seed=seed, draws=config.draws, confidence=config.confidence)
            found.append(
                StabilityRow(
                    describer=describer,
                    control=describer in controls,
                    evidence=evidence,
                    draws=len(draws),
                    pairs=len(pairs),
                    similarity=mean(values),
                    interval=rounded_interval(interval),
                    chance=mean(chance),
                    same=mean([value == 1 for value in values]),
                    failed=failed,
                )
            )
    return tuple(found)


def _jaccard(one: Description, other: Description | None) -> float | None:
    """Return the Jaccard index of the tokens of two descriptions, or None if one of them is missing or not usable."""
    if other is None or one.status is not Status.OK or other.status is not Status.OK:
        return None
    left, right = (set(read_tokens(item.text, item.tokens).items) for item in (one, other))
    return len(left & right) / len(left | right) if left | right else 1.0
