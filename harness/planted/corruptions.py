"""Descriptions of known quality, made by corrupting the true one: a judge that prefers the worse of two is wrong."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Sequence

from harness.fillers import GENERIC, padded
from harness.planted.truth import Planted, Truth, in_words
from harness.records import Neuron, Side
from harness.seeds import derangement, derive_rng

#: Largest number of other neurons whose descriptions are given.
OTHERS = 8


class Grade(enum.StrEnum):
    """How a description was made from the truth, best first; conf/describers/graded.yaml has the quality of each."""

    RIGHT = "right"
    PADDED = "right, padded"
    ADDED_HALF = "half as many false concepts added"
    HALF = "half"
    NARROW = "too narrow"
    BROAD = "too broad"
    ADDED = "as many false concepts added"
    ADDED_TWICE = "twice as many false concepts added"
    NEIGHBOUR = "neighbouring concept"
    OTHER = "another neuron's"
    GENERIC = "generic"
    EMPTY = "empty"


def graded(
    truth: Truth, neuron: Neuron, among: Sequence[Neuron], *, side: Side | str = Side.BOTH, seed: int = 0
) -> dict[str, str]:
    """Return descriptions of a neuron by :class:`Grade`.

    - Right: every concept by name, with words of it. Padded: the same, followed by about as many words without content.
    - Half: the stronger half of the concepts; omitted for a neuron with one concept.
    - Too narrow: one word of each concept. Too broad: the broader concept of each.
    - Added: the right description with further concepts that the neuron does not have, of the same strength and, if the
      concepts have rates, equally common: half as many as it has (at least one), as many, or twice as many.
    - Neighbouring concept: for each concept, the most similar one that the neuron does not have.
    - Another neuron's: the right description of a neuron that shares no concept with it; omitted if there is none.
      Those of further neurons are numbered: ``another neuron's (2)``.
    - Generic: the same text for all neurons. Empty: no text.

    Args:
        truth: what was planted.
        neuron: the neuron at its sign.
        among: the neurons of the run, from which the other neuron is taken.
        side: which concepts are described: those it responds to (``input``), promotes (``output``) or both. A judge
            that sees only one side can only judge that one.
        seed: seed of the choice of the other neuron.

    Raises:
        HarnessError: if the neuron has no concept on that side.
    """
    planted = truth.planted(neuron, side)
    right = in_words(planted, neuron)
    texts: dict[str, str] = {Grade.RIGHT: right, Grade.PADDED: padded(right)}
    if len(planted) > 1:
        strongest = sorted(planted, key=lambda item: -item.weight)[: len(planted) // 2]
        texts[Grade.HALF] = in_words([item for item in planted if item in strongest], neuron)
    texts[Grade.NARROW] = _alternatives("the single word", [item.concept.words[0] for item in planted])
    texts[Grade.BROAD] = _alternatives("anything to do with", [item.concept.broader for item in planted])
    for grade, factor in ((Grade.ADDED_HALF, 0.5), (Grade.ADDED, 1.0), (Grade.ADDED_TWICE, 2.0)):
        false = _false(truth, neuron, planted, max(1, round(factor * len(planted))), seed)
        texts[grade] = in_words([*planted, *false], neuron)
    texts[Grade.NEIGHBOUR] = in_words(_neighbours(truth, planted), neuron)
    others = _others(truth, neuron, among, Side(side), seed)
    for number, other in enumerate(itertools.islice(others, OTHERS), start=1):
        texts[Grade.OTHER if number == 1 else f"{Grade.OTHER} ({number})"] = truth.description(other, side)
    return texts | {Grade.GENERIC: GENERIC, Grade.EMPTY: ""}


def _alternatives(prefix: str, items: Sequence[str]) -> str:
    return f"{prefix} {' or '.join(dict.fromkeys(items))}"


def _neighbours(truth: Truth, planted: Sequence[Planted]) -> list[Planted]:
    used = {item.concept.name for item in planted}
    found = []
    for item in planted:
        name = item.concept.neighbour
        if name in used:
            name = truth.concept(name).neighbour
        if name in used:
            name = next(concept.name for concept in truth.concepts if concept.name not in used)
        used.add(name)
        found.append(Planted(truth.concept(name), item.weight, item.seen))
    return found


def _false(truth: Truth, neuron: Neuron, planted: Sequence[Planted], count: int, seed: int) -> list[Planted]:
    """Return concepts that a neuron does not have, a fixed random choice of which the first are always the same."""
    own = {item.concept.name for item in truth.planted(neuron)} | {item.concept.name for item in planted}
    others = [one for one in truth.concepts if one.name not in own and one.rate == planted[0].concept.rate]
    order = derive_rng(seed, "false concepts", neuron).permutation(len(others))[:count]
    return [Planted(others[index], 1.0, planted[place % len(planted)].seen) for place, index in enumerate(order)]


def _others(truth: Truth, neuron: Neuron, among: Sequence[Neuron], side: Side, seed: int) -> Iterator[Neuron]:
    """Yield other neurons, at random, that have concepts on this side and share none with this one.

    If the concepts have rates, those of the other neuron are equally common.
    """
    others = sorted(set(among) | {neuron})
    if len(others) < 2:
        return
    order = derangement(len(others), seed, "another neuron's description")
    planted = truth.planted(neuron)
    concepts, rate = {item.concept.name for item in planted}, planted[0].concept.rate if planted else None
    index = order[others.index(neuron)]
    while others[index] != neuron:
        candidate = others[index]
        theirs = truth.planted(candidate)
        shared = concepts & {item.concept.name for item in theirs}
        known = candidate.unsigned != neuron.unsigned and not shared and truth.planted(candidate, side)
        if known and theirs[0].concept.rate == rate:
            yield candidate
        index = order[index]
