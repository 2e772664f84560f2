"""An LLM writes text that fits a description; is the neuron active on it?

Source: Gur-Arieh et al. 2025, arXiv:2501.08319 (input-based evaluation).
"""

from __future__ import annotations

import numpy as np

from harness.llm.client import Unanswered
from harness.llm.prompts import Prompt
from harness.methods import Grade, JudgeCase, Scorer
from harness.records import Status
from harness.validation import Count, validated
from judges.accuracy import auroc
from judges.numbered import SENTENCE_TOKENS, Sentence, ask_numbered


class InputBased(Scorer):
    """Scores a description by whether sentences that fit it activate the neuron more than neutral ones.

    The value is 1 if the mean of the sentences' highest activations is higher for the fitting ones, else 0: chance 0.5.
    Averaged over neurons, it is the published success rate. ``auc`` (from 0 to 1, chance 0.5) is the probability that a
    fitting sentence activates the neuron more than a neutral one; ``activating`` and ``neutral`` are the two means.
    """

    prompt = Prompt("judges", "prompts/input_based.j2")

    @validated
    def __init__(self, role: str = "judge", sentences: Count = 5) -> None:
        self.role, self._sentences = role, sentences

    async def score(self, case: JudgeCase, description: str) -> Grade:
        """Have the LLM write the sentences, and read them."""
        messages = self.prompt.render(description=case.shown(description), count=self._sentences)
        written = await ask_numbered(
            case.require_llm(),
            messages,
            "sentence",
            2 * self._sentences,
            Sentence,
            reason=False,
            item_tokens=SENTENCE_TOKENS,
        )
        read = await case.read(written)
        if not all(item.activations for item in read):
            raise Unanswered(Status.UNPARSED, "the LLM wrote a sentence without any token that the subject knows")
        peaks = np.array([item.activation for item in read])
        fitting, neutral = peaks[: self._sentences], peaks[self._sentences :]
        labels = [1] * self._sentences + [0] * self._sentences
        metrics = {
            "auc": auroc(labels, peaks),
            "activating": float(fitting.mean()),
            "neutral": float(neutral.mean()),
        }
        return Grade(float(fitting.mean() > neutral.mean()), metrics)
