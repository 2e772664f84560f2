"""Comparison of a run's channels with reference channels from the config, such as published ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated_dataclass

from harness.records import Channel, Neuron, VectorKind, VectorSummary
from harness.validation import STRICT, CountOrZero, Number, OneOrMore, explain


def _neuron(name: Any) -> Neuron:
    neuron = Neuron.named(str(name))
    if neuron.negative:
        raise ValueError(f"channels have no sign: remove the minus of {name}")
    return neuron


@validated_dataclass(frozen=True, config=STRICT)
class ReferenceChannel:
    """A channel that a weight vector should have. Values that are None are unknown.

    Attributes:
        neuron: the neuron, given by its name in the config.
        kind: which of its weight vectors.
        rank: order of discovery, from 0.
        tokens: its top tokens, best first.
        kurtosis: its excess kurtosis.
        cosine: its cosine with the weight vector.
        vector_kurtosis: excess kurtosis of the weight vector.
        source: where the values are from.
    """

    neuron: Annotated[Neuron, BeforeValidator(_neuron)]
    kind: VectorKind
    rank: CountOrZero = 0
    tokens: OneOrMore[str] = ()
    kurtosis: Number | None = None
    cosine: Number | None = None
    vector_kurtosis: Number | None = None
    source: str = ""


@dataclass(frozen=True)
class FoundChannel:
    """What a run found for a reference channel.

    Attributes:
        reference: the reference channel.
        channel: the run's channel with the largest overlap of top tokens, then the nearest rank. None if the weight
            vector was not decomposed.
        tokens: its top tokens, as many as the reference has (10 if it has none).
        jaccard: Jaccard index of the two sets of tokens; None without a channel or without reference tokens.
        vector_kurtosis: excess kurtosis of the weight vector; None if it was not decomposed.
    """

    reference: ReferenceChannel
    channel: Channel | None
    tokens: tuple[str, ...]
    jaccard: float | None
    vector_kurtosis: float | None


_CHANNELS = TypeAdapter(tuple[ReferenceChannel, ...])


def reference_channels(entries: Any) -> tuple[ReferenceChannel, ...]:
    """Read the reference channels of a config.

    Raises:
        ValueError: with a one-line message, if an entry is invalid.
    """
    try:
        return _CHANNELS.validate_python(entries)
    except ValidationError as error:
        raise ValueError(explain(error, "reference_channels")) from error


def found_channels(
    references: Iterable[ReferenceChannel], channels: Sequence[Channel], vectors: Sequence[VectorSummary]
) -> tuple[FoundChannel, ...]:
    """Find the channel of a run that matches each reference channel best."""
    return tuple(_found(reference, channels, vectors) for reference in references)


def _found(reference: ReferenceChannel, channels: Sequence[Channel], vectors: Sequence[VectorSummary]) -> FoundChannel:
    vector = reference.neuron, reference.kind
    kurtosis = next((item.kurtosis for item in vectors if (item.neuron, item.kind) == vector), None)
    candidates = [channel for channel in channels if (channel.neuron, channel.kind) == vector]
    if not candidates:
        return FoundChannel(reference, None, (), None, kurtosis)
    best = max(candidates, key=lambda channel: (_jaccard(reference, channel), -abs(channel.rank - reference.rank)))
    jaccard = _jaccard(reference, best) if reference.tokens else None
    return FoundChannel(reference, best, _top_tokens(reference, best), jaccard, kurtosis)


def _top_tokens(reference: ReferenceChannel, channel: Channel) -> tuple[str, ...]:
    return tuple(token.token for token in channel.tokens[: len(reference.tokens) or 10])


def _jaccard(reference: ReferenceChannel, channel: Channel) -> float:
    wanted, found = set(reference.tokens), set(_top_tokens(reference, channel))
    return len(wanted & found) / len(wanted | found) if wanted else 0.0
