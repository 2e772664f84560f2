"""Judges that need no LLM: a description is as good as its embedding tells activating text from other text.

Source: Paulo et al. 2024, arXiv:2410.13928 (embedding scoring). A description and a piece of text are compared by the
cosine of their sentence embeddings. The encoder sees topics and words; it does not see positions, syntax or spelling,
and it cannot read a negation: verdicts are to be read with that in mind.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import Comparator, Grade, JudgeCase, Judgement, Scorer
from harness.records import Exemplar, Split, Status, Winner
from judges.evidence import active_and_silent, excerpt, pearson, top_and_random, varies
from judges.excerpts import Excerpts

Floats = NDArray[np.floating]


class EmbeddingPairwise(Comparator):
    """Prefers the description that separates held-out activating from silent text better (AUC of the similarity).

    Args:
        encoder: the sentence encoder.
        windows: activating windows, and at most so many silent ones.
        context: tokens on either side of a window's peak.
        silent_fraction: a random window is silent if its peak is below this share of the lowest activating one's.
        tie_margin: smallest difference in AUC that is a preference.
    """

    symmetric = True

    def __init__(
        self,
        encoder: SentenceEncoder,
        windows: int = 20,
        context: int = 12,
        silent_fraction: float = 0.5,
        tie_margin: float = 0.01,
    ) -> None:
        self.encoder = encoder
        self._windows, self._context, self._silent_fraction, self._margin = (
            windows,
            context,
            silent_fraction,
            tie_margin,
        )

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two AUCs."""
        active, silent = active_and_silent(case, self._windows, self._silent_fraction)
        texts = self.encoder.encode([excerpt(item, self._context) for item in [*active, *silent]])
        labels = [1] * len(active) + [0] * len(silent)
        one, two = (float(roc_auc_score(labels, texts @ vector)) for vector in self.encoder.encode([first, second]))
        winner = Winner.TIE if abs(one - two) < self._margin else Winner.FIRST if one > two else Winner.SECOND
        evidence = f"{len(active)} activating and {len(silent)} silent windows"
        return Judgement(winner, f"AUC {one:.3f} against {two:.3f} on {evidence}")


class EmbeddingSimulation(Scorer):
    """Takes the similarity of description and window as the predicted activation, and correlates it with the true one.

    The value is Pearson's r, signed, over the report split's top and random windows together; ``top`` and ``random``
    stand beside it for each source alone. Below zero a window belongs to the neuron's other sign: its true activation
    is 0. Where the similarity does not vary r is 0, and ``constant`` is 1 then, else 0.

    Args:
        encoder: the sentence encoder.
        context: tokens on either side of a window's peak.
    """

    def __init__(self, encoder: SentenceEncoder, context: int = 12) -> None:
        self.encoder, self._context = encoder, context

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Correlate; raises ``Unanswered`` if the neuron's activations do not vary, whatever the description."""
        groups = top_and_random(case, Split.REPORT)
        everything = self._compared(description, [item for group in groups.values() for item in group])
        value = pearson(*everything)
        if value is None:
            raise Unanswered(Status.FAILED, "the neuron's activations do not vary over the report split")
        parts = {source.value: pearson(*self._compared(description, group)) for source, group in groups.items()}
        metrics = {name: part for name, part in parts.items() if part is not None}
        return Grade(value, {**metrics, "constant": float(not varies(everything[0]))})

    def _compared(self, description: str, exemplars: Sequence[Exemplar]) -> tuple[Floats, Floats]:
        """Return the predicted and the true activations."""
        true = np.array([max(item.activation, 0.0) for item in exemplars])
        if not len(true):
            return true, true
        texts = self.encoder.encode([excerpt(item, self._context) for item in exemplars])
        return texts @ self.encoder.encode([description])[0], true


class EmbeddingDetection(Scorer):
    """Scores a description by how well its similarity to excerpts tells activating from silent ones.

    The value is the AUC of the cosine similarity: from 0 to 1, chance 0.5. ``average_precision`` is from 0 to 1, chance
    the share of activating excerpts, ``base``. Excerpts that activate the neuron less stand among them too, where the
    run keeps such (``Source.QUANTILE``).

    Args:
        encoder: the sentence encoder.
        active: activating excerpts, spread evenly over the activations of the top and quantile windows.
        silent: silent excerpts, at most.
        context: tokens on either side of an excerpt's peak.
        active_share: a window activates the neuron if its peak reaches this share of the highest one.
        silent_fraction: a random window is silent if its peak is below this share of the lowest activating one shown.
    """

    def __init__(
        self,
        encoder: SentenceEncoder,
        active: int = 20,
        silent: int = 40,
        context: int = 12,
        active_share: float = 0.3,
        silent_fraction: float = 0.5,
    ) -> None:
        self.encoder = encoder
        self._excerpts = Excerpts(active, silent, context, active_share, silent_fraction)

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Compare similarities."""
        active, silent = self._excerpts.draw(case)
        texts = self.encoder.encode([excerpt(item, self._excerpts.context) for item in [*active, *silent]])
        similarity = texts @ self.encoder.encode([description])[0]
        labels = [1] * len(active) + [0] * len(silent)
        metrics = {
            "average_precision": float(average_precision_score(labels, similarity)),
            "base": len(active) / len(labels),
        }
        return Grade(float(roc_auc_score(labels, similarity)), metrics)
