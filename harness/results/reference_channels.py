"""Channels that somebody else has published, beside those that a run found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from harness.records import Channel, Neuron, VectorKind, VectorSummary


def _neuron(name: Any) -> Neuron:
    neuron = Neuron.named(str(name))
    if neuron.negative:
        raise ValueError("the decomposition knows whole neurons only: leave the minus out")
    return neuron


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ReferenceChannel:
    """A channel that a weight vector is expected to have. What is none is not known.

    Attributes:
        neuron: the neuron, in the config by its name.
        kind: which of its weight vectors.
        rank: order of discovery, from 0.
        tokens: its top tokens, best first.
        kurtosis: its excess kurtosis.
        cosine: between it and the weight vector.
        vector_kurtosis: excess kurtosis of the weight vector itself.
        source: where this is from.
    """

    neuron: Annotated[Neuron, BeforeValidator(_neuron)]
    kind: VectorKind
    rank: int = 0
    tokens: tuple[str, ...] = ()
    kurtosis: float | None = None
    cosine: float | None = None
    vector_kurtosis: float | None = None
    source: str = ""


@dataclass(frozen=True)
class FoundChannel:
    """What a run found where a channel was expected.

    Attributes:
        expected: the channel that was expected.
        channel: the run's channel whose top tokens overlap most; of equal ones, that of the nearest rank. None if the
            weight vector was not decomposed.
        tokens: as many of its top tokens as were expected; ten if none were.
        jaccard: overlap of the two sets of tokens: size of the intersection over that of the union; none if no tokens
            were expected, or there is no channel.
        vector_kurtosis: excess kurtosis of the weight vector; none if it was not decomposed.
    """

    expected: ReferenceChannel
    channel: Channel | None
    tokens: tuple[str, ...]
    jaccard: float | None
    vector_kurtosis: float | None


_EXPECTED = TypeAdapter(tuple[ReferenceChannel, ...])


def reference_channels(entries: Any) -> tuple[ReferenceChannel, ...]:
    """Read expected channels from a config.

    Raises:
        ValueError: in one line, if one cannot be read.
    """
    try:
        return _EXPECTED.validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise ValueError(f"expected{place}: {first['msg']}") from error


def found_channels(
    expected: Iterable[ReferenceChannel], channels: Sequence[Channel], vectors: Sequence[VectorSummary]
) -> tuple[FoundChannel, ...]:
    """Set the channels of a run beside the expected ones."""
    return tuple(_found(one, channels, vectors) for one in expected)


def _found(expected: ReferenceChannel, channels: Sequence[Channel], vectors: Sequence[VectorSummary]) -> FoundChannel:
    place = expected.neuron, expected.kind
    kurtosis = next((item.kurtosis for item in vectors if (item.neuron, item.kind) == place), None)
    own = [channel for channel in channels if (channel.neuron, channel.kind) == place]
    if not own:
        return FoundChannel(expected, None, (), None, kurtosis)
    best = max(own, key=lambda channel: (_jaccard(expected, channel), -abs(channel.rank - expected.rank)))
    return FoundChannel(
        expected, best, _top(expected, best), _jaccard(expected, best) if expected.tokens else None, kurtosis
    )


def _top(expected: ReferenceChannel, channel: Channel) -> tuple[str, ...]:
    return tuple(token.token for token in channel.tokens[: len(expected.tokens) or 10])


def _jaccard(expected: ReferenceChannel, channel: Channel) -> float:
    wanted, found = set(expected.tokens), set(_top(expected, channel))
    return len(wanted & found) / len(wanted | found) if wanted else 0.0
