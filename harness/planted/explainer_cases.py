"""Evidence with a known answer, to check an explainer before it describes neurons.

Every concept of ``explainer_cases.yaml`` becomes the evidence of one neuron: its words are the tokens of all channels,
the tokens that the neuron promotes, and the tokens with high activations in short excerpts. The describers of a run
describe this evidence with their own prompts, as they describe neurons.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

from omegaconf import OmegaConf

from harness.evidence import ReadText, TextReader
from harness.llm.client import LLMClient, Unanswered
from harness.methods import Describer, DescriberCase
from harness.records import Channel, Effect, Exemplar, Neuron, ScoredToken, Source, Split, Status, VectorKind
from harness.stems import stem
from harness.subject import Subject

_WORD = re.compile(r"[^\W\d_]+")
_TOKEN = re.compile(r" ?\w+| ?[^\w\s]")
_MARKED = re.compile(r"( ?)«([^»]+)»")
#: Words that the evidence does not show which name a concept without its label.
FURTHER_WORDS = 2


@dataclass(frozen=True)
class PlantedConcept:
    """One concept; ``explainer_cases.yaml`` explains the attributes."""

    name: str
    labels: tuple[str, ...]
    shown: tuple[str, ...]
    further: tuple[str, ...]
    excerpts: tuple[str, ...]

    def is_named(self, description: str) -> bool:
        """Return whether a description has a label, or two words of the concept that the evidence does not show.

        Words are compared by their stems. Copying the evidence does not name the concept.
        """
        stems = {stem(word) for word in _WORD.findall(description.lower())}
        further = stems & set(map(stem, self.further))
        return bool(stems & set(map(stem, self.labels))) or len(further) >= FURTHER_WORDS


@cache
def planted_concepts() -> tuple[PlantedConcept, ...]:
    """Return all concepts, in the order of the file."""
    text = resources.files("harness.planted").joinpath("explainer_cases.yaml").read_text("utf-8")
    listed: Any = OmegaConf.create(text)
    return tuple(
        PlantedConcept(name, **{key: tuple(values) for key, values in entry.items()}) for name, entry in listed.items()
    )


class _ListedTokens:
    """A subject whose weight vectors project to given tokens; everything else is the subject's own."""

    def __init__(self, subject: Subject, high: Sequence[ScoredToken], low: Sequence[ScoredToken]) -> None:
        self._subject, self._ends = subject, (tuple(high), tuple(low))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def vocabulary_tokens(
        self, neuron: Neuron, kind: VectorKind, count: int, *, final_norm: bool = False
    ) -> tuple[tuple[ScoredToken, ...], tuple[ScoredToken, ...]]:
        """Return the given tokens, whatever the vector."""
        high, low = self._ends
        return high[:count], low[:count]


class _NothingToRead(TextReader):
    """There is no neuron behind planted evidence, so a describer that reads new text cannot be checked."""

    def __init__(self) -> None:
        pass

    async def read(self, neuron: Neuron, texts: Sequence[str]) -> list[ReadText]:
        """Fail the item."""
        raise Unanswered(Status.FAILED, "planted evidence has no neuron that could read new text")


def planted_case(
    concept: PlantedConcept,
    describer: Describer,
    llms: Mapping[str, LLMClient],
    subject: Subject,
    *,
    kinds: Sequence[VectorKind],
    values: Sequence[float],
    budget: int | None,
    seed: int,
) -> DescriberCase:
    """Return the evidence of a planted neuron whose only concept is the given one.

    Words of the other concepts are the tokens at the opposite end, and their excerpts are the silent windows.

    Args:
        concept: the concept.
        describer: the describer that gets the case.
        llms: the LLM of each of its roles.
        subject: the run's subject.
        kinds: vector kinds that have a channel.
        values: values to which the neuron is clamped.
        budget: the run's evidence budget.
        seed: the run's seed.
    """
    every = planted_concepts()
    neuron = Neuron(0, every.index(concept))
    others = [other for other in every if other != concept]
    mixed = [word for words in itertools.zip_longest(*(other.shown for other in others)) for word in words if word]
    high = _scored(concept.shown, 1.0)
    low = _scored(mixed[: len(concept.shown)], -1.0)
    active = [(source, text) for source in (Source.TOP, Source.QUANTILE) for text in concept.excerpts]
    silent = [(Source.RANDOM, other.excerpts[0]) for other in others]
    return DescriberCase(
        neuron,
        tuple(_exemplar(neuron, source, text) for source, text in [*active, *silent]),
        cast(Subject, _ListedTokens(subject, high, low)),
        llms.get(describer.role or ""),
        seed,
        llms=llms,
        effects=tuple(
            Effect(neuron, Split.EXPLAIN, value, 1.0, *((high, low) if value > 0 else (low, high))) for value in values
        ),
        channels=tuple(Channel(neuron, kind, 0, 100.0, 8.0, 0.7, 0.0, len(high), high, low) for kind in kinds),
        neurons=tuple(Neuron(0, index) for index in range(len(every))),
        reader=_NothingToRead(),
        budget=budget,
    )


def _scored(words: Sequence[str], sign: float) -> tuple[ScoredToken, ...]:
    """Return words as tokens, strongest first, with z-scores from 12 down."""
    return tuple(ScoredToken(f" {word}", sign * (12 - 0.5 * place)) for place, word in enumerate(words))


@cache
def _place(text: str) -> int:
    """Return the number of an excerpt among those of all concepts."""
    return [excerpt for concept in planted_concepts() for excerpt in concept.excerpts].index(text)


def _exemplar(neuron: Neuron, source: Source, text: str) -> Exemplar:
    """Return an excerpt as a window. The marked words have high activations, but for a random window."""
    place = _place(text)
    tokens: list[str] = []
    activations: list[float] = []
    end = 0
    for marked in [*_MARKED.finditer(text), None]:
        before = _TOKEN.findall(text[end : marked.start() if marked else None])
        tokens += before
        activations += [0.0] * len(before)
        if marked is not None:
            tokens.append(marked[1] + marked[2])
            activations.append(0.0 if source is Source.RANDOM else 10.0 - place % 6 / 4)
            end = marked.end()
    return Exemplar(neuron, Split.EXPLAIN, source, f"planted-{place}", place, tuple(tokens), tuple(activations))
