"""A comparator that needs no LLM and looks at the output side: what the neuron writes, not what it reads.

The embedding score of Paulo et al. 2024 (arXiv:2410.13928) turned to the other side of the neuron: the tokens that its
output weights promote are the positives, those that they suppress the negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import roc_auc_score

from harness.embedding import SentenceEncoder
from harness.llm.client import Unanswered
from harness.methods import Comparator, JudgeCase, Judgement
from harness.records import ScoredToken, Side, Status, Winner
from judges.evidence import written


class EmbeddingOutput(Comparator):
    """Prefers the description whose embedding tells promoted from suppressed tokens better (AUC of the similarity).

    A describer that reads the projection of the output weights has seen these very tokens: a neuron has one output
    vector, and nothing of it can be held out. Read its verdicts on such describers as an upper bound, and beside those
    of the input side; where the subject is causal, take measured effects on held-out text.

    Args:
        encoder: the sentence encoder.
        effects: whether to take the tokens that clamping the neuron promotes and suppresses over text of the report
            split, which a causal subject must be able to write, instead of the projection of its output weights.
        tokens: tokens taken from each end of the projection.
        final_norm: whether the final norm is applied to the output weights first, where the model has one.
        tie_margin: smallest difference in AUC that is a preference.
    """

    symmetric = True
    side = Side.OUTPUT

    def __init__(
        self,
        encoder: SentenceEncoder,
        effects: bool = False,
        tokens: int = 40,
        final_norm: bool = True,
        tie_margin: float = 0.01,
    ) -> None:
        self.encoder, self.needs_effects = encoder, effects
        self._tokens, self._final_norm, self._margin = tokens, final_norm, tie_margin

    async def compare(self, case: JudgeCase, first: str, second: str) -> Judgement:
        """Compare the two AUCs."""
        ends = written(case, self._tokens, measured=self.needs_effects, final_norm=self._final_norm)
        promoted, suppressed = map(_words, ends)
        if not promoted or not suppressed:
            raise Unanswered(Status.FAILED, "the neuron promotes or suppresses no token with a letter or a digit")
        tokens = self.encoder.encode([*promoted, *suppressed])
        labels = [1] * len(promoted) + [0] * len(suppressed)
        one, two = (float(roc_auc_score(labels, tokens @ vector)) for vector in self.encoder.encode([first, second]))
        winner = Winner.TIE if abs(one - two) < self._margin else Winner.FIRST if one > two else Winner.SECOND
        return Judgement(
            winner,
            f"AUC {one:.3f} against {two:.3f} on {len(promoted)} promoted and {len(suppressed)} suppressed tokens",
        )


def _words(tokens: Sequence[ScoredToken]) -> list[str]:
    """Return the distinct tokens that say something to an encoder, word-piece marks stripped."""
    texts = (token.token.strip().removeprefix("##").strip() for token in tokens)
    return list(dict.fromkeys(text for text in texts if any(map(str.isalnum, text))))
