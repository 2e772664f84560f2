"""What is published about the decomposition, next to what a run gives.

Published: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R]). Its values are of Gemma-2-2B-it and
Llama-3.1-8B-Instruct. Those of single channels are of one vector, the running example in the authors' notebook.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import VectorKind
from harness.results.diagnostics import DiagnosticsGroup, Floats, lost_on_text, together
from harness.stats.bootstrap import Interval, clustered_interval, clustered_median_interval

PAPER = "[R]"
EXAMPLE = (
    "rotate_one_neuron.ipynb at commit 052ff6a of github.com/AsafAvr/rotating-neurons: Gemma-2-2B-it, layer 18, "
    "neuron 9005, gate"
)
#: Agreement of two random seeds, [R]: cosine of matched channels, and Jaccard index of their top tokens.
SEEDS_COSINE, SEEDS_JACCARD = 0.9, 0.8
#: Ranges of the ablations, [R]. The text and tokens are not stated.
FAITHFUL, COMPLETE = (0.46, 0.71), (0.49, 0.60)
#: Excess kurtosis of the vector of the running example.
EXAMPLE_KURTOSIS = 0.3
#: Its first channels: excess kurtosis, cosine with the vector, tokens masked.
EXAMPLE_CHANNELS = ((86.6, 0.67, 439), (54.4, 0.68, 542), (88.0, 0.63, 386), (5.4, 0.82, 1676), (77.3, 0.63, 422))
#: Number of tokens of its model.
EXAMPLE_VOCABULARY = 256_000
#: Channels of a vector, for the share of the norm in their span.
CHANNELS = 50
#: Confidence level of the intervals, as of all diagnostics.
CONFIDENCE = 0.95

_RANDOM = "random vectors"
_DIRECTIONS = "random directions"


@dataclass(frozen=True)
class ClaimRow:
    """One published value, and the run's.

    Attributes:
        key: name in ``claims.json``.
        claim: what is measured.
        published: the published value, or values.
        source: where it is from.
        value: the run's; None if it was not measured.
        interval: 95 % interval of ``value``, from resampled neurons.
        vectors: number of weight vectors behind it.
        control: the same for something that is not a neuron or channel; None if it was not measured.
        control_of: what that is.
    """

    key: str
    claim: str
    published: str
    source: str
    value: float | None
    interval: Interval | None
    vectors: int
    control: float | None
    control_of: str


def claim_rows(groups: Sequence[DiagnosticsGroup], manifest: Mapping[str, Any]) -> tuple[ClaimRow, ...]:
    """Return all published values with those of a run, over all its layers and kinds; empty without vectors.

    Args:
        groups: the run's diagnostics.
        manifest: the run's manifest, for the size of the subject's vocabulary.
    """
    if not groups:
        return ()
    vocabulary = (manifest.get("subject") or {}).get("vocabulary")
    rows = [*_of_channels(together(groups), vocabulary), *_of_all_channels(together(groups)), *_on_text(groups)]
    return tuple(dataclasses.replace(row, **_rounded(row)) for row in rows)


def _of_channels(group: DiagnosticsGroup, vocabulary: int | None) -> Iterator[ClaimRow]:
    drawn = [item.kurtosis for item in group.random]
    yield ClaimRow(
        *("vector_kurtosis", "excess kurtosis of the weight vector, median", f"{EXAMPLE_KURTOSIS}", EXAMPLE),
        *_median(group, group.vector_kurtosis),
        *(_centre(np.median, drawn), _RANDOM),
    )
    for rank, (kurtosis, _, _) in enumerate(EXAMPLE_CHANNELS):
        drawn = [item.channel_kurtosis[rank] for item in group.random if len(item.channel_kurtosis) > rank]
        yield ClaimRow(
            *(f"kurtosis_{rank + 1}", f"excess kurtosis of channel {rank + 1}, median", f"{kurtosis}", EXAMPLE),
            *_median(group, _rank(group.kurtosis, rank)),
            *(_centre(np.median, drawn), _RANDOM),
        )
    for rank, (_, cosine, _) in enumerate(EXAMPLE_CHANNELS):
        drawn = [item.cosine[rank] for item in group.random if len(item.cosine) > rank]
        yield ClaimRow(
            *(f"cosine_{rank + 1}", f"cosine of channel {rank + 1} and vector", f"{cosine}", EXAMPLE),
            *_mean(_rank(group.cosine, rank), group.neurons),
            *(_centre(np.mean, drawn), _RANDOM),
        )
    for rank, (_, _, masked) in enumerate(EXAMPLE_CHANNELS):
        values = 100 * _rank(group.masked_tokens, rank) / (vocabulary or np.nan)
        published = f"{100 * masked / EXAMPLE_VOCABULARY:.2f} ({masked:,} of {EXAMPLE_VOCABULARY:,})"
        words = f"tokens masked after channel {rank + 1}, % of the vocabulary, median"
        yield ClaimRow(f"masked_{rank + 1}", words, published, EXAMPLE, *_median(group, values), None, "")


def _of_all_channels(group: DiagnosticsGroup) -> Iterator[ClaimRow]:
    count = group.kurtosis.shape[1]
    # A projection on the span has this share of the vector's norm, and this cosine with the vector.
    norms = np.sqrt(group.reconstruction[:, -1]) if group.reconstruction.size else np.empty(0)
    drawn = [item.reconstruction[-1] for item in group.random if len(item.reconstruction) == count]
    yield ClaimRow(
        *("norm_in_span", f"share of the norm in the span of {count} channels (published: {CHANNELS})"),
        "above 0.99, or above 0.95 or 0.7: the sources disagree",
        "abstract pages of [R]: 0.99 of the norm; a third-party note: cosine 0.95 and explained norm 0.7",
        *_mean(norms, group.neurons),
        *(_centre(np.mean, np.sqrt(drawn)), _RANDOM),
    )
    apart = [item.apart for item in group.restarts if item.apart is not None]
    yield ClaimRow(
        *("seeds_cosine", "cosine of matched channels from two starts", f"about {SEEDS_COSINE}", PAPER),
        *_of_items(group.restarts, lambda item: item.cosine),
        *(_centre(np.mean, apart), "channels that are not matched"),
    )
    yield ClaimRow(
        *("seeds_jaccard", "Jaccard index of their top tokens", f"about {SEEDS_JACCARD}", PAPER),
        *_of_items(group.restarts, lambda item: item.jaccard),
        *(None, ""),
    )
    drawn = [value for item in group.random for value in item.faithful if value is not None]
    yield ClaimRow(
        *("faithful", "faithful, projections on the vocabulary", _range(FAITHFUL), PAPER),
        *_of_items(group.ablations, lambda item: item.faithful),
        *(_centre(np.mean, drawn), _RANDOM),
    )
    drawn = [item.complete for item in group.random if item.complete is not None]
    yield ClaimRow(
        *("complete", "complete, projections on the vocabulary", _range(COMPLETE), PAPER),
        *_of_items(group.ablations, lambda item: [item.complete]),
        *(_centre(np.mean, drawn), _RANDOM),
    )


def _on_text(groups: Sequence[DiagnosticsGroup]) -> Iterator[ClaimRow]:
    items = together(groups).text_ablations
    for side, what, of_side in (
        ("activations", "activations on text (gate, in)", [item for item in items if item.kind is not VectorKind.OUT]),
        ("logits", "logits on text (out)", [item for item in items if item.kind is VectorKind.OUT]),
    ):
        found = lost_on_text(of_side)
        for name, published, control in (
            ("faithful", FAITHFUL, "text_random"),
            ("complete", COMPLETE, "text_complete_random"),
        ):
            value, interval = found[f"text_{name}"], found[f"text_{name}_interval"]
            key, words = f"{name}_{side}", f"{name}, {what}"
            yield ClaimRow(
                key, words, _range(published), PAPER, value, interval, len(of_side), found[control], _DIRECTIONS
            )


def _rank(table: Floats, rank: int) -> Floats:
    """Return one column of a table (n, C), NaN where there are fewer channels."""
    return table[:, rank] if rank < table.shape[1] else np.full(len(table), np.nan)


def _median(group: DiagnosticsGroup, values: Floats) -> tuple[float | None, Interval | None, int]:
    known = ~np.isnan(values)
    if not known.any():
        return None, None, 0
    interval = clustered_median_interval(values[known], group.neurons[known], seed=0)
    return float(np.median(values[known])), interval, int(known.sum())


def _mean(values: Floats, neurons: Sequence[Any]) -> tuple[float | None, Interval | None, int]:
    known = [(value, neuron) for value, neuron in zip(values, neurons, strict=True) if not np.isnan(value)]
    if not known:
        return None, None, 0
    numbers, clusters = zip(*known, strict=True)
    return float(np.mean(numbers)), clustered_interval(numbers, clusters, seed=0), len(known)


def _of_items(
    items: Sequence[Any], values: Callable[[Any], Sequence[float | None]]
) -> tuple[float | None, Interval | None, int]:
    """Return the mean over the channels of some records, each of one vector, its interval, and their number."""
    known = [(value, item.neuron) for item in items for value in values(item) if value is not None]
    mean, interval, _ = _mean(np.array([value for value, _ in known]), [neuron for _, neuron in known])
    return mean, interval, len({(item.neuron, item.kind) for item in items})


def _centre(of: Callable[[Any], Any], values: Any) -> float | None:
    return float(of(values)) if len(values) else None


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"


def _rounded(row: ClaimRow) -> dict[str, Any]:
    def five(value: float | None) -> float | None:
        return None if value is None else round(value, 5)

    interval = None if row.interval is None else tuple(five(bound) for bound in row.interval)
    return {"value": five(row.value), "interval": interval, "control": five(row.control)}
