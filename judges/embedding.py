"""Judges without an LLM: a good description's embedding separates activating text from other text.

Source: Paulo et al. 2024, arXiv:2410.13928 (embedding scoring). A description and a text are compared by the cosine of
their sentence embeddings. The encoder captures topics and words. It does not capture positions, syntax or spelling, and
it does not understand negations, which limits what these judges can measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic.dataclasses import dataclass

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import ScoredToken, Side, Status
from harness.text import bare, is_word
from harness.validation import METHOD, Count, CountOrZero, NonNegative
from judges.accuracy import Floats, auroc, preferred, varies
from judges.evidence import output_tokens
from judges.parts import Predicted
from judges.sampling import Sampler


@dataclass(config=METHOD, eq=False)
class _Similarity(Sampler):
    """How well the similarity of windows and a description predicts on which windows the neuron is active.

    The windows and their weights are those of :class:`judges.sampling.Sampler`.
    """

    encoder: SentenceEncoder
    active: Count = 20
    hard: CountOrZero = 10
    others: Count = 30
    context: CountOrZero = 12

    def metrics(self, case: JudgeCase, description: str) -> dict[str, float]:
        """Return :meth:`judges.sampling.Sample.metrics` of the similarity, and ``constant``: 1 if it does not vary.

        Raises:
            Unanswered: if the neuron has no active or no silent window.
        """
        sample = self.draw(case)
        texts = self.encoder.encode(sample.excerpts(self.context))
        similarity = _similarity(self.encoder, texts, case, Side.INPUT, description)
        return {**sample.metrics(similarity), "constant": float(not varies(similarity.best))}


@dataclass(config=METHOD, eq=False)
class EmbeddingDetection(_Similarity, Scorer):
    """Scores a description by how well its similarity to windows finds the active ones: average precision.

    The value is ``auprc``: from 0 to 1, chance ``base``. The metrics are those of :class:`_Similarity`.
    """

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Compare the similarities."""
        metrics = self.metrics(case, description)
        return Grade(metrics.pop("auprc"), metrics)


@dataclass(config=METHOD, eq=False)
class EmbeddingSimulation(_Similarity, Scorer):
    """Scores a description by the correlation of its similarity to windows with the activation.

    The value is ``pearson``: from -1 to 1, chance 0. The metrics are those of :class:`_Similarity`.
    """

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Compare the similarities with the activations."""
        metrics = self.metrics(case, description)
        return Grade(metrics.pop("pearson"), metrics)


@dataclass(config=METHOD, eq=False)
class EmbeddingPairwise(_Similarity, Comparator):
    """Prefers the description whose similarity to windows correlates better with the neuron's activation."""

    symmetric = True

    tie_margin: NonNegative = 0.001

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two correlations; a difference below the margin is a tie."""
        one, two = (self.metrics(case, description) for description in (first, second))
        reason = f"r {one['pearson']:.3f} against {two['pearson']:.3f}"
        if "auc_hard" in one:
            reason += f"; AUC against hard negatives {one['auc_hard']:.3f} and {two['auc_hard']:.3f}"
        return Judgement(preferred(one["pearson"], two["pearson"], self.tie_margin), reason)


@dataclass(config=METHOD, eq=False)
class EmbeddingOutput(Comparator):
    """Prefers the description that separates the tokens that the neuron promotes from those that it suppresses better.

    This applies embedding scoring to the output side: what the neuron writes, not what it reads. The preference is by
    AUC. A neuron has one output vector, so these tokens cannot be held out: a describer that reads their projection has
    seen them. Treat the verdicts on such a describer as an upper bound, next to those of the input side; on a causal
    subject, use measured effects on held-out text (``effects``).
    """

    symmetric = True
    side = Side.OUTPUT

    encoder: SentenceEncoder
    tie_margin: NonNegative = 0.01
    effects: bool = False
    tokens: Count = 40
    final_norm: bool = True

    def __post_init__(self) -> None:
        self.needs_effects = self.effects

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two AUCs; a difference below the margin is a tie."""
        (one, two), (promoted, suppressed) = self.separation(case, first, second)
        reason = f"AUC {one:.3f} against {two:.3f} on {promoted} promoted and {suppressed} suppressed tokens"
        return Judgement(preferred(one, two, self.tie_margin), reason)

    def separation(self, case: JudgeCase, *descriptions: str) -> tuple[list[float], tuple[int, int]]:
        """Return the AUC of each description, and the numbers of promoted and suppressed tokens.

        Raises:
            Unanswered: if one of the two is zero, or no effect was measured.
        """
        tails = output_tokens(case, self.tokens, measured=self.needs_effects, final_norm=self.final_norm)
        promoted, suppressed = map(_words, tails)
        if not promoted or not suppressed:
            raise Unanswered(Status.FAILED, "the neuron promotes or suppresses no token with a letter or a digit")
        texts = self.encoder.encode([*promoted, *suppressed])
        labels = [1] * len(promoted) + [0] * len(suppressed)
        found = [auroc(labels, _similarity(self.encoder, texts, case, self.side, text).best) for text in descriptions]
        return found, (len(promoted), len(suppressed))


def _similarity(encoder: SentenceEncoder, texts: Floats, case: JudgeCase, side: Side, description: str) -> Predicted:
    """Return the cosine of embedded texts and each part of a description.

    Of an extractive description, only the tokens that count for the neuron are embedded, because the encoder does not
    understand that others count against it. If it has only such, the cosine with these is negated.
    """

    def cosine(part: str) -> Floats:
        tokens, sign, embedded = case.tokens.get(part), 1, part
        if tokens is not None:
            raising, lowering = tokens.of_side(side)
            sign, embedded = (1, ", ".join(raising)) if raising else (-1, ", ".join(lowering))
        return np.asarray(sign * (texts @ encoder.encode([embedded])[0]))

    return Predicted.of(case, description, cosine, side)


def _words(tokens: Sequence[ScoredToken]) -> list[str]:
    """Return the distinct tokens that contain a letter or digit, without word-piece marks."""
    return list(dict.fromkeys(text for token in tokens if is_word(text := bare(token.token))))
