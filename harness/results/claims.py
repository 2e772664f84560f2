"""What is published about the decomposition, next to what a run gives.

Published: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005 ([R]). Its values are of Gemma-2-2B-it and
Llama-3.1-8B-Instruct. Those of single channels are of one vector, the running example in the authors' notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.records import TextAblation, VectorKind
from harness.results.diagnostics import DiagnosticsGroup, Floats, lost_on_text, together
from harness.stats.bootstrap import Interval, Ints, clustered_interval, clustered_median_interval

PAPER = "[R]: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005"
EXAMPLE = (
    "rotate_one_neuron.ipynb at commit 052ff6a of github.com/AsafAvr/rotating-neurons: Gemma-2-2B-it, layer 18, "
    "neuron 9005, gate"
)
#: Agreement of two random seeds, [R]: cosine of matched channels, and Jaccard index of their top tokens.
SEEDS_COSINE, SEEDS_JACCARD = 0.9, 0.8
#: Ranges of the ablations, [R]. The text and tokens are not stated.
_ABLATIONS = {"faithful": (0.46, 0.71), "complete": (0.49, 0.60)}
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
        control_of: what that is; empty without a control.
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


class _Measured(NamedTuple):
    """A value of the run, its interval and the number of weight vectors behind it."""

    value: float | None = None
    interval: Interval | None = None
    vectors: int = 0


def claim_rows(groups: Sequence[DiagnosticsGroup], manifest: Mapping[str, Any]) -> tuple[ClaimRow, ...]:
    """Return all published values with those of a run, over all its layers and kinds; empty without vectors.

    Args:
        groups: the run's diagnostics.
        manifest: the run's manifest, for the size of the subject's vocabulary.
    """
    if not groups:
        return ()
    every, vocabulary = together(groups), (manifest.get("subject") or {}).get("vocabulary")
    return (
        *_kurtosis(every),
        *_cosine(every),
        *_masked(every, vocabulary),
        _reconstruction(every),
        *_seeds(every),
        *_without_text(every),
        *_on_text(every.text_ablations),
    )


def _kurtosis(group: DiagnosticsGroup) -> Iterator[ClaimRow]:
    found = [("vector_kurtosis", "the weight vector", EXAMPLE_KURTOSIS, group.vector_kurtosis)]
    drawn = [[item.kurtosis, *item.channel_kurtosis] for item in group.random]
    for rank, (published, _, _) in enumerate(EXAMPLE_CHANNELS):
        found.append((f"kurtosis_{rank + 1}", f"channel {rank + 1}", published, _rank(group.kurtosis, rank)))
    for place, (key, of, published, values) in enumerate(found):
        control = _centre(np.median, [values[place] for values in drawn if len(values) > place])
        claim = f"excess kurtosis of {of}, median"
        yield _row(key, claim, f"{published}", EXAMPLE, _median(values, group.neurons), control, _RANDOM)


def _cosine(group: DiagnosticsGroup) -> Iterator[ClaimRow]:
    for rank, (_, published, _) in enumerate(EXAMPLE_CHANNELS):
        control = _centre(np.mean, [item.cosine[rank] for item in group.random if len(item.cosine) > rank])
        claim, found = f"cosine of channel {rank + 1} and vector", _mean(_rank(group.cosine, rank), group.neurons)
        yield _row(f"cosine_{rank + 1}", claim, f"{published}", EXAMPLE, found, control, _RANDOM)


def _masked(group: DiagnosticsGroup, vocabulary: int | None) -> Iterator[ClaimRow]:
    for rank, (_, _, masked) in enumerate(EXAMPLE_CHANNELS):
        published = f"{100 * masked / EXAMPLE_VOCABULARY:.2f} ({masked:,} of {EXAMPLE_VOCABULARY:,})"
        claim = f"tokens masked after channel {rank + 1}, % of the vocabulary, median"
        shares = 100 * _rank(group.masked_tokens, rank) / (vocabulary or np.nan)
        yield _row(f"masked_{rank + 1}", claim, published, EXAMPLE, _median(shares, group.neurons))


def _reconstruction(group: DiagnosticsGroup) -> ClaimRow:
    count = group.kurtosis.shape[1]
    # A projection on the span has this share of the vector's norm, and this cosine with the vector.
    norms = np.sqrt(group.reconstruction[:, -1]) if group.reconstruction.size else np.empty(0)
    drawn = [item.reconstruction[-1] ** 0.5 for item in group.random if len(item.reconstruction) == count]
    return _row(
        "norm_in_span",
        f"share of the norm in the span of {count} channels (published: {CHANNELS})",
        "above 0.99, or above 0.95 or 0.7: the sources disagree",
        "abstract pages of [R]: 0.99 of the norm; a third-party note: cosine 0.95 and explained norm 0.7",
        _mean(norms, group.neurons),
        _centre(np.mean, drawn),
        _RANDOM,
    )


def _seeds(group: DiagnosticsGroup) -> Iterator[ClaimRow]:
    apart = _centre(np.mean, [item.apart for item in group.restarts if item.apart is not None])
    cosine, jaccard = (_of_channels(group.restarts, name) for name in ("cosine", "jaccard"))
    claim, control_of = "cosine of matched channels from two starts", "channels that are not matched"
    yield _row("seeds_cosine", claim, f"about {SEEDS_COSINE}", PAPER, cosine, apart, control_of)
    yield _row("seeds_jaccard", "Jaccard index of their top tokens", f"about {SEEDS_JACCARD}", PAPER, jaccard)


def _without_text(group: DiagnosticsGroup) -> Iterator[ClaimRow]:
    for key, published in _ABLATIONS.items():
        claim, found = f"{key}, projections on the vocabulary", _of_channels(group.ablations, key)
        control = _centre(np.mean, [value for item in group.random for value in _values(item, key)])
        yield _row(key, claim, _range(published), PAPER, found, control, _RANDOM)


def _on_text(items: Sequence[TextAblation]) -> Iterator[ClaimRow]:
    out = [item for item in items if item.kind is VectorKind.OUT]
    reads = [item for item in items if item.kind is not VectorKind.OUT]
    for side, what, some in (
        ("activations", "activations on text (gate, in)", reads),
        ("logits", "logits on text (out)", out),
    ):
        lost = lost_on_text(some)
        for key, published in _ABLATIONS.items():
            found = _Measured(lost[f"text_{key}"], lost[f"text_{key}_interval"], len(some))
            control = lost["text_random" if key == "faithful" else "text_complete_random"]
            yield _row(f"{key}_{side}", f"{key}, {what}", _range(published), PAPER, found, control, _DIRECTIONS)


def _row(
    key: str,
    claim: str,
    published: str,
    source: str,
    found: _Measured,
    control: float | None = None,
    control_of: str = "",
) -> ClaimRow:
    def five(value: float | None) -> float | None:
        return None if value is None else round(value, 5)

    bounds = None if found.interval is None else (round(found.interval[0], 5), round(found.interval[1], 5))
    of = "" if control is None else control_of
    return ClaimRow(key, claim, published, source, five(found.value), bounds, found.vectors, five(control), of)


def _rank(table: Floats, rank: int) -> Floats:
    """Return one column of a table (n, C), NaN where there are fewer channels."""
    return table[:, rank] if rank < table.shape[1] else np.full(len(table), np.nan)


def _median(values: Floats, neurons: Ints) -> _Measured:
    known = ~np.isnan(values)
    if not known.any():
        return _Measured()
    interval = clustered_median_interval(values[known], neurons[known], seed=0)
    return _Measured(float(np.median(values[known])), interval, int(known.sum()))


def _mean(values: Floats, neurons: Ints) -> _Measured:
    known = ~np.isnan(values)
    if not known.any():
        return _Measured()
    interval = clustered_interval(values[known].tolist(), neurons[known].tolist(), seed=0)
    return _Measured(float(np.mean(values[known])), interval, int(known.sum()))


def _of_channels(records: Sequence[Any], name: str) -> _Measured:
    """Return the mean of an attribute of records, each of one vector of a neuron."""
    pairs = [(value, record.neuron) for record in records for value in _values(record, name)]
    if not pairs:
        return _Measured()
    values, neurons = zip(*pairs, strict=True)
    vectors = {(record.neuron, record.kind) for record in records}
    return _Measured(float(np.mean(values)), clustered_interval(values, neurons, seed=0), len(vectors))


def _values(record: Any, name: str) -> list[float]:
    """Return the values of an attribute, which has one for each channel or one for all, without None."""
    own = getattr(record, name)
    return [value for value in (own if isinstance(own, tuple) else (own,)) if value is not None]


def _centre(of: Callable[[Any], Any], values: Sequence[float]) -> float | None:
    return float(of(values)) if len(values) else None


def _range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}"
