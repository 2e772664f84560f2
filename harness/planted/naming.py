"""Which planted concepts a description names, and how many of its words belong to one: recall and precision, no LLM.

Words are compared without their inflections. A concept is *named* by a word that is its name (one of its labels), or
by ``words`` different words of its cluster (two by default: one can be chance). What counts for *precision* are the
description's words but for function words; a word belongs to a concept if it is in its cluster or names it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from harness.planted.stems import stem
from harness.planted.truth import Concept, Planted

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Naming:
    """What a description says of a neuron's concepts.

    Attributes:
        named: for each planted concept, in the order given, whether it is named.
        words: words of the description that count.
        hits: those of them that belong to a planted concept.
    """

    named: tuple[bool, ...]
    words: int
    hits: int

    @property
    def recall(self) -> float | None:
        """Share of the concepts that are named; none if there are none."""
        return sum(self.named) / len(self.named) if self.named else None

    @property
    def precision(self) -> float | None:
        """Share of the words that belong to a concept; none if there are no words, or no concept they could hit."""
        return self.hits / self.words if self.words and self.named else None


def naming(description: str, planted: Sequence[Planted], words: int = 2) -> Naming:
    """Compare a description with the truth.

    Args:
        description: what a describer said.
        planted: the neuron's concepts.
        words: different words of a concept that name it together.
    """
    said = [(word, stem(word)) for word in _WORD.findall(description.lower())]
    stems = {root for _, root in said}
    lexica = [_lexicon(item.concept) for item in planted]
    named = tuple(bool(stems & labels) or len(stems & members) >= words for labels, members in lexica)
    known = frozenset().union(*(labels | members for labels, members in lexica))
    # Some lists of function words hold words that mean something ("fire", "three"): a concept's own word always counts.
    counted = [root for word, root in said if root in known or (len(word) > 1 and word not in ENGLISH_STOP_WORDS)]
    return Naming(named, len(counted), sum(root in known for root in counted))


@lru_cache(maxsize=1024)
def _lexicon(concept: Concept) -> tuple[frozenset[str], frozenset[str]]:
    """Return the stems of a concept's labels and of its words."""
    return frozenset(map(stem, concept.labels)), frozenset(map(stem, concept.words))
