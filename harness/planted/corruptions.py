"""True descriptions made worse by degrees, to judge judges with: whoever prefers the worse of two is wrong."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.fillers import GENERIC, padded
from harness.planted.truth import Planted, Truth, in_words
from harness.records import Neuron, Side
from harness.seeds import derangement


class Grade(enum.StrEnum):
    """How a description was made from the truth."""

    RIGHT = "right"
    PADDED = "right, padded"
    HALF = "half"
    NARROW = "too narrow"
    BROAD = "too broad"
    NEIGHBOUR = "neighbouring concept"
    OTHER = "another neuron's"
    GENERIC = "generic"
    EMPTY = "empty"


#: From 0 (says nothing true) to 1 (right), in steps that mean order alone. Grades of equal quality have none: a judge
#: that prefers one of two such shows a bias.
QUALITY = {
    Grade.RIGHT: 1.0,
    Grade.PADDED: 1.0,
    Grade.HALF: 0.5,
    Grade.NARROW: 0.5,
    Grade.BROAD: 0.5,
    Grade.NEIGHBOUR: 0.25,
    Grade.OTHER: 0.0,
    Grade.GENERIC: 0.0,
    Grade.EMPTY: 0.0,
}


@dataclass(frozen=True)
class Graded:
    """A description of known quality.

    Attributes:
        grade: how it was made.
        text: the description.
        quality: as in :data:`QUALITY`.
    """

    grade: Grade
    text: str
    quality: float


def graded(
    truth: Truth, neuron: Neuron, among: Sequence[Neuron], *, side: Side | str = Side.BOTH, seed: int = 0
) -> tuple[Graded, ...]:
    """Return descriptions of a neuron from right to wrong, the best first.

    Right: every concept by its name, with words of it. Padded: the same and about as many words again that say nothing.
    Half: the stronger half of the concepts; there is none of a neuron with one concept. Too narrow: single words in
    place of each concept. Too broad: what each concept is a kind of. Neighbouring: in each concept's place the one
    whose direction is nearest to it and which the neuron does not have. Another neuron's: the right one of one that
    shares no concept with it, if there is such a neuron. Generic: the same for all. Empty: no word.

    Args:
        truth: what was planted.
        neuron: the neuron at its sign.
        among: the neurons that take part, from whom the other one is taken.
        side: which of its concepts are described: those it responds to (``input``), promotes (``output``) or both. A
            judge that is shown one side can be wrong about the other: it is to be asked about its own.
        seed: decides, with the neuron, which other neuron's is taken.

    Raises:
        HarnessError: if the neuron has no concept on that side.
    """
    planted = truth.planted(neuron, side)
    right = in_words(planted, neuron)
    texts = {Grade.RIGHT: right, Grade.PADDED: padded(right)}
    if len(planted) > 1:
        strongest = sorted(planted, key=lambda item: -item.weight)[: len(planted) // 2]
        texts[Grade.HALF] = in_words([item for item in planted if item in strongest], neuron)
    texts[Grade.NARROW] = _said("the single word", [item.concept.words[0] for item in planted])
    texts[Grade.BROAD] = _said("anything to do with", [item.concept.broader for item in planted])
    texts[Grade.NEIGHBOUR] = in_words(_neighbours(truth, planted), neuron)
    other = _other(truth, neuron, among, Side(side), seed)
    if other is not None:
        texts[Grade.OTHER] = truth.description(other, side)
    texts |= {Grade.GENERIC: GENERIC, Grade.EMPTY: ""}
    return tuple(Graded(grade, text, QUALITY[grade]) for grade, text in texts.items())


def _said(what: str, items: Sequence[str]) -> str:
    return f"{what} {' or '.join(dict.fromkeys(items))}"


def _neighbours(truth: Truth, planted: Sequence[Planted]) -> list[Planted]:
    own = {item.concept.name for item in planted}
    found = []
    for item in planted:
        name = item.concept.neighbour
        while name in own:  # the neighbour's neighbour, and if all lead back, any that is not the neuron's
            following = truth.concept(name).neighbour
            name = following if following not in own else next(c.name for c in truth.concepts if c.name not in own)
        own.add(name)
        found.append(Planted(truth.concept(name), item.weight, item.seen))
    return found


def _other(truth: Truth, neuron: Neuron, among: Sequence[Neuron], side: Side, seed: int) -> Neuron | None:
    """Return the next neuron, in a random order, that has concepts on this side and shares none."""
    others = sorted(set(among) | {neuron})
    if len(others) < 2:
        return None
    order = derangement(len(others), seed, "another neuron's description")
    own = {item.concept.name for item in truth.planted(neuron)}
    place = order[others.index(neuron)]
    while others[place] != neuron:
        candidate = others[place]
        theirs = {item.concept.name for item in truth.planted(candidate)}
        if candidate.unsigned != neuron.unsigned and not own & theirs and truth.planted(candidate, side):
            return candidate
        place = order[place]
    return None
