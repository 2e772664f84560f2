"""What the report shows of one neuron: vectors and channels, exemplars, descriptions, verdicts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.exemplar_table import ExemplarTable
from harness.records import (
    Channel,
    Description,
    Exemplar,
    Neuron,
    Score,
    Source,
    Split,
    VectorKind,
    VectorSummary,
    Verdict,
    Winner,
)
from harness.results.comparisons import Comparison, merge_verdicts
from harness.results.formatting import shown_token
from harness.results.run_data import RunData

CROP = 32
"""Number of tokens shown around the peak of a window."""
TOP_WINDOWS, RANDOM_WINDOWS = 6, 2
"""Number of exemplars shown per split."""
SHOWN_SPLITS = (Split.REPORT, Split.EXPLAIN)
LEVELS = 9
"""Number of background shades that show an activation."""
NEURONS_AT_ONCE = 200
"""Number of neurons whose channels are in memory at the same time."""

T = TypeVar("T", VectorSummary, Channel, Description, Verdict, Score)


@dataclass(frozen=True)
class Segment:
    """A piece of text with one background shade; level 0 is no background. Adjacent tokens at level 0 are merged."""

    text: str
    level: int
    activation: float


@dataclass(frozen=True)
class Window:
    """An exemplar cropped around its peak.

    Attributes:
        source: top or random.
        activation: its highest activation.
        before: whether the crop leaves out text before it.
        after: whether the crop leaves out text after it.
        segments: the text.
    """

    source: Source
    activation: float
    before: bool
    after: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class VectorCard:
    """A weight vector and its channels by rank. In an unfinished run either may be missing."""

    kind: str
    summary: VectorSummary | None
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class DescriptionCard:
    """A description with its results on this neuron.

    Attributes:
        description: the description.
        control: whether a control wrote it.
        points: comparisons won, ties as half.
        decided: decided comparisons.
        scores: its scores, by scorer.
    """

    description: Description
    control: bool
    points: float
    decided: int
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class ComparisonCard:
    """A comparison with its verdicts.

    Attributes:
        comparison: the comparison.
        outcome: its outcome as text.
        verdicts: the verdicts, one per order.
    """

    comparison: Comparison
    outcome: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Card:
    """Everything about one neuron.

    Attributes:
        neuron: the neuron.
        kurtosis: highest excess kurtosis of its channels (of its vectors, if there are no channels); None if unknown.
        disagreement: fraction of the ok verdicts that differ from the majority of their pair of describers, over all
            judges and orders, averaged over pairs. 0 is unanimous; None without verdicts.
        kind: kind of the vector with that channel; None without channels.
        best: the contestant with the highest win rate on this neuron; None if several share it.
        shares: win rate of each contestant on this neuron, ties as half.
        tokens: top tokens of the channel with the highest kurtosis.
        headline: text with the highest win rate on this neuron among the real describers.
        vectors: its weight vectors.
        splits: the exemplars shown, by split.
        descriptions: in the order of the leaderboard.
        comparisons: by judge and pair.
    """

    neuron: Neuron
    kurtosis: float | None
    disagreement: float | None
    kind: VectorKind | None
    best: str | None
    shares: Mapping[str, float]
    tokens: tuple[str, ...]
    headline: str
    vectors: tuple[VectorCard, ...]
    splits: tuple[tuple[Split, tuple[Window, ...]], ...]
    descriptions: tuple[DescriptionCard, ...]
    comparisons: tuple[ComparisonCard, ...]


def build_cards(run: RunData) -> Iterator[Card]:
    """Yield one card for each neuron shown, in order."""
    descriptions, verdicts, scores = _by_neuron(run.descriptions), _by_neuron(run.verdicts), _by_neuron(run.scores)
    exemplars, judged = run.records.exemplar_table(), run.records.report_corpus.exemplar_table()
    for start in range(0, len(run.neurons), NEURONS_AT_ONCE):
        neurons = run.neurons[start : start + NEURONS_AT_ONCE]
        unsigned = {neuron.unsigned for neuron in neurons}
        vectors = _by_neuron(run.records.read_vectors(unsigned))
        channels = _by_neuron(run.records.read_channels(unsigned))
        for neuron in neurons:
            yield _card(
                run,
                neuron,
                [vector.with_sign(neuron.sign) for vector in vectors[neuron.unsigned]],
                [channel.with_sign(neuron.sign) for channel in channels[neuron.unsigned]],
                _exemplars(neuron, exemplars, judged),
                descriptions[neuron],
                verdicts[neuron],
                scores[neuron],
            )
    for table in (exemplars, judged):
        if table:
            table.close()


def _exemplars(neuron: Neuron, table: ExemplarTable | None, judged: ExemplarTable | None) -> list[Exemplar]:
    """Return what describers and judges saw; judges see the splits of ``judged`` if the run has a corpus for them."""
    own, others = (one.read([neuron]) if one else [] for one in (table, judged))
    splits = {item.split for item in others}
    return [item for item in own if item.split not in splits] + others


def _by_neuron(records: Iterable[T]) -> defaultdict[Neuron, list[T]]:
    groups: defaultdict[Neuron, list[T]] = defaultdict(list)
    for record in records:
        groups[record.neuron].append(record)
    return groups


def _card(
    run: RunData,
    neuron: Neuron,
    vectors: Sequence[VectorSummary],
    channels: Sequence[Channel],
    exemplars: Sequence[Exemplar],
    descriptions: Sequence[Description],
    verdicts: Sequence[Verdict],
    scores: Sequence[Score],
) -> Card:
    comparisons = [_comparison(item, verdicts) for item in merge_verdicts(verdicts)]
    order = {name: index for index, name in enumerate(run.describers)}
    described = [
        _description(run, item, comparisons, scores)
        for item in sorted(descriptions, key=lambda item: order.get(item.describer, len(order)))
    ]
    shares = {item.description.describer: item.points / item.decided for item in described if item.decided}
    leaders = [name for name, share in shares.items() if share == max(shares.values())]
    best_text = max(
        (item for item in described if not item.control and item.description.text),
        key=lambda item: shares.get(item.description.describer, 0.0),
        default=None,
    )
    sharpest = max(channels, key=lambda channel: channel.kurtosis, default=None)
    kurtoses = [channel.kurtosis for channel in channels] or [vector.kurtosis for vector in vectors]
    kinds = sorted({item.kind for item in vectors} | {item.kind for item in channels})
    return Card(
        neuron=neuron,
        kurtosis=max(kurtoses, default=None),
        disagreement=disagreement(verdicts),
        kind=sharpest.kind if sharpest else None,
        best=leaders[0] if len(leaders) == 1 else None,
        shares=shares,
        tokens=tuple(shown_token(item.token, 20).strip() for item in sharpest.tokens[:5]) if sharpest else (),
        headline=best_text.description.text if best_text else "",
        vectors=tuple(
            VectorCard(
                str(kind),
                next((item for item in vectors if item.kind is kind), None),
                tuple(item for item in channels if item.kind is kind),
            )
            for kind in kinds
        ),
        splits=shown_windows(exemplars),
        descriptions=tuple(described),
        comparisons=tuple(comparisons),
    )


def _description(
    run: RunData, description: Description, comparisons: Sequence[ComparisonCard], scores: Sequence[Score]
) -> DescriptionCard:
    name = description.describer
    points = [
        item.comparison.points if item.comparison.left == name else 1 - item.comparison.points
        for item in comparisons
        if name in (item.comparison.left, item.comparison.right) and item.comparison.points is not None
    ]
    own_scores = tuple(item for item in scores if item.describer == name)
    return DescriptionCard(description, run.is_control(name), sum(points), len(points), own_scores)


def _comparison(comparison: Comparison, verdicts: Sequence[Verdict]) -> ComparisonCard:
    pair = {comparison.left, comparison.right}
    of_pair = tuple(item for item in verdicts if item.judge == comparison.judge and {item.first, item.second} == pair)
    if comparison.points is None:
        outcome = f"failed ({', '.join(comparison.failures)})"
    elif comparison.points == 0.5:
        outcome = "tie: the two orders disagree" if comparison.inconsistent else "tie"
    else:
        outcome = f"{comparison.left if comparison.points == 1 else comparison.right} wins"
    return ComparisonCard(comparison, outcome, of_pair)


def disagreement(verdicts: Sequence[Verdict]) -> float | None:
    """Return the disagreement of one neuron's verdicts; defined in :class:`Card`."""
    preferences: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for item in verdicts:
        if item.winner is not None:
            preferred = {Winner.FIRST: item.first, Winner.SECOND: item.second, Winner.TIE: ""}[item.winner]
            preferences[frozenset((item.first, item.second))].append(preferred)
    shares = [1 - Counter(names).most_common(1)[0][1] / len(names) for names in preferences.values()]
    return math.fsum(shares) / len(shares) if shares else None


def shown_windows(exemplars: Sequence[Exemplar]) -> tuple[tuple[Split, tuple[Window, ...]], ...]:
    """Return the exemplars to show, by split: the highest activations first, then a few random ones.

    Shades are relative to the highest activation of all of the neuron's exemplars.
    """
    usable = [item for item in exemplars if item.tokens and item.activations]
    highest = max((item.activation for item in usable), default=0.0)
    shown = []
    for split in SHOWN_SPLITS:
        top = [item for item in usable if item.split is split and item.source is Source.TOP]
        top.sort(key=lambda item: (-item.activation, item.window, item.document))
        random = [item for item in usable if item.split is split and item.source is Source.RANDOM]
        windows = [crop(item, highest) for item in top[:TOP_WINDOWS] + random[:RANDOM_WINDOWS]]
        if windows:
            shown.append((split, tuple(windows)))
    return tuple(shown)


def crop(exemplar: Exemplar, highest: float, length: int = CROP) -> Window:
    """Return at most ``length`` tokens around the exemplar's peak, shaded relative to the activation ``highest``."""
    shown = exemplar.around(length, shift=True)
    segments: list[Segment] = []
    plain = ""
    for position in shown:
        token, activation = exemplar.tokens[position], exemplar.activations[position]
        level = math.ceil(LEVELS * min(activation / highest, 1.0)) if activation > 0 and highest > 0 else 0
        text = " " if token == " " else shown_token(token)
        if level < 2:  # activations up to a ninth of the maximum are mostly noise
            plain += text
            continue
        if plain:
            segments.append(Segment(plain, 0, 0.0))
            plain = ""
        segments.append(Segment(text, level, activation))
    if plain:
        segments.append(Segment(plain, 0, 0.0))
    before, after = shown.start > 0, shown.stop < len(exemplar.tokens)
    return Window(exemplar.source, exemplar.activation, before, after, tuple(segments))


def histogram_path(counts: Sequence[int], width: int, height: int) -> str:
    """Return the outline of a histogram as an SVG path, with logarithmic heights so that small counts are visible."""
    if not counts or max(counts) <= 0:
        return ""
    top = math.log1p(max(counts))
    step = width / len(counts)
    path = f"M0 {height}"
    for index, count in enumerate(counts, start=1):
        path += f"V{height - height * math.log1p(max(count, 0)) / top:.3g}H{index * step:.4g}"
    return f"{path}V{height}Z"
