"""Which planted concepts a description names: recall and precision without an LLM.

Words are compared by their stems. A description *names* a concept if it contains one of its labels, or ``words``
different words of its cluster (two by default, because one can be chance). *Precision* is the fraction of the
description's words, without function words, that are labels or cluster words of a planted concept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.planted.truth import Concept, Planted
from harness.stems import stem
from harness.stop_words import stop_words

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Naming:
    """Which of a neuron's concepts a description names.

    Attributes:
        named: whether each planted concept is named, in the given order.
        words: number of words in the description, without function words.
        hits: number of those that belong to a planted concept.
    """

    named: tuple[bool, ...]
    words: int
    hits: int

    @property
    def recall(self) -> float | None:
        """Fraction of the concepts that are named; None if there are no concepts."""
        return sum(self.named) / len(self.named) if self.named else None

    @property
    def precision(self) -> float | None:
        """Fraction of the words that belong to a concept; None without words or without concepts."""
        return self.hits / self.words if self.words and self.named else None


def naming(description: str, planted: Sequence[Planted], words: int = 2) -> Naming:
    """Compare a description with the truth.

    Args:
        description: the text.
        planted: the neuron's concepts.
        words: number of different words of a concept that count as naming it.
    """
    roots = [(word, stem(word)) for word in _WORD.findall(description.lower())]
    stems = {root for _, root in roots}
    vocabularies = [_stems(item.concept) for item in planted]
    named = tuple(bool(stems & labels) or len(stems & members) >= words for labels, members in vocabularies)
    known = frozenset().union(*(labels | members for labels, members in vocabularies))
    # The list of function words includes some with meaning ("fire", "three"); words of a concept always count.
    counted = [root for word, root in roots if root in known or (len(word) > 1 and word not in stop_words())]
    return Naming(named, len(counted), sum(root in known for root in counted))


@lru_cache(maxsize=1024)
def _stems(concept: Concept) -> tuple[frozenset[str], frozenset[str]]:
    """Return the stems of a concept's labels and of its words."""
    return frozenset(map(stem, concept.labels)), frozenset(map(stem, concept.words))
