"""Judges without an LLM: a good description's embedding separates activating text from other text.

Source: Paulo et al. 2024, arXiv:2410.13928 (embedding scoring). A description and a text are compared by the cosine of
their sentence embeddings. The encoder captures topics and words. It does not capture positions, syntax or spelling, and
it does not understand negations, which limits what these judges can measure.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Exemplar, ScoredToken, Side, Split, Status, Winner
from harness.text import bare, is_word
from harness.validation import METHOD, Count, CountOrZero, Fraction, FractionOrZero, NonNegative
from judges.accuracy import auroc, average_precision
from judges.evidence import (
    activating,
    active_and_silent,
    excerpt,
    output_tokens,
    pearson,
    silent,
    top_and_random,
    varies,
)

Floats = NDArray[np.floating]


@dataclass(config=METHOD, eq=False)
class _EmbeddingComparator(Comparator):
    """Prefers the description whose similarity separates two kinds of text better, by AUC.

    Attributes:
        kinds: names of the two kinds, for the reason of a verdict.
    """

    symmetric = True
    kinds: ClassVar[tuple[str, str]]

    encoder: SentenceEncoder
    tie_margin: NonNegative = 0.01

    @abstractmethod
    def texts(self, case: JudgeCase) -> tuple[Sequence[str], Sequence[str]]:
        """Return the texts that should be similar to a good description, and those that should not."""

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two AUCs; a difference below the margin is a tie."""
        positive, negative = self.texts(case)
        one, two = (self.separation(case, description) for description in (first, second))
        winner = Winner.TIE if abs(one - two) < self.tie_margin else Winner.FIRST if one > two else Winner.SECOND
        evidence = f"{len(positive)} {self.kinds[0]} and {len(negative)} {self.kinds[1]}"
        return Judgement(winner, f"AUC {one:.3f} against {two:.3f} on {evidence}")

    def separation(self, case: JudgeCase, description: str) -> float:
        """Return the AUC of the similarity of the two kinds of text with a description, chance 0.5."""
        positive, negative = self.texts(case)
        texts = self.encoder.encode([*positive, *negative])
        labels = [1] * len(positive) + [0] * len(negative)
        return auroc(labels, _similarity(self.encoder, texts, case, self.side, description))


@dataclass(config=METHOD, eq=False)
class EmbeddingPairwise(_EmbeddingComparator):
    """Prefers the description that separates held-out activating from silent text better."""

    kinds = ("activating", "silent windows")

    windows: Count = 20
    context: CountOrZero = 12
    silent_fraction: Fraction = 0.5

    def texts(self, case: JudgeCase) -> tuple[Sequence[str], Sequence[str]]:
        """Return activating and silent excerpts."""
        active, silent = active_and_silent(case, self.windows, self.silent_fraction)
        return [excerpt(item, self.context) for item in active], [excerpt(item, self.context) for item in silent]


@dataclass(config=METHOD, eq=False)
class EmbeddingOutput(_EmbeddingComparator):
    """Prefers the description that separates the tokens that the neuron promotes from those that it suppresses better.

    This applies embedding scoring to the output side: what the neuron writes, not what it reads. A neuron has one
    output vector, so these tokens cannot be held out: a describer that reads their projection has seen them. Treat the
    verdicts on such a describer as an upper bound, next to those of the input side; on a causal subject, use measured
    effects on held-out text (``effects``).
    """

    side = Side.OUTPUT
    kinds = ("promoted", "suppressed tokens")

    effects: bool = False
    tokens: Count = 40
    final_norm: bool = True

    def __post_init__(self) -> None:
        self.needs_effects = self.effects

    def texts(self, case: JudgeCase) -> tuple[Sequence[str], Sequence[str]]:
        """Return promoted and suppressed tokens."""
        tails = output_tokens(case, self.tokens, measured=self.needs_effects, final_norm=self.final_norm)
        promoted, suppressed = map(_words, tails)
        if not promoted or not suppressed:
            raise Unanswered(Status.FAILED, "the neuron promotes or suppresses no token with a letter or a digit")
        return promoted, suppressed


@dataclass(config=METHOD, eq=False)
class EmbeddingSimulation(Scorer):
    """Correlates the similarity of description and window, as predicted activation, with the true activation.

    The value is Pearson's r, signed, over the report split's top and random windows together; ``top`` and ``random``
    are r over each source alone. A negative activation belongs to the neuron's other sign and counts as 0. If the
    similarity does not vary, r is 0 and ``constant`` is 1 (else 0).
    """

    encoder: SentenceEncoder
    context: CountOrZero = 12

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Correlate; raises ``Unanswered`` if the neuron's activations do not vary."""
        groups = top_and_random(case, Split.REPORT)
        everything = self._compared(case, description, [item for group in groups.values() for item in group])
        value = pearson(*everything)
        if value is None:
            raise Unanswered(Status.FAILED, "the neuron's activations do not vary over the report split")
        parts = {source.value: pearson(*self._compared(case, description, group)) for source, group in groups.items()}
        metrics = {name: part for name, part in parts.items() if part is not None}
        return Grade(value, {**metrics, "constant": float(not varies(everything[0]))})

    def _compared(self, case: JudgeCase, description: str, exemplars: Sequence[Exemplar]) -> tuple[Floats, Floats]:
        """Return the predicted and the true activation of each window."""
        true = np.array([max(item.activation, 0.0) for item in exemplars])
        if not len(true):
            return true, true
        texts = self.encoder.encode([excerpt(item, self.context) for item in exemplars])
        return _similarity(self.encoder, texts, case, Side.INPUT, description), true


@dataclass(config=METHOD, eq=False)
class EmbeddingDetection(Scorer):
    """Scores a description by how well its similarity to excerpts separates activating from silent ones.

    The value is the AUC of the cosine similarity: from 0 to 1, chance 0.5. ``average_precision`` is from 0 to 1; its
    chance level is ``base``, the share of activating excerpts.
    """

    encoder: SentenceEncoder
    active: Count = 20
    silent: Count = 40
    context: CountOrZero = 12
    active_share: FractionOrZero = 0.3
    silent_fraction: Fraction = 0.5

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Compare the similarities."""
        active = activating(case, self.active, self.active_share)
        shown = [*active, *silent(case, active, self.silent_fraction, self.silent)]
        texts = self.encoder.encode([excerpt(item, self.context) for item in shown])
        similarity = _similarity(self.encoder, texts, case, Side.INPUT, description)
        labels = [1] * len(active) + [0] * (len(shown) - len(active))
        metrics = {
            "average_precision": average_precision(labels, similarity),
            "base": len(active) / len(labels),
        }
        return Grade(auroc(labels, similarity), metrics)


def _similarity(encoder: SentenceEncoder, texts: Floats, case: JudgeCase, side: Side, description: str) -> Floats:
    """Return the cosine of embedded texts and a description, (texts,).

    Of an extractive description, only the tokens that count for the neuron are embedded, because the encoder does not
    understand that others count against it. If it has only such, the cosine with these is negated.
    """
    tokens, sign, embedded = case.tokens.get(description), 1, description
    if tokens is not None:
        raising, lowering = tokens.of_side(side)
        sign, embedded = (1, ", ".join(raising)) if raising else (-1, ", ".join(lowering))
    return np.asarray(sign * (texts @ encoder.encode([embedded])[0]))


def _words(tokens: Sequence[ScoredToken]) -> list[str]:
    """Return the distinct tokens that contain a letter or digit, without word-piece marks."""
    return list(dict.fromkeys(text for token in tokens if is_word(text := bare(token.token))))
