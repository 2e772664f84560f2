"""The truth about planted neurons: records stored with the checkpoint."""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import HarnessError
from harness.folder import write_json
from harness.records import Neuron, Side, from_json, to_json
from harness.results.formatting import listing

TRUTH = "truth.json"


class Seen(enum.StrEnum):
    """Where a concept of a neuron can be found."""

    BOTH = "weights and text"
    WEIGHTS = "weights only"  # no text of the planted corpus contains its words
    TEXT = "text only"  # the vocabulary projections of the gate and in vectors do not show its words
    OUTPUT = "output"  # the neuron promotes it


@dataclass(frozen=True)
class Concept:
    """A cluster of words in the embedding.

    Attributes:
        name: plain name.
        broader: a broader concept that includes it.
        labels: single words that name it.
        words: its words, most typical first.
        tokens: their ids.
        seen: where it can be found when a neuron reads it.
        neighbour: name of the concept with the most similar direction.
        rate: share of the corpus's documents that are about it; None if all concepts are equally common.
    """

    name: str
    broader: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    tokens: tuple[int, ...]
    seen: Seen
    neighbour: str
    rate: float | None = None


@dataclass(frozen=True)
class Part:
    """A concept in a neuron.

    Attributes:
        concept: name of the concept.
        weight: the neuron's mean pre-activation at the concept's words, or its promotion of them, relative to the
            strongest concept of the same vector. Negative if the activation is negative.
    """

    concept: str
    weight: float


@dataclass(frozen=True)
class PlantedNeuron:
    """What was planted in one neuron.

    Attributes:
        index: the neuron's index in layer 0.
        level: name of its difficulty.
        reads: concepts that it responds to, strongest first.
        writes: concepts that it promotes when its activation is positive, strongest first.
    """

    index: int
    level: str
    reads: tuple[Part, ...]
    writes: tuple[Part, ...]


@dataclass(frozen=True)
class Planted:
    """A concept of a neuron at one of its signs.

    Attributes:
        concept: the concept.
        weight: its weight, positive.
        seen: where it can be found.
    """

    concept: Concept
    weight: float
    seen: Seen


@dataclass(frozen=True)
class Truth:
    """Everything that was planted in one subject.

    Attributes:
        key: key of the settings.
        concepts: all concepts, planted or not.
        neurons: the neurons of the layer.
    """

    key: str
    concepts: tuple[Concept, ...]
    neurons: tuple[PlantedNeuron, ...]

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read what :meth:`write` wrote.

        Raises:
            HarnessError: if the file is missing or invalid.
        """
        try:
            return from_json(cls, json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise HarnessError(f"{path} is not a record of what was planted: {str(error).splitlines()[0]}") from error

    def write(self, path: Path) -> None:
        """Write it as JSON. Equal truths give equal bytes."""
        write_json(path, to_json(self))

    @cached_property
    def _named(self) -> dict[str, Concept]:
        return {concept.name: concept for concept in self.concepts}

    def concept(self, name: str) -> Concept:
        """Return a concept by its name."""
        return self._named[name]

    def neuron(self, neuron: Neuron) -> PlantedNeuron:
        """Return what was planted in a neuron, for both signs.

        Raises:
            HarnessError: if nothing was planted in it.
        """
        if neuron.layer != 0 or neuron.expert is not None or not 0 <= neuron.index < len(self.neurons):
            raise HarnessError(
                f"nothing was planted in {neuron}: the planted neurons are L0N0 to L0N{len(self.neurons) - 1}"
            )
        return self.neurons[neuron.index]

    def planted(self, neuron: Neuron, side: Side | str = Side.BOTH) -> tuple[Planted, ...]:
        """Return the concepts of a neuron at its sign: those it reads, then those it writes, strongest first.

        At the negative sign these are the concepts that make the activation negative. The neuron writes no concept
        there, because the opposite of a concept is not a concept.

        Raises:
            HarnessError: if nothing was planted in it.
        """
        record = self.neuron(neuron)
        found = []
        if Side(side) is not Side.OUTPUT:
            found += [
                Planted(concept, abs(part.weight), concept.seen)
                for part in record.reads
                if (part.weight < 0) is neuron.negative and (concept := self.concept(part.concept))
            ]
        if Side(side) is not Side.INPUT and not neuron.negative:
            found += [Planted(self.concept(part.concept), part.weight, Seen.OUTPUT) for part in record.writes]
        return tuple(found)

    def description(self, neuron: Neuron, side: Side | str = Side.BOTH) -> str:
        """Return the true description of a neuron as text.

        Raises:
            HarnessError: if nothing was planted in it on this side.
        """
        return in_words(self.planted(neuron, side), neuron)


def in_words(planted: Sequence[Planted], neuron: Neuron) -> str:
    """Return a description of a neuron with these concepts.

    Raises:
        HarnessError: if there are no concepts.
    """
    if not planted:
        raise HarnessError(f"nothing was planted in {neuron} on this side")
    reads = [item for item in planted if item.seen is not Seen.OUTPUT]
    writes = [item for item in planted if item.seen is Seen.OUTPUT]
    parts = []
    if reads:
        parts.append(f"is active on {_listed(reads)}")
    if writes:
        parts.append(f"promotes {_listed(writes)}")
    return "; ".join(parts)


def _listed(planted: Sequence[Planted]) -> str:
    strongest = max(item.weight for item in planted)
    names = []
    for item in planted:
        degree = "" if item.weight > 0.75 * strongest else "more weakly, "
        names.append(f"{degree}{item.concept.name} (such as {', '.join(item.concept.words[:4])})")
    return listing(names)
