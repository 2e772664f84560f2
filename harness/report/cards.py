"""One neuron as the report shows it: vectors and channels, exemplars, descriptions, verdicts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

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
"""Tokens of a window that are shown, around its peak."""
TOP_WINDOWS, RANDOM_WINDOWS = 6, 2
"""Exemplars shown of each split."""
SHOWN_SPLITS = (Split.REPORT, Split.EXPLAIN)
LEVELS = 9
"""Steps of the background that shows an activation."""

TOGETHER = 200
"""Neurons whose channels are held in memory at once."""

T = TypeVar("T", VectorSummary, Channel, Description, Verdict, Score)


@dataclass(frozen=True)
class Segment:
    """Text of a window with one background: level 0 is none. Tokens without one are merged."""

    text: str
    level: int
    activation: float


@dataclass(frozen=True)
class Window:
    """An exemplar cropped around its peak.

    Attributes:
        source: top or random.
        activation: its highest activation.
        document: identity of its document.
        before: whether text before the crop is left out.
        after: whether text after the crop is left out.
        segments: the text.
    """

    source: Source
    activation: float
    document: str
    before: bool
    after: bool
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class VectorCard:
    """A weight vector and its channels in order of discovery; either may be missing in an unfinished run."""

    kind: str
    summary: VectorSummary | None
    channels: tuple[Channel, ...]


@dataclass(frozen=True)
class DescriptionCard:
    """A description with what it scored and how it fared on this neuron.

    Attributes:
        description: the description.
        control: whether a control wrote it.
        points: comparisons won on this neuron, ties as half.
        decided: its decided comparisons on this neuron.
        scores: its scores, by scorer.
    """

    description: Description
    control: bool
    points: float
    decided: int
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class ComparisonCard:
    """A comparison with the verdicts behind it.

    Attributes:
        comparison: the outcome.
        outcome: the outcome in words.
        verdicts: the verdicts in every order.
    """

    comparison: Comparison
    outcome: str
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Card:
    """Everything about one neuron.

    Attributes:
        neuron: the neuron.
        kurtosis: highest excess kurtosis of its channels (of its vectors, if there are no channels); none if unknown.
        disagreement: mean over its pairs of describers of the share of ok verdicts, all judges and orders together,
            that do not say what most of them say: 0 is unanimous; none without verdicts.
        kind: the vector that this channel belongs to; none if there are no channels.
        best: the contestant that won the largest share of its comparisons on this neuron; none if two are level.
        shares: what share of its decided comparisons each contestant won on this neuron, ties as half.
        tokens: first tokens of the channel with the highest kurtosis.
        headline: the text that fared best on this neuron among the real describers.
        vectors: its weight vectors.
        splits: the exemplars shown, by split.
        descriptions: in the leaderboard's order.
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
    """Yield one card for each neuron that is shown, ordered."""
    descriptions, verdicts, scores = _by_neuron(run.descriptions), _by_neuron(run.verdicts), _by_neuron(run.scores)
    exemplars = run.records.exemplar_table()
    for start in range(0, len(run.neurons), TOGETHER):
        some = run.neurons[start : start + TOGETHER]
        whole = {neuron.unsigned for neuron in some}
        vectors = _by_neuron(run.records.read_vectors(whole))
        channels = _by_neuron(run.records.read_channels(whole))
        for neuron in some:
            yield _card(
                run,
                neuron,
                [vector.with_sign(neuron.sign) for vector in vectors[neuron.unsigned]],
                [channel.with_sign(neuron.sign) for channel in channels[neuron.unsigned]],
                exemplars.read([neuron]) if exemplars else (),
                descriptions[neuron],
                verdicts[neuron],
                scores[neuron],
            )
    if exemplars:
        exemplars.close()


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
    place = {name: index for index, name in enumerate(run.describers)}
    described = [
        _description(run, item, comparisons, scores)
        for item in sorted(descriptions, key=lambda item: place.get(item.describer, len(place)))
    ]
    shares = {item.description.describer: item.points / item.decided for item in described if item.decided}
    leaders = [name for name, share in shares.items() if share == max(shares.values())]
    told = max(
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
        headline=told.description.text if told else "",
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
    own = tuple(item for item in scores if item.describer == name)
    return DescriptionCard(description, run.is_control(name), sum(points), len(points), own)


def _comparison(comparison: Comparison, verdicts: Sequence[Verdict]) -> ComparisonCard:
    pair = {comparison.left, comparison.right}
    own = tuple(item for item in verdicts if item.judge == comparison.judge and {item.first, item.second} == pair)
    if comparison.points is None:
        outcome = f"failed ({', '.join(comparison.failures)})"
    elif comparison.points == 0.5:
        outcome = "tie: the two orders disagree" if comparison.inconsistent else "tie"
    else:
        outcome = f"{comparison.left if comparison.points == 1 else comparison.right} wins"
    return ComparisonCard(comparison, outcome, own)


def disagreement(verdicts: Sequence[Verdict]) -> float | None:
    """Return how far one neuron's verdicts contradict each other, from 0; defined in :class:`Card`."""
    said: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for item in verdicts:
        if item.winner is not None:
            preferred = {Winner.FIRST: item.first, Winner.SECOND: item.second, Winner.TIE: ""}[item.winner]
            said[frozenset((item.first, item.second))].append(preferred)
    shares = [1 - Counter(names).most_common(1)[0][1] / len(names) for names in said.values()]
    return math.fsum(shares) / len(shares) if shares else None


def shown_windows(exemplars: Sequence[Exemplar]) -> tuple[tuple[Split, tuple[Window, ...]], ...]:
    """Return the exemplars to show, by split: the highest first, then a few random ones.

    Backgrounds are relative to the highest activation among all of the neuron's exemplars.
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
    """Return a window of at most ``length`` tokens around the exemplar's peak, marked relative to ``highest``."""
    shown = exemplar.around_peak(length, shift=True)
    segments: list[Segment] = []
    plain = ""
    for position in shown:
        token, activation = exemplar.tokens[position], exemplar.activations[position]
        level = math.ceil(LEVELS * min(activation / highest, 1.0)) if activation > 0 and highest > 0 else 0
        text = " " if token == " " else shown_token(token)
        if level < 2:  # a ninth of the maximum is no more than the noise around it
            plain += text
            continue
        if plain:
            segments.append(Segment(plain, 0, 0.0))
            plain = ""
        segments.append(Segment(text, level, activation))
    if plain:
        segments.append(Segment(plain, 0, 0.0))
    before, after = shown.start > 0, shown.stop < len(exemplar.tokens)
    return Window(exemplar.source, exemplar.activation, exemplar.document, before, after, tuple(segments))


def histogram_path(counts: Sequence[int], width: int, height: int) -> str:
    """Return the outline of a histogram as an SVG path, its heights logarithmic so that tails of few tokens show."""
    if not counts or max(counts) <= 0:
        return ""
    top = math.log1p(max(counts))
    step = width / len(counts)
    path = f"M0 {height}"
    for place, count in enumerate(counts):
        path += f"V{height - height * math.log1p(max(count, 0)) / top:.3g}H{(place + 1) * step:.4g}"
    return f"{path}V{height}Z"
